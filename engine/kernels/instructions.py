"""Instructions for numba that it has no word for, written in LLVM's language, and what others like them are made of.

Each function here and in `engine.kernels.float_products` and `engine.kernels.byte_products` emits code for fixed vector
types, which LLVM fits to the CPU at hand, whatever its width. Addresses are integers (`array.ctypes.data`), strides
count elements, nothing is checked: only kernels call these.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_config: Any = numba.config
_told = _config.CPU_NAME or _config.CPU_FEATURES
FEATURES: dict[str, bool] = (
    {feature[1:]: feature[0] == "+" for feature in (_config.CPU_FEATURES or "").split(",") if feature}
    if _told
    else dict(llvm.get_host_cpu_features())
)
"""What the CPU that numba compiles for can do: this one, unless numba is told another."""

FLOAT, BYTE, INT, LONG = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
NOTHING = ir.VoidType()

LANES = 16
"""Elements of one vector: a whole register of the widest CPUs, several of the others'."""

_READ, _KEEP, _DATA = INT(0), INT(3), INT(1)


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def pointer(builder: Any, address: Any, kind: Any = BYTE) -> Any:
    """An address, an integer, as a pointer to ``kind``."""
    return builder.inttoptr(address, kind.as_pointer())


def at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """The address ``offset`` elements behind ``base``, as a pointer to ``kind``."""
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def splat(builder: Any, value: Any) -> Any:
    """A vector of LANES copies of a scalar."""
    single = builder.insert_element(ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, INT(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(INT, LANES), [0] * LANES))


def accumulate(builder: Any, count: Any, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> Any:
    """A loop over ``count`` ≥ 1 that carries vectors, in registers: ``body(i, carried)`` gives the next."""
    entry, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(LONG)
    carried = [builder.phi(value.type) for value in initial]
    following = body(i, carried)
    next_i = builder.add(i, LONG(1))
    i.add_incoming(LONG(0), entry)
    i.add_incoming(next_i, loop)
    for phi, value, first in zip(carried, following, initial, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", next_i, count), loop, done)
    builder.position_at_end(done)
    return following


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Bring the cache line of an address (`array.ctypes.data` + bytes) nearer, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = "llvm.prefetch.p0" if getattr(ir.PointerType(), "is_opaque", False) else "llvm.prefetch.p0i8"
        call(builder, name, NOTHING, [pointer(builder, arguments[0]), _READ, _KEEP, _DATA])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def fetch_add(typing: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address, which other threads may be adding to; returns what it was.

    What a thread wrote before it is there for whoever sees the sum.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", pointer(builder, arguments[0], LONG), arguments[1], "seq_cst")

    return types.int64(types.intp, types.int64), generate


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """The int64 at an address, which other threads may be adding to; what they wrote before it is there too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(pointer(builder, arguments[0], LONG), "seq_cst", 8)

    return types.int64(types.intp), generate


@intrinsic
def float_of_bits(typing: Any, bits: Any) -> Any:
    """The float32 whose bits are this int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def bits_of_float(typing: Any, number: Any) -> Any:
    """The bits of a float32, as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], INT)

    return types.int32(types.float32), generate


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set in a uint64; 64 where none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def bytes_below(typing: Any, values: Any, limit: Any) -> Any:
    """Which of the uint8[64] at an address are below a limit, itself a byte: one bit of a uint64 each."""
    kind = ir.VectorType(BYTE, 64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(pointer(builder, arguments[0], kind), align=1)
        limit = builder.trunc(arguments[1], BYTE)
        single = builder.insert_element(ir.Constant(kind, ir.Undefined), limit, INT(0))
        limits = builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(INT, 64), [0] * 64))
        return builder.bitcast(builder.icmp_unsigned("<", values, limits), LONG)

    return types.uint64(types.intp, types.int64), generate
