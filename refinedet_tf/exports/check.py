"""The comparison of the exported files with the network from which they were made."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.data.shapes import make_image
from refinedet_tf.errors import first_line
from refinedet_tf.exports.mediapipe_file import MEDIAPIPE
from refinedet_tf.exports.routes import (
    FLOAT_FILES,
    INT8_FILES,
    ExportMismatch,
    Route,
    Rows,
    Sample,
    file_routes,
    load_files,
    saved_model_routes,
)
from refinedet_tf.exports.runtimes import MediaPipeFile
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector
from refinedet_tf.precision import full_float32


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """The largest accepted differences.

    Attributes:
        boxes: the difference of a coordinate, in units of the image's sides.
        scores: the difference of a score.
        heads: the relative difference of a head, see `Comparison`.
        lost: the fraction of detections that only one side has. At a threshold, the last bit of a float
            decides whether a candidate passes and what it suppresses.
    """

    boxes: float
    scores: float
    heads: float
    lost: float


TOLERANCES = {
    # If there are fewer than 200 detections, none may be lost.
    "float32": Tolerance(1e-3, 1e-4, 1e-3, 5e-3),
    # bfloat16 has three decimal digits, and XLA rounds at other places than TensorFlow's kernels. Heads of
    # MobileNetV2 with random weights differ by 0.04, those of other weights by more than 1.
    "bfloat16": Tolerance(5e-2, 5e-2, 0.2, 5e-2),
}
"""The tolerance for each precision, in which both sides compute."""

SAME_OBJECT = 0.05
"""The largest difference of coordinates and score at which two detections of a class count as the same."""

SMALLEST_HEAD = 1e-3
"""The smallest root of the mean square by which the difference of a head is divided; offsets that a new
network gives may be close to 0."""

FILES_AT_ONCE = 4
"""The number of images, of any sizes, per call of `serving_default`, and of those whose heads are compared at
the beginning."""


@dataclasses.dataclass
class Comparison:
    """The differences between the detections of an exported form and those of the network, on all images.

    Attributes:
        name: the name of the signature or file.
        detections: the number of the network's detections.
        lost: the number of detections that only one side has.
        boxes: the largest difference of a coordinate, normalised.
        scores: the largest difference of a score.
        heads: the largest relative difference of a head, which no threshold hides: the root of the mean
            square of its difference by that of the network's head; None: the form does not give the heads.
    """

    name: str
    detections: int = 0
    lost: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    heads: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.detections} detections, {self.lost} not found again, boxes differ by at "
            f"most {self.boxes:.2g} (normalised), scores by {self.scores:.2g}"
        )
        if not self.detections and not self.lost:
            text = f"{self.name}: no detections to compare on these images"
        return text if self.heads is None else f"{text}, heads by {self.heads:.2g} (relative)"

    def within(self, tolerance: Tolerance) -> bool:
        """Returns whether all differences are accepted."""
        return (
            self.boxes <= tolerance.boxes
            and self.scores <= tolerance.scores
            and (self.heads or 0.0) <= tolerance.heads
            and self.lost <= tolerance.lost * self.detections
        )

    def add(self, expected: Rows, actual: Rows) -> None:
        """Compares the detections of an image.

        Each detection of the network is paired with the nearest detection of its class on the other
        side. Both sides are ordered by score and the scores of a pair agree, so the order agrees too.

        Args:
            expected: the network's detections, by descending score.
            actual: the detections of the exported form, by descending score.

        Raises:
            ExportMismatch: a box or a score is not finite, or the scores do not descend.
        """
        for name, (boxes, scores, _) in (("the network", expected), (self.name, actual)):
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise ExportMismatch(f"{name} gives a box or score that is not finite")
            if (np.diff(scores) > 0).any():
                raise ExportMismatch(f"{name} does not give its detections by descending score")
        self.detections += len(expected[1])
        free = np.ones(len(actual[1]), bool)
        for box, score, label in zip(*expected, strict=True):
            boxes = np.abs(actual[0] - box).max(axis=1, initial=0)
            scores = np.abs(actual[1] - score)
            # The distance is that of boxes and scores, because several boxes may be equal after clipping.
            distances = np.maximum(boxes, 10 * scores)
            possible = free & (actual[2] == label) & (np.maximum(boxes, scores) <= SAME_OBJECT)
            if not possible.any():
                self.lost += 1
                continue
            nearest = np.where(possible, distances, np.inf).argmin()
            free[nearest] = False
            self.boxes = max(self.boxes, float(boxes[nearest]))
            self.scores = max(self.scores, float(scores[nearest]))
        self.lost += int(free.sum())

    def add_heads(self, expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> None:
        """Compares the heads of an image, by name.

        Raises:
            ExportMismatch: a head is missing, of another shape or not finite.
        """
        for name, head in expected.items():
            found = actual.get(name)
            if found is None or found.shape != head.shape or not np.isfinite(found).all():
                raise ExportMismatch(f"{self.name} gives no finite {name} of shape {list(head.shape)}")
            size = max(_root_mean_square(head), SMALLEST_HEAD)
            self.heads = max(self.heads or 0.0, _root_mean_square(found - head) / size)


@full_float32()
def check_export(
    folder: Path, detector: Detector, config: Config, samples: Sequence[Sample], tolerance: Tolerance
) -> list[Comparison]:
    """Compares the files in the folder of a version with the network.

    The files are loaded as a user would load them: each signature of the SavedModel in TensorFlow, the ONNX
    and LiteRT files in onnxruntime and LiteRT, and the one for MediaPipe also in MediaPipe, if that is
    installed. Heads are post-processed here. How much int8 changes the detections is measured, not refused.

    Args:
        folder: the folder of the version.
        detector: the network that was exported.
        config: the config of the network.
        samples: the images.
        tolerance: the accepted differences of what computes in the precision of the network.

    Returns:
        A comparison for each signature and file.

    Raises:
        ExportMismatch: a difference exceeds the tolerance; or a box or a score of a file is not finite, or is
            not what its heads decode to.
    """
    size = detector.image_size
    files = load_files(folder, FLOAT_FILES)
    routes = saved_model_routes(folder, config, size) | file_routes(files, config, size)
    comparisons = _compare(routes, detector, samples)
    wrong = [comparison for comparison in comparisons if not comparison.within(tolerance)]
    if wrong:
        raise ExportMismatch(
            "; ".join(map(str, wrong)) + f" (accepted: {tolerance.boxes:g} in boxes, {tolerance.scores:g} in "
            f"scores, {tolerance.heads:g} in heads, {tolerance.lost:.1%} not found again)"
        )
    if MEDIAPIPE in files:
        comparisons += check_mediapipe(folder, detector, samples)
    of_int8 = file_routes(load_files(folder, INT8_FILES), config, size)
    named = {f"{name} compared with float32": route for name, route in of_int8.items()}
    return comparisons + (_compare(named, detector, samples) if named else [])


@full_float32()
def check_precision(narrow: Detector, wide: Detector, samples: Sequence[Sample]) -> Comparison:
    """Measures how much bfloat16 (`narrow`) changes the detections of float32; no difference is refused."""
    pixels = [sample.pixels for sample in samples]
    comparison = Comparison("bfloat16 compared with float32")
    for expected, actual in zip(wide(pixels), narrow(pixels), strict=True):
        comparison.add(_result_rows(expected), _result_rows(actual))
    return comparison


@full_float32()
def check_mediapipe(folder: Path, detector: Detector, samples: Sequence[Sample]) -> list[Comparison]:
    """Compares MediaPipe with the network, if it is installed; the arguments are those of `check_export`.

    The images are of the network's size, since MediaPipe resizes others by other samples.

    Returns:
        The comparison, or none.

    Raises:
        ExportMismatch: a side of a box differs by more than two pixels, or a score by more than 1e-3.

    Warns:
        UserWarning: MediaPipe is installed, but a library that it needs is not.
    """
    if importlib.util.find_spec("mediapipe") is None:
        return []
    try:
        importlib.import_module("mediapipe.tasks.python.vision")
    except (ImportError, OSError) as error:
        warnings.warn(
            f"mediapipe is installed but cannot be imported ({first_line(error)}): {MEDIAPIPE} was compared "
            "with the network in LiteRT alone",
            stacklevel=2,
        )
        return []
    resized = [of_network_size(sample.pixels, detector.image_size) for sample in samples]
    comparison = Comparison(f"{MEDIAPIPE} in MediaPipe")
    with MediaPipeFile(folder / "litert" / MEDIAPIPE, detector.class_names) as mediapipe:
        for pixels, expected in zip(resized, detector(resized), strict=True):
            comparison.add(_result_rows(expected), mediapipe(pixels))
    # MediaPipe cuts the corner and the size of a box to whole pixels.
    tolerance = Tolerance(2 / min(detector.image_size), 1e-3, 0.0, TOLERANCES["float32"].lost)
    if not comparison.within(tolerance):
        raise ExportMismatch(f"{comparison} (accepted: two pixels in boxes, 1e-3 in scores)")
    return [comparison]


def of_network_size(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image uint8 [H, W, 3] to `size` (height, width), in whole values."""
    return tf.cast(tf.round(warp_image(pixels, size)), tf.uint8).numpy()


def generated_samples() -> list[Sample]:
    """Makes images without any data: three with generated shapes, and one of noise without objects."""
    scenes = [make_image(0, "export", index)[0] for index in range(3)]
    scenes[1] = np.ascontiguousarray(scenes[1][: len(scenes[1]) // 2])
    files = [tf.io.encode_jpeg(scene) for scene in scenes[:2]]
    # The anchors of a plain image would have equal scores, and it would be arbitrary which are kept.
    noise = np.random.default_rng(0).integers(90, 160, (61, 97, 3), np.uint8)
    files += [tf.io.encode_png(image) for image in (scenes[2], noise)]
    return [Sample(file.numpy(), decode_image(file).numpy()) for file in files]


def _compare(routes: Mapping[str, Route], detector: Detector, samples: Sequence[Sample]) -> list[Comparison]:
    """Compares the answers of each form with the network's, and its heads on the first `FILES_AT_ONCE`."""
    pixels = [sample.pixels for sample in samples]
    expected = [_result_rows(result) for result in detector(pixels)]
    heads = detector.heads(pixels[:FILES_AT_ONCE])
    comparisons = [Comparison(name) for name in routes]
    for comparison, route in zip(comparisons, routes.values(), strict=True):
        for first in range(0, len(samples), FILES_AT_ONCE):
            batch = range(first, min(first + FILES_AT_ONCE, len(samples)))
            for row, (found, found_heads) in zip(batch, route([samples[r] for r in batch]), strict=True):
                comparison.add(expected[row], found)
                if row < FILES_AT_ONCE and found_heads is not None:
                    wanted = {name: np.asarray(head[row], np.float32) for name, head in heads.items()}
                    comparison.add_heads(wanted, found_heads)
    return comparisons


def _result_rows(result: ImageDetections) -> Rows:
    return result.normalized_boxes, result.scores, result.labels


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
