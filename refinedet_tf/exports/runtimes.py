"""The runtimes of exported files, with one way to call them.

A file is a function from images to arrays by name: `LiteRTFile(path)(images)` and `OnnxFile(path)(images)`
return what `litert_files.write_litert` and `onnx_files.write_onnx` describe.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from refinedet_tf.exports import calibration
from refinedet_tf.exports.litert_metadata import OUTPUTS


class ExportedFile(Protocol):
    """An exported file in its runtime."""

    @property
    def batch(self) -> int | None:
        """The number of images per call for which the file was made; None: any number."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name for any number of images [n, H, W, 3] of the file's type."""


class LiteRTFile:
    """A .tflite file in LiteRT, which computes float32 and int8 convolutions with XNNPACK.

    Attributes:
        batch: the number of images per call for which the file was made.
    """

    batch: int

    def __init__(self, file: Path, threads: int | None = None) -> None:
        """Loads a file.

        Args:
            file: the path of the file.
            threads: the number of threads; None: one per processor.
        """
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(file), num_threads=threads or os.cpu_count())
        self._run = self._interpreter.get_signature_runner()
        self.batch = int(self._interpreter.get_input_details()[0]["shape"][0])

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name for any number of images, float32 [n, height, width, 3]."""
        parts = [self._run(images=batch) for batch in calibration.batches(images, self.batch)]
        return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}


class MediaPipeFileInLiteRT(LiteRTFile):
    """A file for MediaPipe Tasks in LiteRT, on images of the network's size."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the dict of `postprocess` for any number of images, float32 [n, height, width, 3]."""
        outputs = super().__call__(images)
        boxes, classes, scores, number = (outputs[name] for name in OUTPUTS)
        return {
            "detection_boxes": boxes,
            "detection_scores": scores,
            "detection_classes": classes + 1,
            "num_detections": number,
        }


class OnnxFile:
    """A .onnx file in onnxruntime, on the CPU.

    Attributes:
        batch: the number of images per call for which the file was made; None: any number.
    """

    batch: int | None

    def __init__(self, file: Path) -> None:
        """Loads a file."""
        import onnxruntime

        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (image,) = self._session.get_inputs()
        self._names = [output.name for output in self._session.get_outputs()]
        self.batch = image.shape[0] if isinstance(image.shape[0], int) else None

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name for any number of images [n, H, W, 3] of the file's type."""
        size = self.batch or len(images)
        parts = [
            self._session.run(self._names, {"images": batch}) for batch in calibration.batches(images, size)
        ]
        columns = (np.concatenate(values)[: len(images)] for values in zip(*parts, strict=True))
        return dict(zip(self._names, columns, strict=True))


class MediaPipeFile:
    """A file for MediaPipe Tasks in MediaPipe's object detector; a context that closes it."""

    def __init__(self, file: Path, class_names: Sequence[str]) -> None:
        """Loads a file.

        Args:
            file: the path of the file.
            class_names: the names of the classes, label 1 first.
        """
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.ObjectDetectorOptions(base_options=BaseOptions(model_asset_path=str(file)))
        self._detector = vision.ObjectDetector.create_from_options(options)
        self._labels = {name: label for label, name in enumerate(class_names, start=1)}

    def __enter__(self) -> "MediaPipeFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._detector.close()

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detects the objects of an image.

        Args:
            pixels: uint8 [H, W, 3], RGB; MediaPipe resizes it to the size of the network.

        Returns:
            Boxes float32 [n, 4], normalised `[ymin, xmin, ymax, xmax]`; scores float32 [n], descending; and
            labels int32 [n], 1..C. MediaPipe cuts the corner (xmin, ymin) and the sides of a box to whole
            pixels.
        """
        import mediapipe

        height, width, _ = pixels.shape
        found = self._detector.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, pixels)).detections
        # Detections of several classes with the same box are one detection with several categories.
        pairs = [
            (detection.bounding_box, category) for detection in found for category in detection.categories
        ]
        pairs.sort(key=lambda pair: -pair[1].score)
        boxes = [
            (box.origin_y, box.origin_x, box.origin_y + box.height, box.origin_x + box.width)
            for box, _ in pairs
        ]
        return (
            np.array(boxes, np.float32).reshape(-1, 4) / np.array([height, width, height, width], np.float32),
            np.array([category.score for _, category in pairs], np.float32),
            np.array([self._labels[category.category_name] for _, category in pairs], np.int32),
        )
