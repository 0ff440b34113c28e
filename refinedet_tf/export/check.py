"""Whether everything that was exported detects what the network detects."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.data.shapes import make_image
from refinedet_tf.export import onnx_files
from refinedet_tf.inference.detector import Detector, read_image
from refinedet_tf.inference.postprocessing import candidates, postprocess
from refinedet_tf.precision import full_float32


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Accepted differences.

    Attributes:
        boxes: of a coordinate, in units of the image's sides.
        scores: of a score.
        lost: fraction of detections that only one side has. At a threshold, the last bit of a float decides
            whether a candidate passes and what it suppresses.
    """

    boxes: float
    scores: float
    lost: float


TOLERANCES = {
    # Among fewer than 200 detections none may be lost.
    "float32": Tolerance(1e-3, 1e-4, 5e-3),
    # Three decimal digits, and XLA rounds at other places than the kernels without it.
    "bfloat16": Tolerance(5e-2, 5e-2, 5e-2),
}
"""By the precision that both sides compute in."""

SAME_OBJECT = 0.05
"""Detections of one class that differ by at most this in boxes and score are taken for the same."""

CANDIDATE_TOLERANCE = 1e-5
"""Largest accepted relative difference between heads.onnx's boxes and scores and those made of its heads."""

CANDIDATES_AT_A_THRESHOLD = 1e-4
"""Accepted fraction of them that differ by more: scores are 0 below the thresholds."""

FILES_AT_ONCE = 4
"""Images of any sizes in a call of `serving_default`."""


class ExportMismatch(RuntimeError):
    """What was exported does not detect what the network in this process detects."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image to compare on: its file's bytes and its pixels, uint8 [H, W, 3]."""

    contents: bytes
    pixels: np.ndarray

    @classmethod
    def of_file(cls, path: Path) -> "Sample":
        """Reads an image file; errors are those of `read_image`."""
        return cls(pixels=read_image(path), contents=path.read_bytes())


@dataclasses.dataclass
class Comparison:
    """How the detections of one exported form differ from the network's, over all images.

    Attributes:
        name: of the signature or file.
        detections: the network's, all images together.
        lost: detections that one side alone has.
        boxes: largest difference of a coordinate, normalised.
        scores: largest difference of a score.
    """

    name: str
    detections: int = 0
    lost: int = 0
    boxes: float = 0.0
    scores: float = 0.0

    def __str__(self):
        return (
            f"{self.name}: {self.detections} detections, {self.lost} not found again, boxes differ by at "
            f"most {self.boxes:.2g} (normalised), scores by {self.scores:.2g}"
        )

    def within(self, tolerance: Tolerance) -> bool:
        """Whether no difference is larger than accepted."""
        return (
            self.boxes <= tolerance.boxes
            and self.scores <= tolerance.scores
            and self.lost <= tolerance.lost * self.detections
        )

    def add(self, expected, actual) -> None:
        """Compares one image's detections, each side (boxes, scores, labels) by descending score.

        Each detection is paired with the nearest one of its class on the other side. As both sides are in
        order of score and the scores of pairs agree, so does the order.
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
            # By both, since several boxes may have been cut to the same part of the image.
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


Route = Callable[[Sequence[Sample]], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""Samples to what one exported form detects on each: boxes normalised [n, 4], scores [n], labels [n]."""


@full_float32()
def check_export(
    folder: Path, detector: Detector, config: Config, samples: Sequence[Sample], tolerance: Tolerance
) -> list[Comparison]:
    """Compares all that is in the folder of a version with the network.

    The files are loaded as a user would: each signature of the SavedModel, and the ONNX files, if there are
    any, in onnxruntime. Raw heads are post-processed here.

    Args:
        folder: of the version.
        detector: the network that was exported.
        config: of the network.
        samples: images to compare on.
        tolerance: what is accepted.

    Returns:
        A comparison for each signature and file.

    Raises:
        ExportMismatch: a difference is above the tolerances.
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
    """How much bfloat16 changes the detections of float32, which is stated and not judged.

    Args:
        narrow, wide: the network in bfloat16 and in float32.
        samples: images to compare on.
    """
    pixels = [sample.pixels for sample in samples]
    comparison = Comparison("bfloat16 beside float32")
    for expected, actual in zip(wide(pixels), narrow(pixels), strict=True):
        comparison.add(_result_rows(expected), _result_rows(actual))
    return comparison


def generated_samples() -> list[Sample]:
    """Images that need no data: three of the generated set, and one of noise with nothing on it."""
    scenes = [make_image(0, "export", index)[0] for index in range(3)]
    scenes[1] = np.ascontiguousarray(scenes[1][: len(scenes[1]) // 2])
    files = [tf.io.encode_jpeg(scene) for scene in scenes[:2]]
    # Not plain: its anchors would have equal scores, and of those nothing decides which one is kept.
    noise = np.random.default_rng(0).integers(90, 160, (61, 97, 3), np.uint8)
    files += [tf.io.encode_png(image) for image in (scenes[2], noise)]
    return [Sample(file.numpy(), decode_image(file).numpy()) for file in files]


def _compare(name, route, samples, expected):
    comparison = Comparison(name)
    for first in range(0, len(samples), FILES_AT_ONCE):
        chosen = slice(first, first + FILES_AT_ONCE)
        for one, other in zip(expected[chosen], route(samples[chosen]), strict=True):
            comparison.add(one, other)
    return comparison


def _saved_model_routes(folder, config, size) -> dict[str, Route]:
    loaded, anchors = tf.saved_model.load(str(folder)), tile_anchors(size)

    def call(name, **inputs):
        # Through `loaded`, which keeps the variables alive.
        return loaded.signatures[name](**inputs)

    def serving_default(samples):
        outputs = call("serving_default", image_bytes=tf.constant([s.contents for s in samples]))
        return [_served_rows(outputs, row) for row in range(len(samples))]

    def serving_tensor(samples):
        return [_served_rows(call("serving_tensor", images=tf.constant(s.pixels[None])), 0) for s in samples]

    def serving_heads(samples):
        heads = call("serving_heads", images=tf.stack([warp_image(s.pixels, size) for s in samples]))
        outputs = postprocess(heads, anchors, config)
        return [_served_rows(outputs, row) for row in range(len(samples))]

    return {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_heads": serving_heads,
    }


def _onnx_routes(folder, config, size) -> dict[str, Route]:
    if not folder.is_dir():
        return {}
    detector, heads = (_onnx_function(folder / name) for name in (onnx_files.DETECTOR, onnx_files.HEADS))
    anchors = tile_anchors(size)

    def whole(samples):
        # The last row, so that a fixed batch is seen to its end.
        return [_served_rows(detector(s.pixels), -1) for s in samples]

    def postprocessed(samples):
        for sample in samples:
            outputs = heads(warp_image(sample.pixels, size).numpy())
            for name, value in zip(("boxes", "scores"), candidates(outputs, anchors, config), strict=True):
                # Boxes are not clipped here, and large ones have no more digits than small ones.
                error = np.abs(outputs[name] - value) / np.maximum(1.0, np.abs(value))
                if np.mean(~(error <= CANDIDATE_TOLERANCE)) > CANDIDATES_AT_A_THRESHOLD:
                    raise ExportMismatch(
                        f"{onnx_files.HEADS}: {name} differ by up to {error.max():.2g} from those of its "
                        "heads"
                    )
            yield _served_rows(postprocess(outputs, anchors, config), -1)

    return {onnx_files.DETECTOR: whole, onnx_files.HEADS: postprocessed}


def _onnx_function(file):
    """A function of one image to the outputs by name, of a batch of as many rows as the file wants."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    names = [output.name for output in session.get_outputs()]

    def call(pixels):
        values = session.run(names, {image.name: np.repeat(pixels[None], batch, axis=0)})
        return dict(zip(names, values, strict=True))

    return call


def _result_rows(result):
    """(boxes normalised, scores, labels) of one result of a `Detector`."""
    return result.normalized_boxes, result.scores, result.labels


def _served_rows(outputs, row):
    """The same of one image of a signature's outputs."""
    found = slice(int(outputs["num_detections"][row]))
    names = ("detection_boxes", "detection_scores", "detection_classes")
    return tuple(np.asarray(outputs[name][row])[found] for name in names)
