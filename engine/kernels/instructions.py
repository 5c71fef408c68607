"""Vector instructions for numba: what its own compiler does not find in a loop, written in LLVM's language.

Each function here emits code for fixed vector types, which LLVM fits to the CPU at hand, whatever its width. Addresses
are integers (`array.ctypes.data`), strides count elements, nothing is checked: only kernels call these.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOAT, _BYTE, _SHORT, _INT, _LONG = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FEATURES = llvm.get_host_cpu_features()

LANES = 16
"""Elements of one vector: a whole register of the widest CPUs, several of the others'."""

TILE_ROWS = 8 if _FEATURES.get("avx512f") else 4
"""Rows of a tile of a product: with `TILE_COLUMNS`, as many accumulators as there are registers for."""

TILE_COLUMNS = 2 * LANES if _FEATURES.get("avx512f") else LANES

CENTRES = 8
"""Centres that one scan of a group of rows serves."""

_DOT_BYTES = "llvm.x86.avx512.vpdpbusd.512" if _FEATURES.get("avx512vnni") else None


def _splat(builder: Any, value: Any) -> Any:
    """A vector of LANES copies of a scalar."""
    single = builder.insert_element(ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """The address ``offset`` elements behind ``base``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _accumulate(builder: Any, count: Any, zero: Any, places: int, body: Callable[[Any, list[Any]], list[Any]]) -> Any:
    """A loop over ``count`` ≥ 1 that carries ``places`` vectors, in registers: ``body(i, carried)`` gives the next."""
    entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(_LONG)
    carried = [builder.phi(zero.type) for _ in range(places)]
    following = body(i, carried)
    next_i = builder.add(i, _LONG(1))
    i.add_incoming(_LONG(0), entry)
    i.add_incoming(next_i, loop)
    for phi, value in zip(carried, following, strict=True):
        phi.add_incoming(zero, entry)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", next_i, count), loop, done)
    builder.position_at_end(done)
    return following


def _multiplication(across: int) -> Any:
    """out[TILE_ROWS, across · LANES] = a[TILE_ROWS, depth] · b[depth, across · LANES], all float32.

    A row of the result is summed in the order of the depth, whatever the other rows are: equal rows, equal bits.
    """
    vector = ir.VectorType(_FLOAT, LANES)

    def generate(context, builder, signature, arguments):
        a, a_stride, b, b_stride, out, out_stride, depth = arguments
        a, b, out = (builder.inttoptr(address, _FLOAT.as_pointer()) for address in (a, b, out))
        kind = ir.FunctionType(vector, [vector] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")

        def body(k: Any, sums: list[Any]) -> list[Any]:
            start = builder.mul(k, b_stride)
            columns = [
                builder.load(_at(builder, b, builder.add(start, _LONG(j * LANES)), vector), align=4)
                for j in range(across)
            ]
            following = []
            for row in range(TILE_ROWS):
                place = builder.add(builder.mul(_LONG(row), a_stride), k)
                value = _splat(builder, builder.load(builder.gep(a, [place])))
                following += [builder.call(fused, [value, columns[j], sums[row * across + j]]) for j in range(across)]
            return following

        zero = ir.Constant(vector, [0.0] * LANES)
        sums = _accumulate(builder, depth, zero, TILE_ROWS * across, body)
        for row in range(TILE_ROWS):
            for j in range(across):
                place = builder.add(builder.mul(_LONG(row), out_stride), _LONG(j * LANES))
                builder.store(sums[row * across + j], _at(builder, out, place, vector), align=4)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing, a, a_stride, b, b_stride, out, out_stride, depth):
        return types.void(*[types.intp] * 7), generate

    return multiply


multiply_tile = _multiplication(TILE_COLUMNS // LANES)
multiply_column = _multiplication(1)


@intrinsic
def scan_group(
    typing: Any, group: Any, centres: Any, stride: Any, floors: Any, out: Any, above: Any, quads: Any
) -> Any:
    """Inner products of LANES rows with CENTRES centres, and which of them are above their centre's floor.

    group: uint8[quads, LANES, 4], four dimensions of each row after the other. centres: int8[CENTRES, stride].
    floors: int32[CENTRES]. out: int32[CENTRES, LANES]. above: uint16[CENTRES], one bit a row.
    """
    sums_type, bytes_type = ir.VectorType(_INT, LANES), ir.VectorType(_BYTE, 4 * LANES)

    def generate(context, builder, signature, arguments):
        group, centres, stride, floors, out, above, quads = arguments
        group, centres = (builder.inttoptr(address, _BYTE.as_pointer()) for address in (group, centres))
        floors, out = (builder.inttoptr(address, _INT.as_pointer()) for address in (floors, out))
        above = builder.inttoptr(above, _SHORT.as_pointer())

        def body(quad: Any, sums: list[Any]) -> list[Any]:
            rows = builder.load(_at(builder, group, builder.mul(quad, _LONG(4 * LANES)), bytes_type), align=1)
            following = []
            for c in range(CENTRES):
                place = builder.add(builder.mul(_LONG(c), stride), builder.mul(quad, _LONG(4)))
                four = _splat(builder, builder.load(_at(builder, centres, place, _INT), align=1))
                following.append(_dot_quads(builder, sums[c], rows, builder.bitcast(four, bytes_type)))
            return following

        sums = _accumulate(builder, quads, ir.Constant(sums_type, [0] * LANES), CENTRES, body)
        for c in range(CENTRES):
            floor = _splat(builder, builder.load(builder.gep(floors, [_LONG(c)])))
            builder.store(sums[c], _at(builder, out, _LONG(c * LANES), sums_type), align=4)
            bits = builder.bitcast(builder.icmp_signed(">", sums[c], floor), _SHORT)
            builder.store(bits, builder.gep(above, [_LONG(c)]))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


def _dot_quads(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """Add to int32[LANES] the products of uint8[LANES, 4] and int8[LANES, 4], summed over each four."""
    if _DOT_BYTES:
        kind = ir.FunctionType(sums.type, [sums.type, unsigned.type, signed.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, _DOT_BYTES), [sums, unsigned, signed])
    wide = ir.VectorType(_INT, 4 * LANES)
    products = builder.mul(builder.zext(unsigned, wide), builder.sext(signed, wide))
    for part in range(4):
        every_fourth = ir.Constant(ir.VectorType(_INT, LANES), [4 * lane + part for lane in range(LANES)])
        sums = builder.add(sums, builder.shuffle_vector(products, products, every_fourth))
    return sums


@intrinsic
def float_of_bits(typing, bits):
    """The float32 whose bits are this int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def lowest_bit(typing, bits):
    """The place of the lowest bit that is set in a uint16; 16 where none is."""

    def generate(context, builder, signature, arguments):
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0)), _LONG)

    return types.int64(types.uint16), generate
