"""MobileNetV2 from a frozen graph (`.pb`) of TensorFlow's detection zoo, as the start of a training.

Such a file is a protobuf message GraphDef whose constants hold the weights under the names of TensorFlow's
Object Detection API, for example `FeatureExtractor/MobilenetV2/expanded_conv_3/expand/weights`. The backbone
in it was trained on boxes, those of COCO in `ssd_mobilenet_v2_coco_2018_03_29/frozen_inference_graph.pb`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import read_bytes
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.values import assign_checked

BACKBONE = "mobilenet_v2"
"""The backbone whose weights such a graph may hold."""

SCOPE = "FeatureExtractor/MobilenetV2/"
"""The beginning of the names of its weights."""

MAX_BYTES = 2**28
"""The largest size of a file. A detector with MobileNetV2 has 70 MB."""

KINDS = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
"""The last parts of the names of constants that are weights; all others are arithmetic of the graph."""


def load_frozen_graph(model: RefineDet, path: Path) -> tuple[list[str], list[str]]:
    """Fills the backbone of a RefineDet with MobileNetV2 from a frozen graph, a file that exists.

    Returns:
        The names of the layers that were filled, which is one, because the backbone is one layer; and the
        names of the weights in the file that are not used.

    Raises:
        InputError: the backbone is another one, the file is damaged, too large or no frozen graph, or its
            weights do not fit. The model is unchanged.
    """
    backbone = model.config.model.backbone
    if backbone != BACKBONE:
        raise InputError(
            f"{shortened_text(path)}: a frozen graph is a start for model.backbone {BACKBONE} only, not for "
            f"{backbone}"
        )
    tensors = _read_tensors(path)
    trunk, values = model.get_layer(BACKBONE), []
    for layer in trunk.layers:
        for variable in layer.weights:
            name = f"{SCOPE}{_scope(layer.name)}/{_kind(variable.path)}"
            if variable.name == "moving_weight":
                values.append((name, variable, layer.converged_weight))
            else:
                values.append((name, variable, _value(path, name, tensors, variable)))
    assign_checked(path, values)
    used = {name for name, _, _ in values}
    return [trunk.name], [name for name in tensors if name not in used]


def _read_tensors(path: Path) -> dict[str, Any]:
    """Reads the weights of a frozen graph: TensorProto messages by the names of their nodes."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    content = read_bytes(path, MAX_BYTES)
    try:
        nodes = graph_pb2.GraphDef.FromString(content).node
    except DecodeError:
        nodes = []
    if not nodes:
        kind = (
            "a SavedModel; take the frozen_inference_graph.pb of the same model"
            if _is_saved_model(content)
            else "not a whole frozen graph of TensorFlow: is it cut off or damaged?"
        )
        raise InputError(f"{shortened_text(path)} is {kind}")
    constants = [node for node in nodes if node.op == "Const" and node.name.split("/")[-1] in KINDS]
    tensors = {node.name: node.attr["value"].tensor for node in constants}
    if not any(name.startswith(SCOPE) for name in tensors):
        example = next(iter(tensors), nodes[0].name)
        raise InputError(
            f"{shortened_text(path)} is a frozen graph without MobileNetV2: it has {shortened(example)}, "
            f"but no weights whose names begin with {SCOPE}"
        )
    return tensors


def _is_saved_model(content: bytes) -> bool:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        return len(saved_model_pb2.SavedModel.FromString(content).meta_graphs) > 0
    except DecodeError:
        return False


def _value(path: Path, name: str, tensors: Mapping[str, Any], variable: keras.Variable) -> np.ndarray:
    """Returns the new value of a variable, which has its shape."""
    import tensorflow as tf

    if name not in tensors:
        raise InputError(f"{shortened_text(path)} has no {name}: is it cut off, or of another network?")
    tensor = tensors[name]
    # The shape comes first: a tensor with one value may have any shape, and so ask for any amount of memory.
    found = tuple(side.size for side in tensor.tensor_shape.dim)
    if found != tuple(variable.shape):
        raise InputError(
            f"{shortened_text(path)} holds another MobileNetV2 than the config: {name} has the shape "
            f"{shortened(list(found))} instead of {list(variable.shape)}; does model.width_multiplier fit?"
        )
    try:
        return tf.make_ndarray(tensor).astype(np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"{shortened_text(path)}: {name} does not hold the numbers that its shape {list(found)} asks "
            "for: is the file damaged?"
        ) from None


def _scope(layer: str) -> str:
    """Returns the scope in a graph of a layer of keras.applications.MobileNetV2."""
    layer = {"Conv1": "Conv", "bn_Conv1": "Conv_BN", "Conv_1_bn": "Conv_1_BN"}.get(layer, layer)
    layer = re.sub(r"^block_(\d+)_", r"expanded_conv_\1/", layer)
    layer = layer.replace("expanded_conv_depthwise", "expanded_conv/depthwise")
    layer = layer.replace("expanded_conv_project", "expanded_conv/project")
    return re.sub(r"_BN$", "/BatchNorm", layer)


def _kind(path: str) -> str:
    """Returns the last part of the name in a graph of a variable of keras.applications.MobileNetV2."""
    layer, _, kind = path.rpartition("/")
    if kind != "kernel":
        return kind
    return "depthwise_weights" if layer.endswith("depthwise") else "weights"
