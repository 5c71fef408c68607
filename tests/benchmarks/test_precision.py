"""Narrow item state: kernels read from it what torch does."""

import numpy as np
import pytest
import torch

from benchmarks.narrow_state import narrowed, widen
from engine.sketch import Sketch


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "int8"])
def test_a_row_is_widened_as_torch_widens_it(name):
    """Bit for bit; at int8 within half a step of the sketch."""
    state = torch.randn(40, 12, generator=torch.Generator().manual_seed(3))
    sketch = Sketch(12)
    sketch.write(state, np.arange(40))
    out = np.empty((40, 12), np.float32)
    for row in range(40):
        widen(narrowed(state, sketch)[name], row, out[row])
    if name == "int8":
        assert (np.abs(out - state.numpy()) <= 0.501 * sketch.scales).all()
    else:
        np.testing.assert_array_equal(out, state.to(getattr(torch, name)).float().numpy())
