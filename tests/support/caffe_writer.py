"""Writes `.caffemodel` files byte by byte, without the protobuf library that the reader uses."""

import struct
from pathlib import Path

import numpy as np

VARINT, DOUBLE, DELIMITED, FLOAT = 0, 1, 2, 5
"""Wire types of protobuf."""

V1_NUMBERS = {"Convolution": 4, "Data": 5, "InnerProduct": 14, "ReLU": 18, "Deconvolution": 39}


def varint(number):
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    number %= 2**64
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number, value):
    """A field of an integer, a float (as 32 bits), a string or bytes (which may be a message)."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | FLOAT) + struct.pack("<f", value)
    value = value.encode() if isinstance(value, str) else value
    return _head(number, len(value)) + value


def write_caffemodel(path, layers, *, double=False, old_shapes=False, v1=False, packed=True):
    """Writes a net to a file, one array at a time.

    Args:
        path: str or Path.
        layers: (name, type, [arrays]) of each, possibly without arrays; may be a generator.
        double: double_data instead of data.
        old_shapes: num, channels, height and width, with leading ones, instead of shape.
        v1: V1LayerParameter; types that are not in V1_NUMBERS become 0.
        packed: False writes a tag before every value.
    """
    with Path(path).open("wb") as file:
        file.write(field(1, "net"))
        for name, kind, arrays in layers:
            head = (
                field(4, name) + field(5, V1_NUMBERS.get(kind, 0)) if v1 else field(1, name) + field(2, kind)
            )
            blobs = [_blob(array, double, old_shapes, packed) for array in arrays]
            heads = [_head(6 if v1 else 7, len(start) + values.nbytes) + start for start, values in blobs]
            size = len(head) + sum(map(len, heads)) + sum(values.nbytes for _, values in blobs)
            file.write(_head(2 if v1 else 100, size) + head)
            for blob_head, (_, values) in zip(heads, blobs, strict=True):
                file.write(blob_head)
                file.write(values.tobytes())


def _head(number, size):
    """What comes before `size` bytes of a field."""
    return varint(number << 3 | DELIMITED) + varint(size)


def _blob(array, double, old_shapes, packed):
    """(the bytes before the values, the values as an array whose bytes are those of the file)."""
    array = np.asarray(array)
    if old_shapes:
        sides = (1,) * (4 - array.ndim) + array.shape
        start = b"".join(field(number, side) for number, side in enumerate(sides, 1))
    else:
        start = field(7, field(1, b"".join(map(varint, array.shape))))
    number, values = (8 if double else 5), np.ravel(array).astype("<f8" if double else "<f4", copy=False)
    if packed:
        return start + _head(number, values.nbytes), values
    tagged = np.empty(values.size, [("tag", "u1"), ("value", values.dtype)])
    tagged["tag"], tagged["value"] = number << 3 | (DOUBLE if double else FLOAT), values
    return start, tagged
