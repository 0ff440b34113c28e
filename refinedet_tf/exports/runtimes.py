"""The runtimes of exported files, with one way to call them.

A file is a function from images to arrays by name: `LiteRTFile(path)(images)` and `OnnxFile(path)(images)`
return what `litert_files.write_litert` and `onnx_files.write_onnx` describe. With `as_network`, a file
without suppression takes the place of the network: `CompiledDetector(as_network(file, config), config)`.
"""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.exports import calibration
from refinedet_tf.inference.compiled_detector import Network, network_size
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.tensors import Heads, Tensor


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


class OnnxFile:
    """A .onnx file in onnxruntime, on the CPU.

    Attributes:
        batch: the number of images per call for which the file was made; None: any number.
    """

    batch: int | None

    def __init__(self, file: Path, threads: int | None = None) -> None:
        """Loads a file.

        Args:
            file: the path of the file.
            threads: the number of threads; None: as onnxruntime decides.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
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


def as_network(file: ExportedFile, config: Config, image_size: tuple[int, int] | None = None) -> Network:
    """Makes a `Network` of an exported file without suppression.

    Args:
        file: heads.onnx, heads.tflite, or one of them in int8.
        config: the config of the network that was exported.
        image_size: (height, width) in pixels; it is needed only if `model.image_size` is null.
    """
    num_anchors = len(tile_anchors(network_size(config, image_size), config.model.anchors))
    depths = {"odm_loc": 4, "odm_conf": config.num_classes + 1}
    if config.model.design != "single_stage":
        depths |= {"arm_loc": 4, "arm_conf": 2}

    def call(images: np.ndarray) -> list[np.ndarray]:
        outputs = file(images)
        return [outputs[name] for name in depths]

    def network(images: Tensor) -> Heads:
        heads = tf.numpy_function(call, [images], [tf.float32] * len(depths))
        return {
            name: tf.ensure_shape(head, [None, num_anchors, depth])
            for head, (name, depth) in zip(heads, depths.items(), strict=True)
        }

    return network
