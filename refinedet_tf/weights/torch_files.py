"""PyTorch checkpoints (`.pth`) -> arrays, without PyTorch.

A checkpoint is a pickle, which says how the tensors are cut out of storages, and the storages' raw
bytes. `torch.save` writes a zip archive since PyTorch 1.6 (`NAME/data.pkl`, `NAME/data/KEY`); before, it
wrote one stream (magic number, protocol version, system, pickle, keys, then for each key its int64
number of elements and its bytes). Source: torch/serialization.py and torch/_utils.py.

A pickle is a program that may call anything. `_unpickle` follows it with an interpreter of its own,
which knows only what state dicts are made of, never imports, and calls functions of this file alone.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from refinedet_tf.errors import InputError

STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "weight")
"""Under one of these, training programs put the state dict beside epoch, optimizer and the like."""

PARALLEL_PREFIX = "module."
"""What DataParallel puts before every name."""

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Args:
        path: of a file that `torch.save` wrote, in either format, holding a state dict, or a dict with
            one under a key of `STATE_DICT_KEYS`; what lies beside the tensors is left alone.

    Returns:
        Arrays by name without DataParallel's prefix, in the order of the file: float32, contiguous,
        finite, of any shape, a scalar's being (). Integers and bools are converted as well.

    Raises:
        InputError: the file is missing, is no such checkpoint, is cut off or damaged, comes from a
            big-endian machine, holds a whole model or names anything else to be run (which it never
            is), holds no tensors, tensors that do not fit their storage, or values that are not
            finite in float32.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a PyTorch checkpoint")
    if not path.is_file():
        raise InputError(f"PyTorch checkpoint not found: {path}")
    try:
        return _read(path)
    except _Defect as defect:
        reason = str(defect)
    except Exception as error:
        # In a damaged file any instruction may meet any value, and zipfile, pickletools and numpy raise
        # whatever that leads to, from KeyError to MemoryError: all of it means the same.
        reason = f"is not a PyTorch checkpoint, or is damaged or cut off ({error or type(error).__name__})"
    # Names in the file may be of any length, with line breaks and anything else.
    raise InputError(f"{path} {reason[:500].encode('unicode_escape').decode()}")


class _Defect(Exception):
    """What is wrong with a file: the rest of a sentence that begins with its path."""


@dataclass(frozen=True)
class _Storage:
    """Elements of a storage: `size` of them from `start` on."""

    kind: str
    key: str
    size: int
    start: int


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor's elements lie in its storage; all numbers count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _read(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
        if not start:
            raise _Defect("is empty, not a PyTorch checkpoint")
        file.seek(0)
        if start == ZIP_START:
            return _read_zip(file, path.stat().st_size)
        if start[:1] != b"\x80":
            raise _Defect("is not a PyTorch checkpoint: it begins neither as a zip archive nor as a pickle")
        return _read_legacy(file.read())


def _read_zip(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Defect("is a zip archive, but not a PyTorch checkpoint: it needs one NAME/data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        def record(name: str) -> bytes:
            info = archive.getinfo(folder + name)
            # PyTorch compresses nothing, so no record is larger than the file.
            if info.compress_type or max(info.file_size, info.compress_size) > file_size:
                raise _Defect(f"is damaged, or not written by torch.save: {name} is compressed or cut off")
            return archive.read(info)

        if f"{folder}byteorder" in archive.namelist():
            _check_byte_order(record("byteorder") == b"little")
        content = _unpickle(io.BytesIO(record("data.pkl")))
        return _arrays(content, lambda storage: record(f"data/{storage.key}"), file_size)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    if _unpickle(stream) != LEGACY_MAGIC or _unpickle(stream) != LEGACY_PROTOCOL:
        raise _Defect("is a pickle, but not a PyTorch checkpoint")
    _check_byte_order(_unpickle(stream)["little_endian"])
    storages = {}
    content, keys = _unpickle(stream, storages), _unpickle(stream)
    whole, position, buffers = memoryview(data), stream.tell(), {}
    for key in keys:
        size = int.from_bytes(whole[position : position + 8], "little")
        position += 8
        end = position + size * np.dtype(storages[key].kind).itemsize
        if end > len(data):
            raise _Defect(f"is damaged or cut off: storage {key} needs {end} bytes of {len(data)}")
        buffers[key] = whole[position:end]
        position = end
    return _arrays(content, lambda storage: buffers[storage.key], len(data))


def _check_byte_order(is_little_endian: bool) -> None:
    if is_little_endian is not True:
        raise _Defect("comes from a big-endian machine; load and save it with PyTorch on a little-endian one")


def _arrays(content, read_storage: Callable[[_Storage], Any], file_size: int) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint's content as arrays."""
    tensors = _named_tensors(content)
    # Each element lies in the file, though several tensors may share it. More of them than bytes come
    # from a damaged shape with strides of 0, which could ask for any amount of memory.
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > file_size:
        raise _Defect("is damaged: the shapes of its tensors ask for more elements than it has bytes")
    arrays, buffers = {}, {}
    for name, tensor in tensors.items():
        key = tensor.storage.key
        if key not in buffers:
            buffers[key] = read_storage(tensor.storage)
        arrays[name] = _array(name, tensor, buffers[key])
        if not np.isfinite(arrays[name]).all():
            raise _Defect(f"holds values that are not finite in float32: {name}")
    return arrays


def _named_tensors(content) -> dict[str, _Tensor]:
    """The tensors of a state dict, or of the one inside the dict of a training program."""
    if not isinstance(content, dict):
        raise _Defect("holds no state dict: save model.state_dict()")
    inner = (content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), dict))
    tensors = {}
    for key, tensor in next(inner, content).items():
        if not isinstance(tensor, _Tensor):
            continue
        if not isinstance(key, str) or not key.isprintable():
            raise _Defect("is damaged, or holds no state dict: a tensor has no printable name")
        name = key.removeprefix(PARALLEL_PREFIX)
        if name in tensors:
            raise _Defect(f"holds {name} both with and without the prefix {PARALLEL_PREFIX}")
        tensors[name] = tensor
    if not tensors:
        raise _Defect(f"holds no tensors by name, neither itself nor under a key of {STATE_DICT_KEYS}")
    return tensors


def _array(name: str, tensor: _Tensor, buffer) -> np.ndarray:
    """A tensor's values as a new contiguous float32 array."""
    storage, kind = tensor.storage, np.dtype(tensor.storage.kind)
    if len(buffer) < (storage.start + storage.size) * kind.itemsize:
        raise _Defect(f"is damaged or cut off: the storage of {name} has only {len(buffer)} bytes")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, np.float32)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.size:
        raise _Defect(
            f"is damaged: {name} does not fit its storage of {storage.size} elements: shape "
            f"{list(tensor.shape)}, strides {list(tensor.strides)}, offset {tensor.offset}"
        )
    offset = (storage.start + tensor.offset) * kind.itemsize
    strides = [step * kind.itemsize for step in tensor.strides]
    values = np.ndarray(tensor.shape, kind, buffer, offset, strides)
    if storage.kind == BFLOAT16:
        # The upper half of a float32.
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return np.array(values, np.float32, order="C")


def _storage(saved_id) -> _Storage:
    """What a pickle's reference to something outside it stands for."""
    tag, kind, key, _, size, *view = saved_id
    if tag != "storage" or kind not in STORAGES.values() or not isinstance(key, str):
        raise _Defect("is damaged: it refers to something that is not a storage")
    start = 0
    if view and view[0] is not None:
        # In early versions of PyTorch a storage could be a part of another one.
        _, start, size = view[0]
    _check_counts(start, size)
    return _Storage(kind, key, size, start)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    """Stands in for PyTorch's functions; gradients and hooks, which follow, mean nothing here."""
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise _Defect("is damaged: a tensor has no storage, or not a stride for each axis")
    _check_counts(offset, *shape, *strides)
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_dict(pairs: Iterable = ()) -> dict:
    """Stands in for OrderedDict; Python 2 wrote it with its content as a list of pairs."""
    return _set_items({}, [item for pair in pairs for item in pair])


def _check_counts(*numbers) -> None:
    if any(type(number) is not int or number < 0 for number in numbers):
        raise _Defect("is damaged: a shape, stride, offset or size is not a whole number from 0")


# numpy has no such type; the storages read here are never of 16 bits without sign.
BFLOAT16 = "<u2"
STORAGES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": BFLOAT16}
STORAGES |= {"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "u1"}
"""PyTorch's types of storages -> numpy's."""

NUMBER_TYPES = {"bool", "bfloat16", *(np.dtype(kind).name for kind in STORAGES.values())}

KNOWN_NAMES = {
    "collections.OrderedDict": _rebuild_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes: sizes,
    "torch.storage.UntypedStorage": STORAGES["Byte"],
    **{f"torch.{name}Storage": kind for name, kind in STORAGES.items()},
    **{f"torch.{name}": name for name in NUMBER_TYPES},
}
"""All that a pickle may name, and what it gets."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
LITERALS = NUMBERS | TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
"""Instructions that put their argument on the stack."""


def _unpickle(stream: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    """The object of the pickle at the stream's position; leaves the stream behind its end.

    Adds the storages that it refers to, by key, to `storages`.
    Python's own Unpickler would do for honest files. A damaged one can make it reserve any amount of
    memory, and a malicious one can have it set attributes of what it was given.
    """
    stack, marks, memo = [], [], {}

    def since_mark() -> list:
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
                name, module = stack.pop(), stack.pop()
                stack.append(_known(".".join((module, name))))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(function(*arguments))
            case "BUILD":
                # Attributes of an OrderedDict, such as PyTorch's version numbers of layers.
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Defect("wants to set attributes of something that is not a dict; refused")
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
                if storages is not None:
                    storages[stack[-1].key] = stack[-1]
            case name:
                raise _Defect(f"has the pickle instruction {name}, which state dicts do without; refused")
    return stack.pop()


def _known(name: str) -> Any:
    if name in KNOWN_NAMES:
        return KNOWN_NAMES[name]
    advice = "where that is a whole model or a part of one, save model.state_dict() instead"
    raise _Defect(f"wants to run {name[:100]}; refused: only tensors are read; {advice}")


def _set_items(target: dict, items: list) -> dict:
    """Puts keys and values, one after the other, into a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of tuples nested deeply enough would end the process.
        if not isinstance(key, str | bytes | int | float | None):
            raise _Defect(f"has a dict with a {type(key).__name__} as a key; save model.state_dict() alone")
        dict.__setitem__(target, key, value)
    return target
