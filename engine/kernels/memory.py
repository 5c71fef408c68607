"""Reading ahead: what numba has no word for."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE, _INT = ir.IntType(8), ir.IntType(32)
_READ, _KEEP, _DATA = (ir.Constant(_INT, value) for value in (0, 3, 1))


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Bring the cache line of an address (`array.ctypes.data` + bytes) nearer, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
        name = "llvm.prefetch.p0" if getattr(ir.PointerType(), "is_opaque", False) else "llvm.prefetch.p0i8"
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [pointer, _READ, _KEEP, _DATA])
        return context.get_dummy_value()

    return types.void(types.intp), generate
