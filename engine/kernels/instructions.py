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

GROUPS = 2 if _FEATURES.get("avx512f") else 1
"""Groups of LANES rows that one step of a scan reads: with CENTRES, as many sums as there are registers for."""

_DOT_BYTES = "llvm.x86.avx512.vpdpbusd.512" if _FEATURES.get("avx512vnni") else None


def _splat(builder: Any, value: Any) -> Any:
    """A vector of LANES copies of a scalar."""
    single = builder.insert_element(ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """The address ``offset`` elements behind ``base``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _accumulate(builder: Any, count: Any, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> Any:
    """A loop over ``count`` ≥ 1 that carries vectors, in registers: ``body(i, carried)`` gives the next."""
    entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(_LONG)
    carried = [builder.phi(value.type) for value in initial]
    following = body(i, carried)
    next_i = builder.add(i, _LONG(1))
    i.add_incoming(_LONG(0), entry)
    i.add_incoming(next_i, loop)
    for phi, value, first in zip(carried, following, initial, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", next_i, count), loop, done)
    builder.position_at_end(done)
    return following


def _multiplication(across: int) -> Any:
    """out[TILE_ROWS, across · LANES] = start + a[TILE_ROWS, depth] · b[depth, across · LANES], all float32.

    Row r starts from the vector r · start_stride behind ``start``: a row of biases for all with a stride of 0, or what
    ``out`` holds. A row of the result is summed in the order of the depth, whatever the other rows are: equal rows,
    equal bits.
    """
    vector = ir.VectorType(_FLOAT, LANES)
    tiles = [(row, j) for row in range(TILE_ROWS) for j in range(across)]

    def generate(context, builder, signature, arguments):
        a, a_stride, b, b_stride, start, start_stride, out, out_stride, depth = arguments
        a, b, start, out = (builder.inttoptr(address, _FLOAT.as_pointer()) for address in (a, b, start, out))
        kind = ir.FunctionType(vector, [vector] * 3)
        fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")

        def place(base: Any, stride: Any, row: int, j: int) -> Any:
            return _at(builder, base, builder.add(builder.mul(_LONG(row), stride), _LONG(j * LANES)), vector)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            first = builder.mul(k, b_stride)
            columns = [
                builder.load(_at(builder, b, builder.add(first, _LONG(j * LANES)), vector), align=4)
                for j in range(across)
            ]
            following = []
            for row in range(TILE_ROWS):
                value = builder.load(builder.gep(a, [builder.add(builder.mul(_LONG(row), a_stride), k)]))
                value = _splat(builder, value)
                following += [builder.call(fused, [value, columns[j], sums[row * across + j]]) for j in range(across)]
            return following

        initial = [builder.load(place(start, start_stride, row, j), align=4) for row, j in tiles]
        sums = _accumulate(builder, depth, initial, body)
        for (row, j), value in zip(tiles, sums, strict=True):
            builder.store(value, place(out, out_stride, row, j), align=4)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing, a, a_stride, b, b_stride, start, start_stride, out, out_stride, depth):
        return types.void(*[types.intp] * 9), generate

    return multiply


multiply_tile = _multiplication(TILE_COLUMNS // LANES)
multiply_column = _multiplication(1)


@intrinsic
def scan_groups(
    typing: Any, groups: Any, centres: Any, stride: Any, floors: Any, out: Any, above: Any, quads: Any
) -> Any:
    """Inner products of GROUPS · LANES rows with CENTRES centres, and which of them are above their centre's floor.

    groups: uint8[GROUPS, quads, LANES, 4], four dimensions of each row after the other. centres: int8[CENTRES, stride].
    floors: int32[CENTRES]. out: int32[GROUPS, CENTRES, LANES]. above: uint16[GROUPS, CENTRES], one bit a row. Returns
    whether there is any.
    """
    sums_type, bytes_type = ir.VectorType(_INT, LANES), ir.VectorType(_BYTE, 4 * LANES)
    both = [(g, c) for g in range(GROUPS) for c in range(CENTRES)]

    def generate(context, builder, signature, arguments):
        groups, centres, stride, floors, out, above, quads = arguments
        groups, centres = (builder.inttoptr(address, _BYTE.as_pointer()) for address in (groups, centres))
        floors, out = (builder.inttoptr(address, _INT.as_pointer()) for address in (floors, out))
        above = builder.inttoptr(above, _SHORT.as_pointer())

        def body(quad: Any, sums: list[Any]) -> list[Any]:
            places = [builder.add(quad, builder.mul(quads, _LONG(g))) for g in range(GROUPS)]
            rows = [
                builder.load(_at(builder, groups, builder.mul(place, _LONG(4 * LANES)), bytes_type), align=1)
                for place in places
            ]
            fours = []
            for c in range(CENTRES):
                place = builder.add(builder.mul(_LONG(c), stride), builder.mul(quad, _LONG(4)))
                four = _splat(builder, builder.load(_at(builder, centres, place, _INT), align=1))
                fours.append(builder.bitcast(four, bytes_type))
            return [_dot_quads(builder, sums[g * CENTRES + c], rows[g], fours[c]) for g, c in both]

        sums = _accumulate(builder, quads, [ir.Constant(sums_type, [0] * LANES)] * len(both), body)
        limits = [_splat(builder, builder.load(builder.gep(floors, [_LONG(c)]))) for c in range(CENTRES)]
        every = _SHORT(0)
        for (_, c), total, place in zip(both, sums, range(len(both)), strict=True):
            builder.store(total, _at(builder, out, _LONG(place * LANES), sums_type), align=4)
            bits = builder.bitcast(builder.icmp_signed(">", total, limits[c]), _SHORT)
            builder.store(bits, builder.gep(above, [_LONG(place)]))
            every = builder.or_(every, bits)
        return builder.icmp_signed("!=", every, _SHORT(0))

    return types.boolean(*[types.intp] * 7), generate


@intrinsic
def dot_bytes(typing: Any, unsigned: Any, signed: Any, length: Any) -> Any:
    """The inner product, an int32, of uint8[length] and int8[length] at two addresses; a multiple of 4 · LANES."""
    sums_type, bytes_type = ir.VectorType(_INT, LANES), ir.VectorType(_BYTE, 4 * LANES)

    def generate(context, builder, signature, arguments):
        unsigned, signed = (builder.inttoptr(address, _BYTE.as_pointer()) for address in arguments[:2])

        def body(i: Any, sums: list[Any]) -> list[Any]:
            place = builder.mul(i, _LONG(4 * LANES))
            left, right = (builder.load(_at(builder, base, place, bytes_type), align=1) for base in (unsigned, signed))
            return [_dot_quads(builder, sums[0], left, right)]

        steps = builder.sdiv(arguments[2], _LONG(4 * LANES))
        [sums] = _accumulate(builder, steps, [ir.Constant(sums_type, [0] * LANES)], body)
        kind = ir.FunctionType(_INT, [sums_type])
        total = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{LANES}i32")
        return builder.call(total, [sums])

    return types.int32(*[types.intp] * 3), generate


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
def nonzero(typing, above):
    """Which of the uint16[GROUPS · CENTRES] at an address are not 0, one bit each."""
    kind = ir.VectorType(_SHORT, GROUPS * CENTRES)

    def generate(context, builder, signature, arguments):
        values = builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=2)
        bits = builder.icmp_unsigned("!=", values, ir.Constant(kind, [0] * kind.count))
        packed = builder.bitcast(bits, ir.IntType(kind.count))
        return packed if kind.count == LANES else builder.zext(packed, _SHORT)

    return types.uint16(types.intp), generate


@intrinsic
def lowest_bit(typing, bits):
    """The place of the lowest bit that is set in a uint16; 16 where none is."""

    def generate(context, builder, signature, arguments):
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0)), _LONG)

    return types.int64(types.uint16), generate
