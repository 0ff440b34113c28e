"""Unpickling of PyTorch checkpoints without PyTorch and without running anything.

A pickle is a program that may call any function. `unpickle` interprets it here: the interpreter knows
only what state dicts consist of, never imports anything, and calls only functions of this file. Source:
torch/serialization.py and torch/_utils.py.
"""

import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np


class Defect(Exception):
    """A file is wrong. The message is the rest of a sentence that begins with the file's path."""


@dataclass(frozen=True)
class Storage:
    """`size` elements of a storage, from the element `start` on.

    Attributes:
        kind: the numpy name of the elements' type, a value of `STORAGES`.
        key: the name of the storage in the file.
        size: the number of elements.
        start: the index of the first element.
    """

    kind: str
    key: str
    size: int
    start: int


@dataclass(frozen=True)
class TensorView:
    """The place of a tensor's elements in its storage; all numbers count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _storage(saved_id: Any) -> Storage:
    """Returns the storage to which a persistent id of the pickle refers."""
    tag, kind, key, _, size, *view = saved_id
    if tag != "storage" or kind not in STORAGES.values() or not isinstance(key, str):
        raise Defect("is damaged: it refers to something that is not a storage")
    start = 0
    if view and view[0] is not None:
        # In early versions of PyTorch, a storage could be a part of another storage.
        _, start, size = view[0]
    _check_counts(start, size)
    return Storage(kind, key, size, start)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorView:
    """Replaces PyTorch's functions; the further arguments, gradients and hooks, are ignored."""
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MAX_AXES:
        raise Defect("is damaged: a tensor has no storage, too many axes or not a stride for each axis")
    _check_counts(offset, *shape, *strides)
    return TensorView(storage, offset, tuple(shape), tuple(strides))


def _rebuild_dict(pairs: Sequence = ()) -> dict:
    """Replaces OrderedDict, which Python 2 wrote with a list of pairs as its argument."""
    return _set_items({}, [item for key, value in pairs for item in (key, value)])


def _check_counts(*numbers: Any) -> None:
    """Raises a `Defect` if a number is not an integer of at least 0."""
    if any(type(number) is not int or number < 0 for number in numbers):
        raise Defect("is damaged: a shape, stride, offset or size is not a whole number from 0")


MAX_AXES = 64
"""The largest number of axes of an array."""

BFLOAT16 = "<u2"
"""numpy has no bfloat16, and PyTorch has no storages of uint16, whose name is used for it."""

STORAGES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": BFLOAT16}
STORAGES |= {"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "u1"}
"""The numpy types of PyTorch's types of storages."""

NUMBER_TYPES = {"bool", "bfloat16", *(np.dtype(kind).name for kind in STORAGES.values())}
"""The names of PyTorch's dtypes."""

KNOWN_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _rebuild_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes: sizes,
    "torch.storage.UntypedStorage": STORAGES["Byte"],
    **{f"torch.{name}Storage": kind for name, kind in STORAGES.items()},
    **{f"torch.{name}": name for name in NUMBER_TYPES},
}
"""The objects by all names that a pickle may use."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
"""The values of the instructions that put a constant on the stack."""

NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
LITERALS = NUMBERS | TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
"""The instructions that put their argument on the stack."""


def unpickle(stream: BinaryIO, file_size: int, storages: dict[str, Storage] | None = None) -> Any:
    """Returns the object of the pickle at the stream's position, and moves the stream to its end.

    Python's Unpickler would suffice for honest files. But a damaged file can make it reserve any amount
    of memory, and a malicious file can make it set attributes of the objects that it was given.

    Args:
        stream: a binary stream.
        file_size: the number of bytes of the file. No more values than these are copied: an honest file
            holds each of its values, and a malicious one can name the same list any number of times.
        storages: a dict to which the storages of the pickle are added by key.

    Raises:
        Defect: the pickle holds anything that state dicts do not need.
        Exception: the pickle is damaged; any instruction may then find any value.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    num_copied = 0

    def since_mark() -> list[Any]:
        """Removes the items after the last mark from the stack and returns them."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for instruction, argument, _ in pickletools.genops(stream):
        match instruction.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name if name in LITERALS:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_LIST" | "EMPTY_DICT" as name:
                stack.append([] if name == "EMPTY_LIST" else {})
            case "APPEND" | "APPENDS" as name:
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS" as name:
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_known(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_known(".".join((module, attribute))))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if function is _rebuild_dict and arguments:
                    num_copied += len(arguments[0])
                    if num_copied > file_size:
                        raise Defect("is damaged: it makes more values than it has bytes")
                stack.append(function(*arguments))
            case "BUILD":
                # These are attributes of an OrderedDict, such as PyTorch's version numbers of layers.
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise Defect("wants to set attributes of something that is not a dict; refused")
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
                if storages is not None:
                    storages[stack[-1].key] = stack[-1]
            case name:
                raise Defect(f"has the pickle instruction {name}, which state dicts do without; refused")
    return stack.pop()


def _known(name: str) -> Any:
    """Returns the object of a name in `KNOWN_NAMES`; raises a `Defect` for any other name."""
    if name in KNOWN_NAMES:
        return KNOWN_NAMES[name]
    advice = "where that is a whole model or a part of one, save model.state_dict() instead"
    raise Defect(f"wants to run {name[:100]}; refused: only tensors are read; {advice}")


def _set_items(target: dict, items: list) -> dict:
    """Puts keys and values, which alternate in `items`, into a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of a very deeply nested tuple would crash the process.
        if not isinstance(key, str | bytes | int | float | None):
            raise Defect(f"has a dict with a {type(key).__name__} as a key; save model.state_dict() alone")
        dict.__setitem__(target, key, value)
    return target
