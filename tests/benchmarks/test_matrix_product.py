"""The floor of all arithmetic."""

from benchmarks import matrix_product


def test_every_library_multiplies_every_shape():
    """Rates of torch and numpy for each shape, fastest first."""
    rates = matrix_product.measure(threads=1, rounds=1)
    assert {(rate.library, rate.shape) for rate in rates} >= {
        (library, shape) for library in ("torch", "numpy") for shape in matrix_product.SHAPES
    }
    found = [rate.multiply_adds_per_second for rate in rates]
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0


def test_a_library_that_fails_is_left_out(monkeypatch):
    """Its process ends with an error, as where OpenBLAS is told a type that the CPU is not; that is no result."""
    monkeypatch.setattr(matrix_product.sys, "executable", "/bin/false")
    assert matrix_product.measure() == []
