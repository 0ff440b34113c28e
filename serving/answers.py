"""What a server's outputs for one image must look like, whichever API they came through."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from refinedet_tf.errors import InputError

SIGNATURE = "serving_default"
"""The signature that takes image files and returns detections."""

INPUT = "image_bytes"
"""The input of `SIGNATURE`: strings [N], one whole image file each."""

ROW_SHAPES: dict[str, tuple[int | None, ...]] = {
    "detection_boxes": (None, 4),
    "detection_scores": (None,),
    "detection_classes": (None,),
    "num_detections": (),
    "image_decoded": (),
}
"""The outputs of `SIGNATURE` and their shapes for one image. None stands for K, the number of rows that
every image has; only the first `num_detections` of them count."""

_ADVICE = "which no export of RefineDet gives: is --model the right one?"


@dataclasses.dataclass(frozen=True, eq=False)
class ServedDetections:
    """The detections of one image as the server gave them, by descending score.

    Attributes:
        boxes: float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`, 0..1 of the image's sides.
        scores: float32 [n], 0..1.
        labels: int32 [n], 1..C.
        decoded: False if the server could not decode the image, which then has no detections.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    decoded: bool


def read_row(outputs: object) -> ServedDetections:
    """Reads the detections of one image from the outputs that the server gave for it.

    Args:
        outputs: should map the names in `ROW_SHAPES` to nested lists, numbers or arrays. Other names are
            ignored.

    Raises:
        InputError: an output is missing, or is not what an export of RefineDet gives; the message names
            it.
    """
    if not isinstance(outputs, Mapping):
        raise InputError(f"the server's answer for an image is {outputs!r:.60}, {_ADVICE}")
    values = {name: _read_array(outputs, name, shape) for name, shape in ROW_SHAPES.items()}
    num_detections, num_rows = float(values["num_detections"]), len(values["detection_scores"])
    if {len(values["detection_boxes"]), len(values["detection_classes"])} != {num_rows}:
        raise InputError(f"the server's boxes, scores and classes differ in number, {_ADVICE}")
    if not num_detections.is_integer() or not 0 <= num_detections <= num_rows:
        raise InputError(f"the server's num_detections is {num_detections:g} of {num_rows}, {_ADVICE}")
    valid = slice(int(num_detections))
    classes = values["detection_classes"][valid]
    labels = classes.astype(np.int32)
    if (classes != labels).any() or (labels < 1).any():
        raise InputError(f"the server's detection_classes are not whole numbers from 1, {_ADVICE}")
    return ServedDetections(
        boxes=values["detection_boxes"][valid],
        scores=values["detection_scores"][valid],
        labels=labels,
        decoded=bool(values["image_decoded"]),
    )


def _read_array(outputs: Mapping[str, object], name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Returns an output as float32. Booleans become 0 and 1, and whole numbers up to 2**24 stay exact."""
    if name not in outputs:
        raise InputError(
            f"the server's answer has no {name}, only {', '.join(sorted(map(str, outputs))) or 'nothing'}: "
            "is --model an export of RefineDet?"
        )
    try:
        array = np.array(outputs[name], np.float32)
    except (TypeError, ValueError):
        raise InputError(f"the server's {name} is no array of numbers, {_ADVICE}") from None
    if array.size == 0 and array.ndim == 1 and len(shape) == 2:
        array = array.reshape(0, 4)  # JSON has no shape for "no boxes".
    if array.ndim != len(shape) or any(
        expected not in (None, actual) for expected, actual in zip(shape, array.shape, strict=True)
    ):
        sides = ", ".join("K" if side is None else str(side) for side in shape)
        raise InputError(f"the server's {name} is {list(array.shape)} per image instead of [{sides}]")
    if not np.isfinite(array).all():
        raise InputError(f"the server's {name} holds numbers that are not finite")
    return array
