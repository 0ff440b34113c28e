"""What a server's outputs for one image must look like, whichever way they came."""

from collections.abc import Mapping

import numpy as np

from refinedet_tf.errors import InputError

SIGNATURE = "serving_default"
"""Image files in, detections out."""

INPUT = "image_bytes"

ROW_SHAPES = {
    "detection_boxes": (None, 4),
    "detection_scores": (None,),
    "detection_classes": (None,),
    "num_detections": (),
    "image_decoded": (),
}
"""The outputs of `SIGNATURE` and their shapes for one image; None: the most detections of an image."""

_ADVICE = "which no export of RefineDet gives: is --model the right one?"


def read_row(outputs: Mapping[str, object]) -> dict:
    """One image's detections from the outputs that the server gave for it.

    Args:
        outputs: the names in `ROW_SHAPES` -> nested lists, numbers or arrays. Other names are ignored.

    Returns:
        "boxes" float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`; "scores" float32 [n];
        "labels" int32 [n], 1..C; "decoded" bool: False where the server could not decode the image,
        which then has no detections.

    Raises:
        InputError: an output is missing, or is not what an export of RefineDet gives; names it.
    """
    if not isinstance(outputs, Mapping):
        raise InputError(f"the server's answer for an image is {outputs!r:.60}, {_ADVICE}")
    values = {name: _array(outputs, name, shape) for name, shape in ROW_SHAPES.items()}
    found, most = values["num_detections"], len(values["detection_scores"])
    if {len(values["detection_boxes"]), len(values["detection_classes"])} != {most}:
        raise InputError(f"the server's boxes, scores and classes differ in number, {_ADVICE}")
    if found != int(found) or not 0 <= found <= most:
        raise InputError(f"the server's num_detections is {found:g} of {most}, {_ADVICE}")
    found = slice(int(found))
    labels = values["detection_classes"][found]
    if (labels != labels.astype(np.int32)).any() or (labels < 1).any():
        raise InputError(f"the server's detection_classes are not whole numbers from 1, {_ADVICE}")
    return {
        "boxes": values["detection_boxes"][found],
        "scores": values["detection_scores"][found],
        "labels": labels.astype(np.int32),
        "decoded": bool(values["image_decoded"]),
    }


def _array(outputs, name, shape):
    """An output as float32; booleans become 0 and 1, and large label numbers stay exact."""
    if name not in outputs:
        raise InputError(
            f"the server's answer has no {name}, only {', '.join(sorted(map(str, outputs))) or 'nothing'}: "
            "is --model an export of RefineDet?"
        )
    try:
        array = np.asarray(outputs[name], np.float32)
    except (TypeError, ValueError):
        raise InputError(f"the server's {name} is no array of numbers, {_ADVICE}") from None
    if array.size == 0 and array.ndim == 1 and len(shape) == 2:
        array = array.reshape(0, *shape[1:])  # JSON has no shape for "no boxes".
    if array.ndim != len(shape) or any(e not in (None, a) for e, a in zip(shape, array.shape, strict=True)):
        expected = ", ".join("K" if size is None else str(size) for size in shape)
        raise InputError(f"the server's {name} is {list(array.shape)} an image instead of [{expected}]")
    if not np.isfinite(array).all():
        raise InputError(f"the server's {name} holds numbers that are not finite")
    return array
