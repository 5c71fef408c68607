"""Tiles of a product of float32 matrices that stay in a CPU's registers while they are summed."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.instructions import FEATURES, FLOAT, INT, LANES, LONG, accumulate, at, call, pointer, splat

TILE_ROWS = 8 if FEATURES.get("avx512f") else 4
"""Rows of a tile of a product: with `TILE_COLUMNS`, as many accumulators as there are registers for."""

TILE_COLUMNS = 2 * LANES if FEATURES.get("avx512f") else LANES

QUAD = 4
"""Rows and dimensions that lie together in what rows of a table are multiplied with: a vector of LANES numbers."""

TABLE_ROWS = 8 if FEATURES.get("avx512f") else 4
"""Rows of a table that are multiplied together."""

QUADS = 2 if FEATURES.get("avx512f") else 1
"""Quads that they are multiplied with together, where there are so many."""

_VECTOR = ir.VectorType(FLOAT, LANES)


def _multiplication(across: int) -> Any:
    """out[TILE_ROWS, across · LANES] = start + a[TILE_ROWS, depth] · b[depth, across · LANES], all float32.

    Row r starts from the vector r · start_stride behind ``start``: a row of biases for all with a stride of 0, or what
    ``out`` holds. A row of the result is summed in the order of the depth, whatever the other rows are: equal rows,
    equal bits.
    """
    tiles = [(row, j) for row in range(TILE_ROWS) for j in range(across)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_stride, b, b_stride, start, start_stride, out, out_stride, depth = arguments
        a, b, start, out = (pointer(builder, address, FLOAT) for address in (a, b, start, out))

        def place(base: Any, stride: Any, row: int, j: int) -> Any:
            return at(builder, base, builder.add(builder.mul(LONG(row), stride), LONG(j * LANES)), _VECTOR)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            first = builder.mul(k, b_stride)
            columns = [
                builder.load(at(builder, b, builder.add(first, LONG(j * LANES)), _VECTOR), align=4)
                for j in range(across)
            ]
            following = []
            for row in range(TILE_ROWS):
                value = builder.load(builder.gep(a, [builder.add(builder.mul(LONG(row), a_stride), k)]))
                value = splat(builder, value)
                following += [
                    call(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [value, columns[j], sums[row * across + j]])
                    for j in range(across)
                ]
            return following

        initial = [builder.load(place(start, start_stride, row, j), align=4) for row, j in tiles]
        sums = accumulate(builder, depth, initial, body)
        for (row, j), value in zip(tiles, sums, strict=True):
            builder.store(value, place(out, out_stride, row, j), align=4)
        return context.get_dummy_value()

    @intrinsic
    def multiply(
        typing: Any, a: Any, a_stride: Any, b: Any, b_stride: Any, start: Any, start_stride: Any, out: Any,
        out_stride: Any, depth: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.intp] * 9), generate

    return multiply


multiply_tile = _multiplication(TILE_COLUMNS // LANES)
multiply_column = _multiplication(1)


def _multiplication_of_rows(together: int, across: int) -> Any:
    """out[across · together, TABLE_ROWS] = inner products of rows of a table with others, all float32.

    rows: int64[TABLE_ROWS], of the table float32[…, stride]. others: float32[across, depth, together, LANES /
    together], of so many others that many dimensions after each other; rows are read to the last of these dimensions.
    Each inner product is summed in the same order, whatever else is there: equal rows, equal bits.
    """
    tiles = [(row, part) for row in range(TABLE_ROWS) for part in range(across)]
    dimensions = LANES // together
    several = ir.VectorType(FLOAT, dimensions)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, stride, rows, others, others_stride, depth, out, out_stride = arguments
        table, others, out = (pointer(builder, address, FLOAT) for address in (table, others, out))
        rows = pointer(builder, rows, LONG)
        numbers = [builder.load(builder.gep(rows, [LONG(row)])) for row in range(TABLE_ROWS)]
        begins = [builder.gep(table, [builder.mul(number, stride)]) for number in numbers]
        repeated = ir.Constant(ir.VectorType(INT, LANES), list(range(dimensions)) * together)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            columns = []
            for part in range(across):
                place = builder.add(builder.mul(k, LONG(LANES)), builder.mul(others_stride, LONG(part)))
                columns.append(builder.load(at(builder, others, place, _VECTOR), align=4))
            following = []
            for row, begin in enumerate(begins):
                value = builder.load(at(builder, begin, builder.mul(k, LONG(dimensions)), several), align=4)
                value = builder.shuffle_vector(value, value, repeated)
                following += [
                    call(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [value, columns[part], sums[row * across + part]])
                    for part in range(across)
                ]
            return following

        sums = accumulate(builder, depth, [ir.Constant(_VECTOR, [0.0] * LANES)] * len(tiles), body)
        for part in range(across):
            # Of each row its product with the first other, with the second and so on, in one or two vectors.
            products = _summed(builder, [sums[row * across + part] for row in range(TABLE_ROWS)], dimensions)
            for other in range(together):
                places = [together * row + other for row in range(TABLE_ROWS)]
                mine = ir.Constant(ir.VectorType(INT, TABLE_ROWS), places)
                line = builder.shuffle_vector(products[0], products[-1], mine)
                place = builder.mul(LONG(part * together + other), out_stride)
                builder.store(line, at(builder, out, place, line.type), align=4)
        return context.get_dummy_value()

    @intrinsic
    def multiply(
        typing: Any, table: Any, stride: Any, rows: Any, others: Any, others_stride: Any, depth: Any, out: Any,
        out_stride: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.intp] * 8), generate

    return multiply


def _summed(builder: Any, vectors: list[Any], count: int) -> list[Any]:
    """Every ``count`` neighbours in vectors, a power of two, added up: what is left of all of them, in their order."""
    while count > 1:
        several, width = len(vectors) > 1, vectors[0].type.count
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if several else [(vectors[0], vectors[0])]
        left = range(width if several else width // 2)
        even, odd = (
            ir.Constant(ir.VectorType(INT, len(left)), [2 * place + first for place in left]) for first in (0, 1)
        )
        vectors = [
            builder.fadd(builder.shuffle_vector(one, other, even), builder.shuffle_vector(one, other, odd))
            for one, other in pairs
        ]
        count //= 2
    return vectors


multiply_rows_by_quads = _multiplication_of_rows(QUAD, QUADS)
multiply_rows_by_quad = _multiplication_of_rows(QUAD, 1)
multiply_rows_by_three = _multiplication_of_rows(1, 3)
multiply_rows_by_two = _multiplication_of_rows(1, 2)
multiply_rows_by_one = _multiplication_of_rows(1, 1)
