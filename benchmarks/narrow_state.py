"""The items' state in fewer bytes, for kernels that widen a value where they read it.

What `widen` reads is chosen by the state's type when a kernel is compiled: a float32 array is read as it is.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from engine.kernels.instructions import float_of_bits
from engine.kernels.scan import ZERO
from engine.sketch import Sketch


class Bfloat16(NamedTuple):
    """bits: uint16[rows, S], the upper half of a float32's."""

    bits: np.ndarray


class Float16(NamedTuple):
    """bits: uint16[rows, S]."""

    bits: np.ndarray


class Int8(NamedTuple):
    """The codes and scales of a `Sketch`, which are there anyway: codes uint8[rows, ≥ S], scales float32[S]."""

    codes: np.ndarray
    scales: np.ndarray


State: TypeAlias = np.ndarray | Bfloat16 | Float16 | Int8


def narrowed(state: torch.Tensor, sketch: Sketch) -> dict[str, State]:
    """The state float32[rows, S] at every precision, by name."""
    bits = (state.to(dtype).view(torch.int16).numpy().view(np.uint16) for dtype in (torch.bfloat16, torch.float16))
    brain, half = bits
    return {
        "float32": state.numpy(),
        "bfloat16": Bfloat16(brain),
        "float16": Float16(half),
        "int8": Int8(sketch.codes, sketch.scales),
    }


def array_of(state: State) -> np.ndarray:
    """The array of the state that is read row by row."""
    return state if isinstance(state, np.ndarray) else state[0]


@overload(array_of, inline="always")
def _array_of(state):  # type: ignore[no-untyped-def]
    if isinstance(state, types.Array):
        return lambda state: state
    return lambda state: state[0]


def widen(state: State, row: int, out: np.ndarray) -> None:
    """Write ``state[row]`` into float32[S]. Kernels have a version of it for each kind of state."""
    _widen_compiled(state, row, out)


@njit
def _widen_compiled(state, row, out):  # type: ignore[no-untyped-def]
    widen(state, row, out)


@overload(widen)
def _widen(state, row, out):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def read_bfloat16(state, row, out):  # type: ignore[no-untyped-def]
        for d in range(len(out)):
            out[d] = float_of_bits(np.int32(np.uint32(state.bits[row, d]) << np.uint32(16)))  # type: ignore[call-arg]

    def read_float16(state, row, out):  # type: ignore[no-untyped-def]
        for d in range(len(out)):
            out[d] = _float_of_half(state.bits[row, d])  # type: ignore[call-arg]

    def read_int8(state, row, out):  # type: ignore[no-untyped-def]
        for d in range(len(out)):
            out[d] = np.float32(np.int32(state.codes[row, d]) - ZERO) * state.scales[d]

    def read_float32(state, row, out):  # type: ignore[no-untyped-def]
        for d in range(len(out)):
            out[d] = state[row, d]

    readers = {Bfloat16: read_bfloat16, Float16: read_float16, Int8: read_int8}
    return readers.get(getattr(state, "instance_class", np.ndarray), read_float32)


@intrinsic
def _float_of_half(typing, bits):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """The float32 of the float16 whose bits are this uint16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate
