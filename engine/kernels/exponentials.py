"""Exponentials and logarithms of float32, and what is made of them in whole vectors."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from engine.kernels.instructions import (
    FLOAT,
    INT,
    LANES,
    LONG,
    accumulate,
    at,
    bits_of_float,
    call,
    float_of_bits,
    pointer,
    splat,
)

_LOWEST = -87.0
_LOG2_E = 1.4426950408889634
_LN_2 = 0.693359375, -2.12194440e-4
"""ln 2 in two parts, of which the first has few bits: its multiples are exact."""

_SQRT_HALF = np.float32(0.70710678)
_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
_VECTOR = ir.VectorType(FLOAT, LANES)


def _exponential(builder: Any, x: Any) -> Any:
    """e^x of a number or a vector.

    2^n · 2^f with a polynomial for f in [−½, ½] (Cephes, expf).
    """
    many = isinstance(x.type, ir.VectorType)

    def number(value: float, kind: Any = FLOAT) -> Any:
        return ir.Constant(ir.VectorType(kind, LANES), [value] * LANES) if many else ir.Constant(kind, value)

    def own(name: str, *arguments: Any) -> Any:
        return call(builder, f"llvm.{name}.{f'v{LANES}' if many else ''}f32", x.type, list(arguments))

    counts = builder.fcmp_ordered(">", x, number(_LOWEST))
    clipped = builder.select(counts, x, number(_LOWEST))
    n = own("floor", own("fma", clipped, number(_LOG2_E), number(0.5)))
    f = own("fma", n, number(-_LN_2[0]), clipped)
    f = own("fma", n, number(-_LN_2[1]), f)
    p = number(_EXP[0])
    for coefficient in _EXP[1:]:
        p = own("fma", p, f, number(coefficient))
    fraction = own("fma", builder.fmul(f, f), p, builder.fadd(f, number(1.0)))
    whole = builder.fptosi(n, number(0, INT).type)
    power = builder.shl(builder.add(whole, number(127, INT)), number(23, INT))
    return builder.select(counts, builder.fmul(fraction, builder.bitcast(power, x.type)), number(0.0))


@intrinsic
def _exp(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _exponential(builder, arguments[0])

    return types.float32(types.float32), generate


@njit(nogil=True, cache=True, inline="always")
def exp(x):
    """e^x for float32 x ≤ 88, within 2 units of its last place; 0 below −87. In a loop LLVM makes vectors of it."""
    return _exp(x)


@njit(nogil=True, cache=True, inline="always", fastmath={"contract"})
def log(x):
    """The natural logarithm of a float32 that is positive and normal, within 2 units of its last place.

    In a loop LLVM makes vectors of it: 2^n · f with f in [√½, √2) and a polynomial for ln f (Cephes, logf).
    """
    bits = bits_of_float(x)
    n = np.float32((bits >> np.int32(23)) - np.int32(126))
    f = float_of_bits((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000))
    low = f < _SQRT_HALF
    n = n - np.float32(1) if low else n
    f = f + f - np.float32(1) if low else f - np.float32(1)
    square = f * f
    p = np.float32(7.0376836292e-2)
    p = p * f - np.float32(1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f - np.float32(1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f - np.float32(1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f - np.float32(2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    return n * np.float32(_LN_2[0]) + (f + (p * f * square + n * np.float32(_LN_2[1]) - np.float32(0.5) * square))


@intrinsic
def add_and_find_largest(typing: Any, z: Any, count: Any, biases: Any, own: Any, peaks: Any) -> Any:
    """z[h] += biases[h] + own, and peaks becomes the largest of peaks and all z[h].

    z: float32[count, LANES], biases: float32[count], own and peaks: float32[LANES].
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        z, count, biases, own, peaks = arguments
        z, biases, own, peaks = (pointer(builder, address, FLOAT) for address in (z, biases, own, peaks))
        own = builder.load(at(builder, own, LONG(0), _VECTOR), align=4)
        peaks_at = at(builder, peaks, LONG(0), _VECTOR)

        def body(h: Any, carried: list[Any]) -> list[Any]:
            place = at(builder, z, builder.mul(h, LONG(LANES)), _VECTOR)
            bias = builder.fadd(splat(builder, builder.load(builder.gep(biases, [h]))), own)
            logits = builder.fadd(builder.load(place, align=4), bias)
            builder.store(logits, place, align=4)
            return [builder.select(builder.fcmp_ordered(">", logits, carried[0]), logits, carried[0])]

        builder.store(accumulate(builder, count, [builder.load(peaks_at, align=4)], body)[0], peaks_at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@intrinsic
def exponentiate(typing: Any, z: Any, count: Any, biases: Any, peaks: Any, totals: Any, weighted: Any) -> Any:
    """z[h] becomes e^(z[h] − peaks); totals gets all of them added, weighted each times what z[h] − biases[h] was.

    z: float32[count, LANES], biases: float32[count], peaks, totals and weighted: float32[LANES].
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        z, count, *addresses = arguments
        z, biases, *addresses = (pointer(builder, address, FLOAT) for address in (z, *addresses))
        peaks_at, *sums_at = (at(builder, address, LONG(0), _VECTOR) for address in addresses)
        peaks, nothing = builder.load(peaks_at, align=4), ir.Constant(_VECTOR, [0.0] * LANES)

        def body(h: Any, sums: list[Any]) -> list[Any]:
            place = at(builder, z, builder.mul(h, LONG(LANES)), _VECTOR)
            logits = builder.load(place, align=4)
            part = _exponential(builder, builder.fsub(logits, peaks))
            builder.store(part, place, align=4)
            product = builder.fsub(logits, splat(builder, builder.load(builder.gep(biases, [h]))))
            weighted = builder.select(builder.fcmp_ordered(">", part, nothing), builder.fmul(part, product), nothing)
            return [builder.fadd(sums[0], part), builder.fadd(sums[1], weighted)]

        sums = accumulate(builder, count, [builder.load(place, align=4) for place in sums_at], body)
        for total, place in zip(sums, sums_at, strict=True):
            builder.store(total, place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate
