"""Tiles of a product of float32 matrices that stay in a CPU's registers while they are summed."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.instructions import FEATURES, FLOAT, LANES, LONG, accumulate, at, call, pointer, splat

TILE_ROWS = 8 if FEATURES.get("avx512f") else 4
"""Rows of a tile of a product: with `TILE_COLUMNS`, as many accumulators as there are registers for."""

TILE_COLUMNS = 2 * LANES if FEATURES.get("avx512f") else LANES

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
