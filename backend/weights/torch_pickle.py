"""The pickle inside a PyTorch checkpoint, read as plain data.

A pickle is a little program. This machine knows the instructions that build numbers, texts, tuples, lists
and dicts, and the few names with which a checkpoint describes its tensors; it imports nothing and calls
nothing. Every other name or instruction is refused.
"""

import io
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from shared_protocol.errors import WeightsError

STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""Element type of each storage class, as numpy names it; numpy has no bfloat16."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME"}
_MARK = object()


@dataclass(frozen=True)
class Name:
    """A name of the pickle's: one of the few it may use."""

    text: str


@dataclass(frozen=True)
class StorageReference:
    """A run of numbers elsewhere in the file.

    key    its name there
    dtype  a value of STORAGE_DTYPES
    count  elements
    start  of this view in the named storage, elements
    """

    key: str
    dtype: str
    count: int
    start: int = 0


@dataclass(frozen=True)
class TensorReference:
    """A tensor: a strided window of a storage; offset and strides in elements."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorReference:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, StorageReference) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor is described wrongly")
    return TensorReference(storage, offset, tuple(shape), tuple(strides))


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}
_STORAGES = {f"torch.{name}": dtype for name, dtype in STORAGE_DTYPES.items()}


def _name(module: Any, attribute: Any) -> Name:
    text = f"{module}.{attribute}"
    if text not in _CALLS and text not in _STORAGES:
        raise WeightsError(
            f"the checkpoint uses '{text}', which is code and not data",
            "tensors in dictionaries",
            "Save the model's state_dict alone, and take checkpoints only from sources you trust.",
        )
    return Name(text)


def _storage(identifier: Any) -> StorageReference:
    """('storage', class, key, device, count[, (view key, start, count) or None])."""
    kind, storage_class, key, _, count, *view = identifier
    if kind != "storage" or storage_class.text not in _STORAGES or type(count) is not int or count < 0:
        raise ValueError("a storage is described wrongly")
    dtype = _STORAGES[storage_class.text]
    if view and view[0] is not None:
        _, start, length = view[0]
        if not (0 <= start <= start + length <= count):
            raise ValueError("a view leaves its storage")
        return StorageReference(str(key), dtype, length, start)
    return StorageReference(str(key), dtype, count)


def read_pickle(stream: BinaryIO) -> Any:
    """The value of the pickle that starts here; the stream is left behind its end.

    Tensors come as TensorReference. Raises WeightsError for a name that is not data, ValueError and its
    kin (IndexError, KeyError, TypeError, AttributeError) for a damaged pickle.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        at = next(i for i in range(len(stack) - 1, -1, -1) if stack[i] is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def update(items: list[Any]) -> None:
        if not isinstance(stack[-1], dict) or len(items) % 2:
            raise ValueError("items are put into something that is no dictionary")
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    with warnings.catch_warnings():
        # Damaged text may hold escapes of which Python warns only.
        warnings.simplefilter("ignore", DeprecationWarning)
        instructions = list(pickletools.genops(stream))
    for opcode, argument, _ in instructions:
        match opcode.name:
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case name if name in _IGNORED:
                continue
            case "MARK":
                stack.append(_MARK)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "LIST":
                stack.append(pop_to_mark())
            case "DICT":
                items = pop_to_mark()
                stack.append({})
                update(items)
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = pop_to_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                update(items)
            case "SETITEMS":
                update(pop_to_mark())
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_name(module, attribute))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_CALLS[function.text](*arguments))
            case "BUILD":  # attributes of a dictionary, such as the versions of the modules: not data of ours
                stack.pop()
            case "STOP":
                return stack.pop()
            case other:
                raise WeightsError(
                    f"the checkpoint holds the pickle instruction {other}, which makes objects and not data",
                    "tensors in dictionaries",
                    "Save the model's state_dict alone.",
                )
    raise ValueError("the pickle has no end")


def read_pickle_bytes(data: bytes) -> Any:
    """`read_pickle` of bytes."""
    return read_pickle(io.BytesIO(data))
