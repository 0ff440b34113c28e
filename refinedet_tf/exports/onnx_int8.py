"""The ONNX file with int8 convolutions, which onnxruntime's quantization writes."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from refinedet_tf.exports import calibration

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
"""The operators that compute with kernels."""


def write_onnx_int8(heads_file: Path, images: np.ndarray, file: Path, batch: int | None = None) -> None:
    """Quantizes heads.onnx; the result has the same inputs, outputs and metadata.

    Convolutions and what lies between them compute in int8: activations uint8 per tensor, kernels int8
    per channel. Float32 remain the transposed convolutions, for which onnxruntime has no int8 kernel, the
    L2 normalisation, and everything after the convolutions of the heads.

    Args:
        heads_file: the file that `onnx_files.write_onnx` has written.
        images: float32 [n, height, width, 3], RGB 0..255, on which the ranges are measured.
        file: the path of the result.
        batch: the number of images per call of `heads_file`; None: any number.
    """
    inputs = ({"images": part} for part in calibration.batches(images, batch or 1))
    with _restored_root_logger(), tempfile.TemporaryDirectory(dir=file.parent) as folder:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        logging.getLogger().setLevel(logging.ERROR)  # After the import, which sets it.
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        # It fuses BatchNorm and constants into the convolutions. The shapes are known without its symbols.
        quant_pre_process(str(heads_file), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            str(prepared),
            str(quantized),
            # What it needs of an `onnxruntime.quantization.CalibrationDataReader`.
            SimpleNamespace(get_next=partial(next, inputs, None)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Without VNNI, x86 processors add two products of uint8 and int8 in 16 bits, which overflow
            # unless kernels have 7 bits.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_float_nodes(graph),
        )
        model = onnx.load(quantized)
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load(heads_file).metadata_props)
    onnx.save(model, str(file))


@contextlib.contextmanager
def _restored_root_logger() -> Iterator[None]:
    """Gives Python's root logger its level and handlers back at the end of the block.

    onnxruntime configures the root logger when it is imported, and logs its warnings there.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _float_nodes(graph: Any) -> list[str]:
    """Returns the names of the nodes of an `onnx.GraphProto` that stay float32."""
    producers = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for tensor in node.input:
            consumers.setdefault(tensor, []).append(node)

    def before(node: Any) -> list[Any]:
        return [producers[tensor] for tensor in node.input if tensor in producers]

    def after(node: Any) -> list[Any]:
        return [consumer for tensor in node.output for consumer in consumers.get(tensor, [])]

    outputs = [producers[output.name] for output in graph.output]
    tail = _reach(outputs, before)
    # The sum of squares over channels, what is computed from it, and the squares.
    sums = [node for node in graph.node if node.op_type.startswith("ReduceSum") and node.name not in tail]
    normalisation = _reach(sums, after)
    squares = {node.name for total in sums for node in before(total) if node.op_type not in CONVOLUTIONS}
    transposed = {node.name for node in graph.node if node.op_type == "ConvTranspose"}
    return sorted(tail | normalisation | squares | transposed)


def _reach(start: Sequence[Any], neighbours: Any) -> set[str]:
    """Returns the names of the nodes that are reached from `start` without passing a convolution."""
    reached: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.op_type not in CONVOLUTIONS and node.name not in reached:
            reached.add(node.name)
            waiting += neighbours(node)
    return reached
