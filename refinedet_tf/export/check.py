"""The comparison of the exported files with the network from which they were made."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.data.shapes import make_image
from refinedet_tf.export import onnx_files
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector, read_image
from refinedet_tf.inference.postprocessing import candidates, postprocess
from refinedet_tf.precision import full_float32
from refinedet_tf.tensors import Tensor


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """The largest accepted differences.

    Attributes:
        boxes: the difference of a coordinate, in units of the image's sides.
        scores: the difference of a score.
        lost: the fraction of detections that only one side has. At a threshold, the last bit of a float
            decides whether a candidate passes and what it suppresses.
    """

    boxes: float
    scores: float
    lost: float


TOLERANCES = {
    # If there are fewer than 200 detections, none may be lost.
    "float32": Tolerance(1e-3, 1e-4, 5e-3),
    # bfloat16 has three decimal digits, and XLA rounds at other places than TensorFlow's kernels.
    "bfloat16": Tolerance(5e-2, 5e-2, 5e-2),
}
"""The tolerance for each precision, in which both sides compute."""

SAME_OBJECT = 0.05
"""The largest difference of coordinates and score at which two detections of a class count as the same."""

CANDIDATE_TOLERANCE = 1e-5
"""The largest accepted relative difference between the boxes and scores of heads.onnx and those that are
computed from its heads."""

CANDIDATES_AT_A_THRESHOLD = 1e-4
"""The accepted fraction of these numbers that differ by more, because scores are 0 below the thresholds."""

FILES_AT_ONCE = 4
"""The number of images, of any sizes, per call of `serving_default`."""


class ExportMismatch(RuntimeError):
    """An exported file does not detect what the network in this process detects."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image on which exported files and network are compared.

    Attributes:
        contents: the bytes of the image file.
        pixels: uint8 [H, W, 3], RGB.
    """

    contents: bytes
    pixels: np.ndarray

    @classmethod
    def of_file(cls, path: Path) -> "Sample":
        """Reads an image file; the errors are those of `read_image`."""
        return cls(pixels=read_image(path), contents=path.read_bytes())


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The detections of an image: boxes [n, 4], normalised `[ymin, xmin, ymax, xmax]`, scores [n], labels [n]."""


@dataclasses.dataclass
class Comparison:
    """The differences between the detections of an exported form and those of the network, on all images.

    Attributes:
        name: the name of the signature or file.
        detections: the number of the network's detections.
        lost: the number of detections that only one side has.
        boxes: the largest difference of a coordinate, normalised.
        scores: the largest difference of a score.
    """

    name: str
    detections: int = 0
    lost: int = 0
    boxes: float = 0.0
    scores: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.detections} detections, {self.lost} not found again, boxes differ by at "
            f"most {self.boxes:.2g} (normalised), scores by {self.scores:.2g}"
        )

    def within(self, tolerance: Tolerance) -> bool:
        """Returns whether all differences are accepted."""
        return (
            self.boxes <= tolerance.boxes
            and self.scores <= tolerance.scores
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


Route = Callable[[Sequence[Sample]], Iterable[Rows]]
"""A function from samples to the detections of an exported form on each of them."""


@full_float32()
def check_export(
    folder: Path, detector: Detector, config: Config, samples: Sequence[Sample], tolerance: Tolerance
) -> list[Comparison]:
    """Compares the files in the folder of a version with the network.

    The files are loaded as a user would load them: each signature of the SavedModel in TensorFlow, and the
    ONNX files, if there are any, in onnxruntime. Heads are post-processed here.

    Args:
        folder: the folder of the version.
        detector: the network that was exported.
        config: the config of the network.
        samples: the images.
        tolerance: the accepted differences.

    Returns:
        A comparison for each signature and file.

    Raises:
        ExportMismatch: a difference exceeds the tolerance.
    """
    expected = [_result_rows(result) for result in detector([sample.pixels for sample in samples])]
    size = detector.image_size
    routes = _saved_model_routes(folder, config, size) | _onnx_routes(folder / "onnx", config, size)
    comparisons = [_compare(name, route, samples, expected) for name, route in routes.items()]
    wrong = [comparison for comparison in comparisons if not comparison.within(tolerance)]
    if wrong:
        raise ExportMismatch(
            "; ".join(map(str, wrong)) + f" (accepted: {tolerance.boxes:g} in boxes, {tolerance.scores:g} in "
            f"scores, {tolerance.lost:.1%} not found again)"
        )
    return comparisons


@full_float32()
def check_precision(narrow: Detector, wide: Detector, samples: Sequence[Sample]) -> Comparison:
    """Measures how much bfloat16 changes the detections of float32; no difference is refused.

    Args:
        narrow: the network in bfloat16.
        wide: the network in float32.
        samples: the images.
    """
    pixels = [sample.pixels for sample in samples]
    comparison = Comparison("bfloat16 compared with float32")
    for expected, actual in zip(wide(pixels), narrow(pixels), strict=True):
        comparison.add(_result_rows(expected), _result_rows(actual))
    return comparison


def generated_samples() -> list[Sample]:
    """Makes images without any data: three with generated shapes, and one of noise without objects."""
    scenes = [make_image(0, "export", index)[0] for index in range(3)]
    scenes[1] = np.ascontiguousarray(scenes[1][: len(scenes[1]) // 2])
    files = [tf.io.encode_jpeg(scene) for scene in scenes[:2]]
    # The anchors of a plain image would have equal scores, and it would be arbitrary which are kept.
    noise = np.random.default_rng(0).integers(90, 160, (61, 97, 3), np.uint8)
    files += [tf.io.encode_png(image) for image in (scenes[2], noise)]
    return [Sample(file.numpy(), decode_image(file).numpy()) for file in files]


def _compare(name: str, route: Route, samples: Sequence[Sample], expected_rows: Sequence[Rows]) -> Comparison:
    """Compares the detections of an exported form with the network's, `FILES_AT_ONCE` images at a time."""
    comparison = Comparison(name)
    for first in range(0, len(samples), FILES_AT_ONCE):
        batch = slice(first, first + FILES_AT_ONCE)
        for expected, actual in zip(expected_rows[batch], route(samples[batch]), strict=True):
            comparison.add(expected, actual)
    return comparison


def _saved_model_routes(folder: Path, config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Loads a SavedModel and returns the route of each signature, by name."""
    loaded, anchors = tf.saved_model.load(str(folder)), tile_anchors(size, config.model.anchors)

    def call(name: str, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # The function uses `loaded`, because this keeps the variables alive.
        return loaded.signatures[name](**inputs)

    def serving_default(samples: Sequence[Sample]) -> list[Rows]:
        outputs = call("serving_default", image_bytes=tf.constant([s.contents for s in samples]))
        return [_served_rows(outputs, row) for row in range(len(samples))]

    def serving_tensor(samples: Sequence[Sample]) -> list[Rows]:
        return [_served_rows(call("serving_tensor", images=tf.constant(s.pixels[None])), 0) for s in samples]

    def serving_heads(samples: Sequence[Sample]) -> list[Rows]:
        heads = call("serving_heads", images=tf.stack([warp_image(s.pixels, size) for s in samples]))
        outputs = postprocess(heads, anchors, config)
        return [_served_rows(outputs, row) for row in range(len(samples))]

    return {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_heads": serving_heads,
    }


def _onnx_routes(folder: Path, config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Loads the ONNX files, if the folder exists, and returns the route of each file, by name."""
    if not folder.is_dir():
        return {}
    detector, heads = (_onnx_function(folder / name) for name in (onnx_files.DETECTOR, onnx_files.HEADS))
    anchors = tile_anchors(size, config.model.anchors)

    def whole(samples: Sequence[Sample]) -> list[Rows]:
        # The last row shows that all rows of a fixed batch are computed.
        return [_served_rows(detector(s.pixels), -1) for s in samples]

    def postprocessed(samples: Sequence[Sample]) -> Iterator[Rows]:
        for sample in samples:
            outputs = heads(warp_image(sample.pixels, size).numpy())
            for name, value in zip(("boxes", "scores"), candidates(outputs, anchors, config), strict=True):
                # Boxes are not clipped here. The error is relative, because large numbers have no more
                # digits than small numbers.
                error = np.abs(outputs[name] - value) / np.maximum(1.0, np.abs(value))
                if np.mean(~(error <= CANDIDATE_TOLERANCE)) > CANDIDATES_AT_A_THRESHOLD:
                    raise ExportMismatch(
                        f"{onnx_files.HEADS}: {name} differ by up to {error.max():.2g} from those of its "
                        "heads"
                    )
            yield _served_rows(postprocess(outputs, anchors, config), -1)

    return {onnx_files.DETECTOR: whole, onnx_files.HEADS: postprocessed}


def _onnx_function(file: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads an ONNX file as a function from an image to the outputs by name.

    The image is repeated if the file has a fixed batch.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    names = [output.name for output in session.get_outputs()]

    def call(pixels: np.ndarray) -> dict[str, np.ndarray]:
        values = session.run(names, {image.name: np.repeat(pixels[None], batch, axis=0)})
        return dict(zip(names, values, strict=True))

    return call


def _result_rows(result: ImageDetections) -> Rows:
    return result.normalized_boxes, result.scores, result.labels


def _served_rows(outputs: Mapping[str, Tensor], row: int) -> Rows:
    """Returns the detections of one image from the dict of `postprocess`, without the padding."""
    num_detections = int(outputs["num_detections"][row])
    boxes, scores, labels = (
        np.asarray(outputs[f"detection_{name}"][row])[:num_detections]
        for name in ("boxes", "scores", "classes")
    )
    return boxes, scores, labels
