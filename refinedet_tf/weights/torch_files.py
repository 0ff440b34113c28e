"""Reading of PyTorch checkpoints (`.pth`) without PyTorch.

A checkpoint consists of a pickle, which describes the tensors as parts of storages, and the bytes of the
storages. Since PyTorch 1.6 `torch.save` writes a zip archive (`NAME/data.pkl`, `NAME/data/KEY`). Before, it
wrote one stream: magic number, protocol version, system, pickle, keys, and then for each key its int64
number of elements and its bytes. Source: torch/serialization.py.
"""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.weights.torch_pickles import BFLOAT16, Defect, Storage, TensorView, unpickle

STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "weight")
"""The keys under which training programs save the state dict, next to the epoch, the optimizer and so on."""

PARALLEL_PREFIX = "module."
"""The prefix that DataParallel adds to every name."""

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
"""The start of a zip archive, and the magic number and protocol version of the older format."""


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict.

    Args:
        path: a file that `torch.save` wrote in either format. It holds a state dict, or a dict that has
            a state dict under a key of `STATE_DICT_KEYS`. Values other than tensors are ignored.

    Returns:
        Arrays by name, without DataParallel's prefix, in the order of the file. They are float32,
        contiguous and finite, and of any shape; that of a scalar is (). Integers and bools are converted.

    Raises:
        InputError: the file is missing, is not such a checkpoint, is cut off or damaged, comes from a
            big-endian machine, holds a whole model or anything else that would have to be run (it is
            never run), holds no tensors, or holds tensors that do not fit their storage or are not
            finite in float32.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a PyTorch checkpoint")
    if not path.is_file():
        raise InputError(f"PyTorch checkpoint not found: {path}")
    try:
        return _read(path)
    except Defect as defect:
        reason = str(defect)
    except Exception as error:
        # In a damaged file any instruction may find any value, which makes zipfile, pickletools and numpy
        # raise errors from KeyError to MemoryError. All of them mean the same.
        reason = f"is not a PyTorch checkpoint, or is damaged or cut off ({error or type(error).__name__})"
    # Names in the file may have any length and any characters, such as line breaks.
    raise InputError(f"{path} {reason[:500].encode('unicode_escape').decode()}")


def _read(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of either format."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_START))
        if not start:
            raise Defect("is empty, not a PyTorch checkpoint")
        file.seek(0)
        if start == ZIP_START:
            return _read_zip(file, path.stat().st_size)
        if start[:1] != b"\x80":
            raise Defect("is not a PyTorch checkpoint: it begins neither as a zip archive nor as a pickle")
        return _read_legacy(file.read())


def _read_zip(file: BinaryIO, file_size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Defect("is a zip archive, but not a PyTorch checkpoint: it needs one NAME/data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        num_read = 0

        def record(name: str) -> bytes:
            nonlocal num_read
            info = archive.getinfo(folder + name)
            # PyTorch does not compress records, so that all of them together are smaller than the file.
            num_read += max(info.file_size, info.compress_size)
            if info.compress_type or num_read > file_size:
                raise Defect(f"is damaged, or not written by torch.save: {name} is compressed or cut off")
            return archive.read(info)

        if f"{folder}byteorder" in archive.namelist():
            _check_byte_order(record("byteorder") == b"little")
        content = unpickle(io.BytesIO(record("data.pkl")), file_size)
        return _arrays(content, lambda storage: record(f"data/{storage.key}"), file_size)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    stream, size = io.BytesIO(data), len(data)
    if unpickle(stream, size) != LEGACY_MAGIC or unpickle(stream, size) != LEGACY_PROTOCOL:
        raise Defect("is a pickle, but not a PyTorch checkpoint")
    _check_byte_order(unpickle(stream, size)["little_endian"])
    storages: dict[str, Storage] = {}
    content, keys = unpickle(stream, size, storages), unpickle(stream, size)
    whole, position, buffers = memoryview(data), stream.tell(), {}
    for key in keys:
        num_elements = int.from_bytes(whole[position : position + 8], "little")
        position += 8
        end = position + num_elements * np.dtype(storages[key].kind).itemsize
        if end > len(data):
            raise Defect(f"is damaged or cut off: storage {key} needs {end} bytes of {len(data)}")
        buffers[key] = whole[position:end]
        position = end
    return _arrays(content, lambda storage: buffers[storage.key], len(data))


def _check_byte_order(is_little_endian: bool) -> None:
    if is_little_endian is not True:
        raise Defect("comes from a big-endian machine; load and save it with PyTorch on a little-endian one")


def _arrays(
    content: Any, read_storage: Callable[[Storage], bytes | memoryview], file_size: int
) -> dict[str, np.ndarray]:
    """Returns the tensors in the content of a checkpoint as arrays."""
    tensors = _named_tensors(content)
    # Each element is in the file, although several tensors may share it. If there are more elements than
    # bytes, a shape with strides of 0 is damaged. It could require any amount of memory.
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > file_size:
        raise Defect("is damaged: the shapes of its tensors ask for more elements than it has bytes")
    arrays: dict[str, np.ndarray] = {}
    buffers: dict[str, bytes | memoryview] = {}
    for name, tensor in tensors.items():
        key = tensor.storage.key
        if key not in buffers:
            buffers[key] = read_storage(tensor.storage)
        arrays[name] = _array(name, tensor, buffers[key])
        if not np.isfinite(arrays[name]).all():
            raise Defect(f"holds values that are not finite in float32: {name}")
    return arrays


def _named_tensors(content: Any) -> dict[str, TensorView]:
    """Returns the tensors of a state dict, which may be inside the dict of a training program."""
    if not isinstance(content, dict):
        raise Defect("holds no state dict: save model.state_dict()")
    inner = (content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), dict))
    tensors: dict[str, TensorView] = {}
    for key, tensor in next(inner, content).items():
        if not isinstance(tensor, TensorView):
            continue
        if not isinstance(key, str) or not key.isprintable():
            raise Defect("is damaged, or holds no state dict: a tensor has no printable name")
        name = key.removeprefix(PARALLEL_PREFIX)
        if name in tensors:
            raise Defect(f"holds {name} both with and without the prefix {PARALLEL_PREFIX}")
        tensors[name] = tensor
    if not tensors:
        raise Defect(f"holds no tensors by name, neither itself nor under a key of {STATE_DICT_KEYS}")
    return tensors


def _array(name: str, tensor: TensorView, buffer: bytes | memoryview) -> np.ndarray:
    """Returns the values of a tensor as a new contiguous float32 array."""
    storage, kind = tensor.storage, np.dtype(tensor.storage.kind)
    if len(buffer) < (storage.start + storage.size) * kind.itemsize:
        raise Defect(f"is damaged or cut off: the storage of {name} has only {len(buffer)} bytes")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, np.float32)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.size:
        raise Defect(
            f"is damaged: {name} does not fit its storage of {storage.size} elements: shape "
            f"{list(tensor.shape)}, strides {list(tensor.strides)}, offset {tensor.offset}"
        )
    offset = (storage.start + tensor.offset) * kind.itemsize
    strides = [step * kind.itemsize for step in tensor.strides]
    values = np.ndarray(tensor.shape, kind, buffer, offset, strides)
    if storage.kind == BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return np.array(values, np.float32, order="C")
