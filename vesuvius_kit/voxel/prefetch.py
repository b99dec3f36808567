"""Asking the processor for memory before it is needed.

A processor foresees one long stream. The rows of a window lie apart in their volume, each too short to be foreseen, and a
kernel waits for every one of them.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype
from numpy.typing import NDArray

_LINE = 64
"""Bytes that come at once, on every processor that PyTorch has wheels for; where more come, a line is asked for twice."""
_TO_READ, _TO_STAY, _DATA = 0, 3, 1


def prefetch(row: NDArray[Any]) -> None:
    """Ask for a row, contiguous, inside a kernel; nothing is read or waited for. Outside a kernel it does nothing."""


@overload(prefetch)
def _compile_prefetch(row: Any) -> Callable[[Any], None]:
    step = _LINE // as_dtype(row.dtype).itemsize

    def fetch_lines(row: Any) -> None:
        for place in range(0, row.size, step):
            _fetch(row, place)
        # It may begin in the middle of a line.
        _fetch(row, row.size - 1)

    return fetch_lines


def _make_fetch(typing_context: Any, row: Any, place: Any) -> Any:
    """LLVM's instruction for one place of an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.type, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", (byte.type,), kind)
        builder.call(instruction, [byte, number(_TO_READ), number(_TO_STAY), number(_DATA)])
        return context.get_dummy_value()

    return types.void(row, place), generate


# Inside a kernel it is called without the first argument, which no annotation can say.
_fetch: Any = intrinsic(_make_fetch)
