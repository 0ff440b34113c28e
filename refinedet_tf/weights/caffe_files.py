"""Reading of Caffe's weight files (`.caffemodel`).

Such a file is a protobuf message NetParameter (src/caffe/proto/caffe.proto of the authors' program).
Only the fields that hold weights are declared here; protobuf skips all others.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors
from refinedet_tf.weights.values import find_invalid

MAX_AXES = 32
"""Caffe's limit (kMaxBlobAxes)."""

MAX_BYTES = 2**31 - 1
"""Protobuf's limit for a message."""

_KINDS = "a prototxt or a solverstate?"

_FIELD = descriptor_pb2.FieldDescriptorProto

# {message: {field: (number, type or message, whether it is repeated)}}. Names are bytes, because damaged
# ones need not be UTF-8. Blob reads packed floats as bytes, which become an array at once;
# SlowBlob reads floats as floats, packed or one by one.
_MESSAGES: dict[str, dict[str, tuple[int, Any, bool]]] = {
    "Shape": {"dim": (1, _FIELD.TYPE_INT64, True)},
    "Blob": {
        "num": (1, _FIELD.TYPE_INT32, False),
        "channels": (2, _FIELD.TYPE_INT32, False),
        "height": (3, _FIELD.TYPE_INT32, False),
        "width": (4, _FIELD.TYPE_INT32, False),
        "data": (5, _FIELD.TYPE_BYTES, True),
        "shape": (7, "Shape", False),
        "double_data": (8, _FIELD.TYPE_BYTES, True),
    },
    "SlowBlob": {"data": (5, _FIELD.TYPE_FLOAT, True), "double_data": (8, _FIELD.TYPE_DOUBLE, True)},
    "Layer": {"name": (1, _FIELD.TYPE_BYTES, False), "blobs": (7, "Blob", True)},
    "V1Layer": {"name": (4, _FIELD.TYPE_BYTES, False), "blobs": (6, "Blob", True)},
    "Net": {"layers": (2, "V1Layer", True), "layer": (100, "Layer", True)},
}


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Reads the blobs of the layers that have weights.

    Args:
        path: a `.caffemodel` file with layers of today's format or of the V1 format.

    Returns:
        The blobs by the names of the layers, printable texts, in the order of the file. They are finite
        float32 arrays, read-only, of the shapes in the file. (Shapes in old files always have four numbers,
        the first of which may be 1.)

    Raises:
        InputError: the file is missing, damaged or of another kind. The message names the layer and the
            blob if they are known.
    """
    path = Path(path)
    net = _parse(
        "Net", _content(path), f"{path} is not a whole .caffemodel file: is it truncated, or {_KINDS}"
    )
    if net.layers and net.layer:
        raise InputError(f"{path} holds layers of the V1 and of today's format: is it damaged?")
    layers: dict[str, list[np.ndarray]] = {}
    for number, message in enumerate(net.layers or net.layer):
        if not message.blobs:
            continue
        name = _text(message.name, f"{path}: the name of layer number {number} (from 0)")
        if name in layers:
            raise InputError(f"{path} holds two layers named {_short(name)} with weights: is it damaged?")
        where = f"{path}: layer {_short(name)} blob"
        layers[name] = [_array(blob, f"{where} {i}") for i, blob in enumerate(message.blobs)]
    if not layers:
        raise InputError(f"{path} holds no weights: is it {_KINDS}")
    return layers


def _message_classes() -> dict[str, Any]:
    """Returns the protobuf classes of `_MESSAGES` by name."""
    file = descriptor_pb2.FileDescriptorProto(name="refinedet_tf/caffemodel.proto", package="refinedet_tf")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            declared = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                declared.type, declared.type_name = _FIELD.TYPE_MESSAGE, f".refinedet_tf.{kind}"
            else:
                declared.type = kind
    # A separate pool keeps these messages from colliding with the Caffe messages of another package.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"refinedet_tf.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _message_classes()


def _parse(message: str, content: bytes, complaint: str) -> Any:
    """Returns the message of the given name; raises an InputError with `complaint` if it is damaged."""
    try:
        return _CLASSES[message].FromString(content)
    except (DecodeError, ValueError, RecursionError):
        raise InputError(complaint) from None


def _content(path: Path) -> bytes:
    """Returns the bytes of the file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a .caffemodel file")
    if not path.is_file():
        raise InputError(f"weights not found: {path}")
    with explain_os_errors(path, "cannot be read"):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes, a .caffemodel file at most {MAX_BYTES}")
        content = path.read_bytes()
    if not content:
        raise InputError(f"{path} is empty, not a .caffemodel file")
    return content


def _text(raw: bytes, what: str) -> str:
    """Returns a printable text that is not empty; `what` describes it in errors."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{what} is not valid UTF-8: is the file damaged?") from None
    if not text:
        raise InputError(f"{what} is empty: is the file damaged?")
    # Messages contain names, and must be one line.
    if not text.isprintable():
        raise InputError(f"{what}, {_short(text)}, holds control characters: is the file damaged?")
    return text


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


def _array(blob: Any, where: str) -> np.ndarray:
    """Returns the values of a Blob message in its shape; `where` describes it in errors."""
    shape = _shape(blob, where)
    # Python's integers cannot overflow, whatever a damaged shape says.
    count = math.prod(shape)
    values = _values(blob, count, where)
    if values.size != count:
        raise InputError(f"{where} holds {values.size} values, its shape {shape} wants {count}")
    if invalid := find_invalid(values):
        raise InputError(f"{where} {invalid}")
    return values.astype(np.float32, copy=False).reshape(shape)


def _shape(blob: Any, where: str) -> list[int]:
    """Returns the shape as Caffe's Blob::FromProto does: each of the old numbers makes a blob old-style."""
    old = ("num", "channels", "height", "width")
    if any(blob.HasField(side) for side in old):
        shape = [getattr(blob, side) for side in old]
    else:
        shape = blob.shape.dim
    if len(shape) > MAX_AXES:
        raise InputError(f"{where} has {len(shape)} dimensions, Caffe's have at most {MAX_AXES}")
    if any(side < 1 for side in shape):
        raise InputError(f"{where} has the shape {list(shape)}, but dimensions are at least 1")
    return list(shape)


def _values(blob: Any, count: int, where: str) -> np.ndarray:
    """Returns float32 or float64 [n], where n may differ from `count`, the number that the shape wants."""
    floats = _packed(blob.data, "<f4", f"{where}: data")
    doubles = _packed(blob.double_data, "<f8", f"{where}: double_data")
    if not floats.size and not doubles.size:
        # Protobuf also allows single values, each after its tag. It even allows a mixture with packed values,
        # whose order would be lost here, so that the single values of a mixture count as missing.
        slow = _parse("SlowBlob", blob.SerializeToString(), f"{where} is damaged")
        floats = np.fromiter(slow.data, np.float32, len(slow.data))
        doubles = np.fromiter(slow.double_data, np.float64, len(slow.double_data))
    if floats.size and doubles.size:
        raise InputError(
            f"{where} holds both data ({floats.size} values) and double_data ({doubles.size}): "
            "there should be one of them"
        )
    if not floats.size and not doubles.size:
        raise InputError(f"{where} holds neither data nor double_data, its shape wants {count} values")
    return doubles if doubles.size else floats


def _packed(chunks: Iterable[bytes], dtype: str, what: str) -> np.ndarray:
    """Joins packed values to an array [n]; `what` describes them in errors."""
    chunks, size = list(chunks), np.dtype(dtype).itemsize
    for chunk in chunks:
        if len(chunk) % size:
            raise InputError(f"{what} has {len(chunk)} bytes, not a multiple of {size}")
    return np.frombuffer(b"".join(chunks), dtype)
