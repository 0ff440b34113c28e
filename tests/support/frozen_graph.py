"""A graph with the names of TensorFlow's detection zoo and the weights of a thin MobileNetV2."""

import keras
import numpy as np
import tensorflow as tf
from config_of import config_of

from refinedet_tf.refinedet.network import build_model

SCOPE = "FeatureExtractor/MobilenetV2"


def thin_mobilenet(**model):
    """A RefineDet on the thinnest MobileNetV2."""
    small = {"backbone": "mobilenet_v2", "tcb_channels": 8, "width_multiplier": 0.35, "image_size": (64, 64)}
    return build_model(config_of(("a", "b"), model={**small, **model}))


def zoo_names():
    """The scope in the graph of each layer of keras.applications.MobileNetV2 that has weights."""
    names = {
        "Conv1": "Conv",
        "bn_Conv1": "Conv/BatchNorm",
        "Conv_1": "Conv_1",
        "Conv_1_bn": "Conv_1/BatchNorm",
    }
    for number in range(17):
        layer, scope = f"block_{number}", f"expanded_conv_{number}"
        if number == 0:
            layer = scope = "expanded_conv"
        for part in ("expand", "depthwise", "project"):
            # The first block expands nothing.
            if number or part != "expand":
                names[f"{layer}_{part}"] = f"{scope}/{part}"
                names[f"{layer}_{part}_BN"] = f"{scope}/{part}/BatchNorm"
    return names


def random_weights(model, seed=0):
    """Weights of the backbone by their names in a graph: what `write_graph` takes."""
    generator, weights = np.random.default_rng(seed), {}
    trunk = model.get_layer("mobilenet_v2")
    for layer, scope in zoo_names().items():
        for variable in trunk.get_layer(layer).weights:
            kind = variable.name
            if kind == "kernel":
                depthwise = isinstance(trunk.get_layer(layer), keras.layers.DepthwiseConv2D)
                kind = "depthwise_weights" if depthwise else "weights"
            if kind != "moving_weight":
                values = generator.uniform(0.5, 1.5, variable.shape).astype(np.float32)
                weights[f"{SCOPE}/{scope}/{kind}"] = values
    return weights


def graph_of(weights):
    """A GraphDef with these constants, the arithmetic of a graph around them, and a head of SSD."""
    graph = tf.compat.v1.GraphDef()
    constants = {
        "BoxPredictor_0/ClassPredictor/weights": np.ones((1, 1, 4, 6), np.float32),
        **weights,
        f"{SCOPE}/layer_19_1_Conv2d_2_1x1_256/weights": np.ones((1, 1, 4, 2), np.float32),
        f"{SCOPE}/Conv/BatchNorm/add/y": np.float32(1e-3),
    }
    for name, values in constants.items():
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
        graph.node.add(name=f"{name}/read", op="Identity", input=[name])
    return graph


def write_graph(file, weights):
    file.write_bytes(graph_of(weights).SerializeToString())
    return file
