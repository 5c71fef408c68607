"""Inner products of bytes: of two rows, and of a block of rows with a block of centres, as a scan needs them.

A block is made by the CPU's matrix unit where it has one (Intel's AMX), else by its vectors, with which a whole scan
takes one and a half to three times as long.
"""

import ctypes
import platform
import sys
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.instructions import (
    BYTE,
    FEATURES,
    INT,
    LANES,
    LONG,
    NOTHING,
    accumulate,
    at,
    call,
    pointer,
    splat,
)

CENTRES = 16 if FEATURES.get("amx-int8") else 8
"""Centres of a block: as many as the matrix unit takes, or as vectors have sums for."""

GROUPS = 4
"""Groups of LANES rows of a block: as many rows as a uint64 has bits, one for each."""

MATRIX_QUADS = 16
"""Fours of dimensions that the matrix unit takes at once."""

_INTS, _BYTES = ir.VectorType(INT, LANES), ir.VectorType(BYTE, 4 * LANES)
_DOT_BYTES = "llvm.x86.avx512.vpdpbusd.512" if FEATURES.get("avx512vnni") else None
_SUMMED = (4, 4) if FEATURES.get("avx512f") else (1, 8)
"""Groups and centres whose sums fit a CPU's registers together."""

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def matrix_unit() -> np.ndarray | None:
    """What a thread sets the CPU's matrix unit up with, uint8[64]; None where there is none or Linux does not lend it.

    Eight registers of 16 rows of 64 bytes, as `LDTILECFG` reads them (Intel's manual, chapter "AMX").
    """
    if not (FEATURES.get("amx-int8") and sys.platform == "linux" and platform.machine() == "x86_64"):
        return None
    if ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) != 0:
        return None
    setup = np.zeros(64, np.uint8)
    setup[0] = 1
    setup[16:32:2] = 64
    setup[48:56] = 16
    return setup


@intrinsic
def set_up_matrix_unit(typing: Any, setup: Any, before: Any) -> Any:
    """Set this thread's matrix unit up as the 64 bytes at ``setup`` say; how it was goes to the 64 at ``before``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        setup, before = (pointer(builder, address) for address in arguments)
        call(builder, "llvm.x86.sttilecfg", NOTHING, [before])
        call(builder, "llvm.x86.ldtilecfg", NOTHING, [setup])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 2), generate


@intrinsic
def multiply_by_matrix_unit(typing: Any, groups: Any, quads: Any, centres: Any, stride: Any, out: Any) -> Any:
    """What `multiply_by_vectors` does, with quads a multiple of MATRIX_QUADS, once `set_up_matrix_unit` was called."""
    centres_in, sums_in, rows_in = BYTE(GROUPS), [BYTE(g) for g in range(GROUPS)], [BYTE(r) for r in range(5, 8)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        groups, quads, centres, stride, out = arguments
        groups, centres, out = (pointer(builder, address) for address in (groups, centres, out))

        def body(i: Any, nothing: list[Any]) -> list[Any]:
            part = builder.gep(centres, [builder.mul(i, LONG(4 * MATRIX_QUADS))])
            call(builder, "llvm.x86.tileloadd64", NOTHING, [centres_in, part, stride])
            for g in range(GROUPS):
                quad = builder.add(builder.mul(quads, LONG(g)), builder.mul(i, LONG(MATRIX_QUADS)))
                part, register = builder.gep(groups, [builder.mul(quad, LONG(4 * LANES))]), rows_in[g % len(rows_in)]
                call(builder, "llvm.x86.tileloadd64", NOTHING, [register, part, LONG(4 * LANES)])
                call(builder, "llvm.x86.tdpbsud", NOTHING, [sums_in[g], centres_in, register])
            return nothing

        for register in sums_in:
            call(builder, "llvm.x86.tilezero", NOTHING, [register])
        accumulate(builder, builder.sdiv(quads, LONG(MATRIX_QUADS)), [], body)
        for g, register in enumerate(sums_in):
            part = builder.gep(out, [LONG(4 * g * CENTRES * LANES)])
            call(builder, "llvm.x86.tilestored64", NOTHING, [register, part, LONG(4 * LANES)])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@intrinsic
def multiply_by_vectors(typing: Any, groups: Any, quads: Any, centres: Any, count: Any, stride: Any, out: Any) -> Any:
    """Inner products of GROUPS · LANES rows with ``count`` centres at least: out, int32[GROUPS, CENTRES, LANES].

    groups: uint8[GROUPS, quads, LANES, 4], four dimensions of each row after the other. centres: int8[CENTRES, stride].
    Where there are no centres any more nothing is written.
    """
    several, together = _SUMMED

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        groups, quads, centres, count, stride, out = arguments
        groups, centres, out = (pointer(builder, *each) for each in ((groups,), (centres,), (out, INT)))

        def multiply(group: int, centre: int) -> None:
            places = [(g, c) for g in range(group, group + several) for c in range(centre, centre + together)]

            def body(quad: Any, sums: list[Any]) -> list[Any]:
                rows, fours = {}, {}
                for g in range(group, group + several):
                    place = builder.mul(builder.add(quad, builder.mul(quads, LONG(g))), LONG(4 * LANES))
                    rows[g] = builder.load(at(builder, groups, place, _BYTES), align=1)
                for c in range(centre, centre + together):
                    place = builder.add(builder.mul(LONG(c), stride), builder.mul(quad, LONG(4)))
                    four = splat(builder, builder.load(at(builder, centres, place, INT), align=1))
                    fours[c] = builder.bitcast(four, _BYTES)
                pairs = ((rows[g], fours[c]) for g in rows for c in fours)
                return [_dot_quads(builder, total, *pair) for total, pair in zip(sums, pairs, strict=True)]

            sums = accumulate(builder, quads, [ir.Constant(_INTS, [0] * LANES)] * len(places), body)
            for (g, c), total in zip(places, sums, strict=True):
                builder.store(total, at(builder, out, LONG((g * CENTRES + c) * LANES), _INTS), align=4)

        for centre in range(0, CENTRES, together):
            with builder.if_then(builder.icmp_signed("<", LONG(centre), count)):
                for group in range(0, GROUPS, several):
                    multiply(group, centre)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def find_above(typing: Any, products: Any, floors: Any) -> Any:
    """For which centres any of the products int32[GROUPS, CENTRES, LANES] is above its floor, int32[CENTRES].

    One bit of a uint64 each.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products, floors = (pointer(builder, address, INT) for address in arguments)
        found = LONG(0)
        for c in range(CENTRES):
            largest, *others = (
                builder.load(at(builder, products, LONG((g * CENTRES + c) * LANES), _INTS), align=4)
                for g in range(GROUPS)
            )
            for other in others:
                largest = call(builder, f"llvm.smax.v{LANES}i32", _INTS, [largest, other])
            floor = splat(builder, builder.load(builder.gep(floors, [LONG(c)])))
            some = builder.icmp_unsigned("!=", _bits(builder, builder.icmp_signed(">", largest, floor)), LONG(0))
            found = builder.or_(found, builder.shl(builder.zext(some, LONG), LONG(c)))
        return found

    return types.uint64(*[types.intp] * 2), generate


@intrinsic
def rows_above(typing: Any, products: Any, centre: Any, floor: Any) -> Any:
    """Which of a centre's products, of int32[GROUPS, CENTRES, LANES], are above the floor, one bit of a uint64 each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products, found = pointer(builder, arguments[0], INT), LONG(0)
        floor = splat(builder, builder.trunc(arguments[2], INT))
        for g in range(GROUPS):
            place = builder.mul(builder.add(arguments[1], LONG(g * CENTRES)), LONG(LANES))
            above = builder.icmp_signed(">", builder.load(at(builder, products, place, _INTS), align=4), floor)
            found = builder.or_(found, builder.shl(_bits(builder, above), LONG(g * LANES)))
        return found

    return types.uint64(*[types.intp] * 3), generate


@intrinsic
def dot_bytes(typing: Any, unsigned: Any, signed: Any, length: Any) -> Any:
    """The inner product, an int32, of uint8[length] and int8[length] at two addresses; a multiple of 4 · LANES."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        unsigned, signed = (pointer(builder, address) for address in arguments[:2])

        def body(i: Any, sums: list[Any]) -> list[Any]:
            place = builder.mul(i, LONG(4 * LANES))
            left, right = (builder.load(at(builder, base, place, _BYTES), align=1) for base in (unsigned, signed))
            return [_dot_quads(builder, sums[0], left, right)]

        steps = builder.sdiv(arguments[2], LONG(4 * LANES))
        [sums] = accumulate(builder, steps, [ir.Constant(_INTS, [0] * LANES)], body)
        return call(builder, f"llvm.vector.reduce.add.v{LANES}i32", INT, [sums])

    return types.int32(*[types.intp] * 3), generate


def _bits(builder: Any, places: Any) -> Any:
    """A vector of LANES bits as a number."""
    return builder.zext(builder.bitcast(places, ir.IntType(LANES)), LONG)


def _dot_quads(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """Add to int32[LANES] the products of uint8[LANES, 4] and int8[LANES, 4], summed over each four."""
    if _DOT_BYTES:
        return call(builder, _DOT_BYTES, _INTS, [sums, unsigned, signed])
    wide = ir.VectorType(INT, 4 * LANES)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    for part in range(4):
        every_fourth = ir.Constant(_INTS, [4 * lane + part for lane in range(LANES)])
        sums = builder.add(sums, builder.shuffle_vector(products, products, every_fourth))
    return sums
