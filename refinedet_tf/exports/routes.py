"""The ways in which images become detections in the exported files, each as a user would load it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.images import read_image, warp_image
from refinedet_tf.exports import litert_files, mediapipe_file, onnx_files
from refinedet_tf.exports.runtimes import ExportedFile, LiteRTFile, MediaPipeFileInLiteRT, OnnxFile
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.candidates import candidates
from refinedet_tf.refinedet.postprocessing import postprocess
from refinedet_tf.tensors import Tensor

CANDIDATE_TOLERANCE = 1e-5
"""The largest accepted relative difference between the boxes and scores of a file without suppression and
those that are computed from its heads."""

CANDIDATES_AT_A_THRESHOLD = 1e-4
"""The accepted fraction of these numbers that differ by more, because scores are 0 below the thresholds."""

FLOAT_FILES = (
    *(onnx_files.DETECTOR, litert_files.DETECTOR, onnx_files.HEADS, litert_files.HEADS),
    mediapipe_file.MEDIAPIPE,
)
INT8_FILES = (onnx_files.HEADS_INT8, litert_files.HEADS_INT8, mediapipe_file.MEDIAPIPE_INT8)


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

Answer = tuple[Rows, Mapping[str, np.ndarray] | None]
"""The detections of an image, and the heads [A, ...] by name; None where the exported form gives no heads."""

Route = Callable[[Sequence[Sample]], Iterable[Answer]]
"""A function from samples to the answers of an exported form on each of them."""


def saved_model_routes(folder: Path, config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Loads a SavedModel and returns the route of each signature, by name."""
    loaded, anchors = tf.saved_model.load(str(folder)), tile_anchors(size, config.model.anchors)

    def call(name: str, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # The function uses `loaded`, because this keeps the variables alive.
        return loaded.signatures[name](**inputs)

    def serving_default(samples: Sequence[Sample]) -> list[Answer]:
        outputs = call("serving_default", image_bytes=tf.constant([s.contents for s in samples]))
        return [(served_rows(outputs, row), None) for row in range(len(samples))]

    def serving_tensor(samples: Sequence[Sample]) -> list[Answer]:
        outputs = (call("serving_tensor", images=tf.constant(sample.pixels[None])) for sample in samples)
        return [(served_rows(of_sample, 0), None) for of_sample in outputs]

    def serving_heads(samples: Sequence[Sample]) -> list[Answer]:
        heads = call("serving_heads", images=tf.stack([warp_image(s.pixels, size) for s in samples]))
        outputs = postprocess(heads, anchors, config)
        return [(served_rows(outputs, row), _row_of(heads, row)) for row in range(len(samples))]

    return {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_heads": serving_heads,
    }


def load_files(folder: Path, names: Sequence[str]) -> dict[str, ExportedFile]:
    """Loads those of the named ONNX and LiteRT files that the folder of a version holds, by name."""
    files: dict[str, ExportedFile] = {}
    for name in names:
        path = folder / ("onnx" if name.endswith(".onnx") else "litert") / name
        if path.exists():
            in_litert = MediaPipeFileInLiteRT if name in mediapipe_file.FILES else LiteRTFile
            files[name] = OnnxFile(path) if name.endswith(".onnx") else in_litert(path)
    return files


def file_routes(files: Mapping[str, ExportedFile], config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Returns the route of each of the files that `load_files` has loaded, by name."""
    anchors = tile_anchors(size, config.model.anchors)

    def detect(name: str, sample: Sample) -> Answer:
        takes_any_size = name == onnx_files.DETECTOR
        pixels = sample.pixels if takes_any_size else warp_image(sample.pixels, size).numpy()
        # A file with a fixed batch gets the image repeated. Its last row shows that all rows are computed.
        outputs = files[name](np.repeat(pixels[None], files[name].batch or 1, axis=0))
        if "num_detections" in outputs:
            return served_rows(outputs, -1), None
        for values, computed in zip(("boxes", "scores"), candidates(outputs, anchors, config), strict=True):
            # Boxes are not clipped here. The error is relative, because large numbers have no more digits
            # than small numbers.
            error = np.abs(outputs[values] - computed) / np.maximum(1.0, np.abs(computed))
            if np.mean(~(error <= CANDIDATE_TOLERANCE)) > CANDIDATES_AT_A_THRESHOLD:
                raise ExportMismatch(
                    f"{name}: {values} differ by up to {error.max():.2g} from those of its heads"
                )
        return served_rows(postprocess(outputs, anchors, config), -1), _row_of(outputs, -1)

    return {name: partial(map, partial(detect, name)) for name in files}


def served_rows(outputs: Mapping[str, Tensor], row: int) -> Rows:
    """Returns the detections of one image from the dict of `postprocess`, without the padding."""
    num_detections = int(outputs["num_detections"][row])
    boxes, scores, labels = (
        np.asarray(outputs[f"detection_{name}"][row])[:num_detections]
        for name in ("boxes", "scores", "classes")
    )
    return boxes, scores, labels


def _row_of(heads: Mapping[str, Tensor], row: int) -> dict[str, np.ndarray]:
    """Returns the heads of one image of a batch."""
    return {name: np.asarray(head[row]) for name, head in heads.items()}
