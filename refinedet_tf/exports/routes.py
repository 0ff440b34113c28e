"""The ways in which images become detections in the exported files, each as a user would load it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        return [(_served_rows(outputs, row), None) for row in range(len(samples))]

    def serving_tensor(samples: Sequence[Sample]) -> list[Answer]:
        outputs = (call("serving_tensor", images=tf.constant(sample.pixels[None])) for sample in samples)
        return [(_served_rows(of_sample, 0), None) for of_sample in outputs]

    def serving_heads(samples: Sequence[Sample]) -> list[Answer]:
        heads = call("serving_heads", images=tf.stack([warp_image(s.pixels, size) for s in samples]))
        outputs = postprocess(heads, anchors, config)
        return [(_served_rows(outputs, row), _row_of(heads, row)) for row in range(len(samples))]

    return {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_heads": serving_heads,
    }


def file_routes(folder: Path, config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Loads the ONNX and LiteRT files in float32 and returns the route of each file, by name."""
    detectors = _load(folder, (onnx_files.DETECTOR, litert_files.DETECTOR))
    heads = _load(folder, (onnx_files.HEADS, litert_files.HEADS))
    for_mediapipe = _load(folder, (mediapipe_file.MEDIAPIPE,))

    def detector_route(name: str, file: ExportedFile) -> Route:
        def detect(sample: Sample) -> Answer:
            warped = name == litert_files.DETECTOR
            outputs = _call(file, warp_image(sample.pixels, size).numpy() if warped else sample.pixels)
            return _served_rows(outputs, -1), None

        return lambda samples: map(detect, samples)

    return (
        {name: detector_route(name, file) for name, file in detectors.items()}
        | {name: heads_route(name, file, config, size) for name, file in heads.items()}
        | {name: _route_of_mediapipe(file, size) for name, file in for_mediapipe.items()}
    )


def _route_of_mediapipe(file: ExportedFile, size: tuple[int, int]) -> Route:
    """Returns the route of a file for MediaPipe in LiteRT."""

    def detect(sample: Sample) -> Answer:
        return _served_rows(file(warp_image(sample.pixels[None], size).numpy()), 0), None

    return lambda samples: map(detect, samples)


def heads_route(name: str, file: ExportedFile, config: Config, size: tuple[int, int]) -> Route:
    """Returns the route of a file without suppression."""
    anchors = tile_anchors(size, config.model.anchors)

    def detect(sample: Sample) -> Answer:
        outputs = _call(file, warp_image(sample.pixels, size).numpy())
        for values, computed in zip(("boxes", "scores"), candidates(outputs, anchors, config), strict=True):
            # Boxes are not clipped here. The error is relative, because large numbers have no more digits
            # than small numbers.
            error = np.abs(outputs[values] - computed) / np.maximum(1.0, np.abs(computed))
            if np.mean(~(error <= CANDIDATE_TOLERANCE)) > CANDIDATES_AT_A_THRESHOLD:
                raise ExportMismatch(
                    f"{name}: {values} differ by up to {error.max():.2g} from those of its heads"
                )
        return _served_rows(postprocess(outputs, anchors, config), -1), _row_of(outputs, -1)

    return lambda samples: map(detect, samples)


def _load(folder: Path, names: Sequence[str]) -> dict[str, ExportedFile]:
    """Loads those of the named files of a version that exist."""
    files: dict[str, ExportedFile] = {}
    for name in names:
        in_litert = MediaPipeFileInLiteRT if name in mediapipe_file.FILES else LiteRTFile
        for subfolder, runtime in (("onnx", OnnxFile), ("litert", in_litert)):
            if (folder / subfolder / name).exists():
                files[name] = runtime(folder / subfolder / name)
    return files


def _call(file: ExportedFile, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Calls a file with an image, repeated if the file has a fixed batch, whose last row shows that all rows
    are computed."""
    return file(np.repeat(pixels[None], file.batch or 1, axis=0))


def int8_files(folder: Path) -> dict[str, ExportedFile]:
    """Loads the files in int8 in the folder of a version; the keys are their names."""
    return _load(folder, (onnx_files.HEADS_INT8, litert_files.HEADS_INT8, mediapipe_file.MEDIAPIPE_INT8))


def int8_routes(folder: Path, config: Config, size: tuple[int, int]) -> dict[str, Route]:
    """Loads the files in int8 in the folder of a version, and returns the route of each file, by name."""
    return {
        name: _route_of_mediapipe(file, size)
        if isinstance(file, MediaPipeFileInLiteRT)
        else heads_route(name, file, config, size)
        for name, file in int8_files(folder).items()
    }


def _served_rows(outputs: Mapping[str, Tensor], row: int) -> Rows:
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
