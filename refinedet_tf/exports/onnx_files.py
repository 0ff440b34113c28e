"""Export as ONNX files, which tf2onnx writes."""

import contextlib
import gc
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from refinedet_tf.errors import InputError
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.onnx_int8 import write_onnx_int8

OPSET = 18
"""The version of ONNX's operators. Every runtime of the last years knows it; tf2onnx knows no newer one."""

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
"""The packages that write the ONNX files and compare them; nothing else needs them."""

DETECTOR = "detector.onnx"
"""The name of the file of the whole detector."""
HEADS = "heads.onnx"
"""The name of the file without the suppression."""
HEADS_INT8 = "heads_int8.onnx"
"""The name of the file without the suppression whose convolutions compute in int8."""


def write_onnx(
    graphs: DetectionGraphs,
    description: str,
    folder: Path,
    batch: int | None = None,
    calibration_images: np.ndarray | None = None,
) -> None:
    """Writes the ONNX files, which `onnx.checker` checks.

    detector.onnx is the whole detector. It takes "images" (uint8 [N, H, W, 3], RGB, of any H and W) and
    returns the dict of `postprocess`.

    heads.onnx leaves the suppression to the runtime. It takes "images" (float32 [N, height, width, 3],
    RGB 0..255, of the network's size) and returns `DetectionGraphs.heads_and_candidates`. TensorRT's
    EfficientNMS takes these boxes and scores, without background and box coding.

    heads_int8.onnx has the inputs and outputs of heads.onnx; see `write_onnx_int8`.

    Args:
        graphs: the functions of the network in float32.
        description: the text of model.json, which all files contain as metadata of that name.
        folder: the folder of the files; it is made.
        batch: N; None: any number at call time.
        calibration_images: float32 [n, height, width, 3], RGB 0..255, on which the ranges for int8 are
            measured; None: heads_int8.onnx is not written.

    Raises:
        InputError: a package for ONNX is not installed, or tf2onnx fails on the network.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs packages that are not here: pip install {' '.join(missing)}")

    @tf.function(input_signature=[tf.TensorSpec([batch, None, None, 3], tf.uint8, "images")])
    def detector(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return graphs.detections(graphs.heads(_warp(images, graphs.image_size)))

    @tf.function(input_signature=[tf.TensorSpec([batch, *graphs.image_size, 3], tf.float32, "images")])
    def heads(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return graphs.heads_and_candidates(images)

    folder.mkdir()
    for name, function in ((DETECTOR, detector), (HEADS, heads)):
        _convert(function, description, folder / name)
    if calibration_images is not None:
        write_onnx_int8(folder / HEADS, calibration_images, folder / HEADS_INT8, batch)


def _warp(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Warps uint8 [N, H, W, 3] to float32 [N, *size, 3], bit for bit as `warp_image` does.

    The operator Resize of ONNX rounds positions in another way, which makes a difference of up to 6e-3
    grey levels, and would need the whole image in float32.
    """
    top, bottom, down = _neighbours(tf.shape(images)[1], size[0])
    left, right, across = _neighbours(tf.shape(images)[2], size[1])

    def interpolate_across(rows: tf.Tensor) -> tf.Tensor:
        pixels = tf.gather(images, rows, axis=1)
        start, end = (tf.cast(tf.gather(pixels, columns, axis=2), tf.float32) for columns in (left, right))
        return start + (end - start) * across[:, None]

    upper, lower = interpolate_across(top), interpolate_across(bottom)
    return upper + (lower - upper) * down[:, None, None]


def _neighbours(length: tf.Tensor, target: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the pixels before and after each position of a resized axis, int32 [target], and the distance
    from the pixel before, float32 [target], 0..1.
    """
    # The minimum is always 0. It hides a constant from TensorFlow, which would otherwise multiply by the
    # rounded reciprocal of the constant.
    scale = tf.cast(length, tf.float32) / tf.cast(tf.minimum(length, 0) + target, tf.float32)
    position = (tf.range(target, dtype=tf.float32) + 0.5) * scale - 0.5
    before = tf.floor(position)
    indices = tf.cast(tf.stack([before, before + 1]), tf.int32)
    first, second = tf.unstack(tf.clip_by_value(indices, 0, length - 1))
    return first, second, position - before


def _convert(function: tf.types.experimental.PolymorphicFunction, description: str, file: Path) -> None:
    """Converts a function with an input signature, and writes it as an ONNX file."""
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with _garbage_collected_soon():
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_op_handlers={"Erfc": (_one_minus_erf, [])},
        )
    model.metadata_props.add(key="model.json", value=description)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        # This happens if a grid is one cell high and several cells wide, such as that of 64 x 96 pixels.
        reason = str(error).splitlines()[0]
        raise InputError(f"{file.name}: tf2onnx cannot convert this network at this size: {reason}") from None
    onnx.save(model, str(file))


@contextlib.contextmanager
def _garbage_collected_soon() -> Iterator[None]:
    """Lets Python look for garbage after every few thousand new objects, and only among the new ones.

    Each of some 40 steps of tf2onnx leaves a copy of the weights in objects that refer to one another. They
    are too few for Python to look for them by itself: a conversion of VGG-16 took 13 GB instead of 4.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1000, 3, 1)
    # A full collection also waits until a quarter of all objects is new. This one makes that number small.
    gc.collect()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()


def _one_minus_erf(graph: Any, node: Any, name: str, arguments: Sequence[Any]) -> None:
    """Converts, as a handler of tf2onnx, what ONNX has not: the complementary error function in a GELU."""
    (features,), (output,) = node.input, node.output
    dtype, shape = graph.get_dtype(output), graph.get_shape(output)
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", [features], dtypes=[dtype], shapes=[shape]).output[0]
    constant = graph.make_const(f"{name}/one", np.array(1, np.float32)).output[0]
    graph.make_node("Sub", [constant, erf], outputs=[output], name=name, dtypes=[dtype], shapes=[shape])
