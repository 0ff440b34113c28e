"""Export as LiteRT files (.tflite), which TensorFlow's converter writes."""

import gc
import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from refinedet_tf.errors import InputError
from refinedet_tf.exports import calibration
from refinedet_tf.exports.flatbuffer import (
    Model,
    change_network,
    check_builtin,
    operator_name,
    read_model,
    write_model,
)
from refinedet_tf.exports.graphs import DetectionGraphs

PACKAGE = "ai-edge-litert"
"""The package that runs the files, which compares them; TensorFlow itself writes them."""

DETECTOR = "detector.tflite"
"""The name of the file of the whole detector."""
HEADS = "heads.tflite"
"""The name of the file without the suppression."""
HEADS_INT8 = "heads_int8.tflite"
"""The name of the file without the suppression whose convolutions compute in int8."""

FLOAT_OPERATORS = frozenset({"L2_NORMALIZATION"})
"""The operators within the network that stay float32, and with them what multiplies their results. The
squares of `L2Normalize` need more digits than int8 has."""


def write_litert(
    graphs: DetectionGraphs,
    metadata: Mapping[str, str],
    folder: Path,
    batch: int = 1,
    calibration_images: np.ndarray | None = None,
) -> None:
    """Writes the LiteRT files.

    All take "images" (float32 [N, height, width, 3], RGB 0..255, of the network's size) and need only
    operators that are built into every runtime.

    detector.tflite is the whole detector. It returns the dict of `postprocess`.

    heads.tflite leaves the suppression to the program, and returns `DetectionGraphs.heads_and_candidates`.

    heads_int8.tflite has the inputs and outputs of heads.tflite. Its convolutions, and what lies between
    them, compute in int8. Float32 remain the L2 normalisation and everything after the convolutions of the
    heads, such as softmax and decoding.

    Args:
        graphs: the functions of the network in float32.
        metadata: texts by the name of a file, which each LiteRT file holds as a zip archive at its end.
        folder: the folder of the files; it is made.
        batch: N.
        calibration_images: float32 [n, height, width, 3], RGB 0..255, on which the ranges for int8 are
            measured; None: heads_int8.tflite is not written.

    Raises:
        InputError: the package for LiteRT is not installed, or the converter fails on the network.
    """
    check_package()
    signature = [tf.TensorSpec([batch, *graphs.image_size, 3], tf.float32, "images")]

    @tf.function(input_signature=signature)
    def detector(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = graphs.heads(images)
        for output in outputs.values():
            # The loops of the suppression need the number of images.
            output.set_shape([batch, *output.shape[1:]])
        return graphs.detections(outputs)

    @tf.function(input_signature=signature)
    def heads(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return graphs.heads_and_candidates(images)

    folder.mkdir(exist_ok=True)
    write_file(convert(frozen(detector), DETECTOR), metadata, folder / DETECTOR)
    frozen_heads = frozen(heads)
    write_file(convert(frozen_heads, HEADS), metadata, folder / HEADS)
    if calibration_images is not None:
        batches = list(calibration.batches(calibration_images, batch))
        write_file(convert_to_int8(frozen_heads, HEADS_INT8, batches), metadata, folder / HEADS_INT8)


def check_package() -> None:
    """Checks that the runtime is installed, by which the files are compared.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise InputError(f"LiteRT needs a package that is not here: pip install {PACKAGE}")


def read_metadata(file: Path) -> dict[str, str]:
    """Returns the texts in a LiteRT file by their names, "model.json" and "labels.txt"."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def frozen(function: tf.types.experimental.PolymorphicFunction) -> tf.Module:
    """Returns a module whose only function `call` is the given one with its variables as constants."""
    concrete = function.get_concrete_function()
    # The frozen function returns the values of the dict in the order of its sorted keys.
    names = sorted(concrete.structured_outputs)
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(names, constant(images), strict=True))

    module = tf.Module()
    module.call = tf.function(call, input_signature=function.input_signature)
    return module


def convert(module: tf.Module, name: str, batches: Sequence[np.ndarray] | None = None) -> Model:
    """Converts a function without variables.

    Args:
        module: a result of `frozen`.
        name: the name of the file, for messages.
        batches: the inputs on which ranges are measured, float32 [N, height, width, 3]; the tensors of the
            result hold them. None: they are not measured.

    Raises:
        InputError: the converter fails, or an operator is not built into the runtimes.
    """
    # A conversion takes about 35 times the memory of the weights. What an earlier one has left is collected.
    gc.collect()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if batches is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([images] for images in batches)
        converter._experimental_calibrate_only = True
    try:
        contents = converter.convert()
    except ConverterError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: TensorFlow cannot convert this network: {reason}") from None
    model = read_model(contents)
    check_builtin(model, name)
    return model


def convert_to_int8(module: tf.Module, name: str, batches: Sequence[np.ndarray]) -> Model:
    """Converts a function, and turns everything up to its last convolutions into int8.

    The converter would also quantise softmax and decoding, for which int8 has too few digits, and the
    levels of a head by their common range. The arguments and the errors are those of `convert`.
    """
    return change_network(convert(module, name, batches), _quantized)


def _quantized(network: Model) -> Model:
    """Turns a model whose tensors hold their ranges into int8, except for `FLOAT_OPERATORS`."""
    (graph,) = network.subgraphs
    normalised = {
        tensor
        for operator in graph.operators
        if operator_name(network, operator) in FLOAT_OPERATORS
        for tensor in operator.outputs
    }
    scaled = [
        graph.tensors[operator.outputs[0]].name.decode()
        for operator in graph.operators
        if operator_name(network, operator) == "MUL" and normalised & set(operator.inputs)
    ]
    quantized = mlir_quantize(
        write_model(network), denylisted_ops=sorted(FLOAT_OPERATORS), denylisted_nodes=scaled
    )
    return read_model(quantized)


def write_file(model: Model, metadata: Mapping[str, str], file: Path) -> None:
    """Writes a model and, after it, its metadata as a zip archive, which runtimes do not read.

    MediaPipe wants the archive uncompressed.
    """
    file.write_bytes(write_model(model))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        for name, text in metadata.items():
            # The date is fixed, so that equal models give equal files.
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_STORED)
