"""What a LiteRT file says of its tensors: the metadata that MediaPipe and other task libraries read.

The metadata are a flatbuffer of the schema `metadata_schema.fbs` of TensorFlow Lite (identifier "M001"), in
a buffer of the model that is called `BUFFER`. A table of that schema is written here as a dict from the
number of a field to its value; the numbers are those of the schema's order, and the types of NumPy say in how
many bytes it stores a number.
"""

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from refinedet_tf.exports.flatbuffer import Model, add_buffer

BUFFER = "TFLITE_METADATA"
"""The name under which a model holds its metadata."""

LABELS = "labels.txt"
"""The file with one class name per line, at the end of the LiteRT file; class 0 is its first line."""

OUTPUTS = ("location", "category", "score", "number of detections")
"""The names by which MediaPipe knows the outputs of a detector."""

IMAGE_PROPERTIES, BOX_PROPERTIES = np.array([2, 3], np.uint8)
"""The numbers of these tables in the union of a tensor's contents."""

NORMALIZATION = np.uint8(1)
"""The number of this table in the union of what a program does with a tensor."""

RGB, BOUNDARIES, RATIO, VALUE_LABELS = np.array([1, 1, 0, 3], np.uint8)
"""Values of the schema's enumerations: a colour space, a kind of box, a unit, and a kind of file."""

LEFT_TOP_RIGHT_BOTTOM = np.array([1, 0, 3, 2], np.uint32)
"""The places of these sides in a box `[ymin, xmin, ymax, xmax]`."""


Table = Mapping[int, Any]


def add_detector_metadata(model: Model, name: str, description: str, image_size: tuple[int, int]) -> None:
    """Adds the metadata of a detector to a model, whose file must hold `LABELS`.

    Args:
        model: takes one image, float32 RGB 0..255, and returns what `OUTPUTS` names.
        name: the name of the model.
        description: a sentence about it.
        image_size: (height, width) of the image in pixels.
    """
    height, width = image_size
    image = {
        0: "image",
        1: "RGB, 0..255; the whole image, warped to this size",
        3: {0: IMAGE_PROPERTIES, 1: {0: RGB, 1: {0: np.uint32(width), 1: np.uint32(height)}}},
        # (value - 0) / 1: the network normalises by itself.
        4: [{0: NORMALIZATION, 1: {0: [0.0], 1: [1.0]}}],
    }
    location, category, score, number = OUTPUTS
    box = {0: LEFT_TOP_RIGHT_BOTTOM, 1: BOUNDARIES, 2: RATIO}
    labels = {0: LABELS, 1: "the names of the classes", 2: VALUE_LABELS}
    outputs = [
        {0: location, 1: "boxes [ymin, xmin, ymax, xmax], 0..1", 3: {0: BOX_PROPERTIES, 1: box}},
        {0: category, 1: "the numbers of the classes, from 0", 6: [labels]},
        {0: score, 1: "scores 0..1, descending"},
        {0: number, 1: "the number of detections; the rows after them mean nothing"},
    ]
    group = {0: "detection_result", 1: [location, category, score]}
    tree: Table = {0: name, 1: description, 3: [{2: [image], 3: outputs, 8: [group]}], 7: "1.2.0"}
    builder = flatbuffers.Builder()
    builder.Finish(_write(builder, tree), file_identifier=b"M001")
    entry = schema.MetadataT()
    entry.name, entry.buffer = BUFFER.encode(), add_buffer(model, bytes(builder.Output()))
    model.metadata = [*(model.metadata or []), entry]


def _write(builder: flatbuffers.Builder, table: Table) -> int:
    """Writes a table, whose strings, vectors and tables must come before it, and returns its place."""
    places = {field: _write_value(builder, value) for field, value in table.items()}
    builder.StartObject(max(table) + 1)
    for field, value in table.items():
        if isinstance(value, np.uint8):
            builder.PrependUint8Slot(field, int(value), 0)
        elif isinstance(value, np.uint32):
            builder.PrependUint32Slot(field, int(value), 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, places[field], 0)
    return builder.EndObject()


def _write_value(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes what a field refers to, and returns its place; 0 for a number, which the table holds."""
    if isinstance(value, np.uint8 | np.uint32):
        return 0
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, Mapping):
        return _write(builder, value)
    numbers = {float: builder.PrependFloat32, np.uint32: builder.PrependUint32}
    prepend = numbers.get(type(value[0]))
    if prepend is None:
        value, prepend = [_write_value(builder, item) for item in value], builder.PrependUOffsetTRelative
    builder.StartVector(4, len(value), 4)
    for item in reversed(value):
        prepend(item)
    return builder.EndVector()
