"""MobileNetV2 from frozen graphs of TensorFlow's detection zoo."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from frozen_graph import SCOPE, graph_of, random_weights, thin_mobilenet, write_graph, zoo_names
from network_values import refusal
from thin_vgg import thin_vgg

from refinedet_tf.errors import InputError
from refinedet_tf.weights import frozen_graphs, load_initial_weights, load_weights, transfer_weights

FIRST = f"{SCOPE}/Conv/weights"
VARIANCE = f"{SCOPE}/expanded_conv_3/expand/BatchNorm/moving_variance"


@pytest.fixture(scope="module")
def model():
    return thin_mobilenet()


@pytest.fixture(scope="module")
def weights(model):
    return random_weights(model)


def test_every_layer_is_filled(tf_test, model, weights, tmp_path):
    file = write_graph(tmp_path / "frozen_inference_graph.pb", weights)
    own = {v.path: np.array(v) for v in model.weights[len(model.get_layer("mobilenet_v2").weights) :]}
    config = dataclasses.replace(model.config.model, weights=str(file))
    report = load_initial_weights(model, config)
    assert report.layers == ["mobilenet_v2"]
    assert report.summary[0].startswith(
        f"initial weights: mobilenet_v2 of the backbone from {file}; the other"
    )
    assert report.summary[1:] == [
        "  arrays of the file that are not used: BoxPredictor_0/ClassPredictor/weights, "
        f"{SCOPE}/layer_19_1_Conv2d_2_1x1_256/weights"
    ]
    assert "BoxPredictor_0/ClassPredictor/weights of the file: not used" in report.details
    assert {"mobilenet_v2: taken", "tcb3: new"} <= set(report.details)
    trunk, taken = model.get_layer("mobilenet_v2"), []
    for layer, scope in zoo_names().items():
        for variable in trunk.get_layer(layer).weights:
            if variable.name == "moving_weight":
                tf_test.assertAllClose(variable, [1000], rtol=1e-4, atol=0)
                continue
            kind = {"kernel": "depthwise_weights" if layer.endswith("depthwise") else "weights"}
            name = f"{SCOPE}/{scope}/{kind.get(variable.name, variable.name)}"
            tf_test.assertAllEqual(variable, weights[name], msg=name)
            taken.append(name)
    assert sorted(taken) == sorted(weights)
    assert len(trunk.weights) == len(taken) + 52
    for path, value in own.items():
        tf_test.assertAllEqual({v.path: v for v in model.weights}[path], value, msg=path)


def test_constants_that_repeat_one_value(tf_test, model, weights, tmp_path):
    """A graph stores an array of equal values as its shape and the value."""
    graph = graph_of(weights)
    (node,) = (node for node in graph.node if node.name == VARIANCE)
    node.attr["value"].tensor.tensor_content = b""
    node.attr["value"].tensor.float_val.append(0.25)
    file = tmp_path / "graph.pb"
    file.write_bytes(graph.SerializeToString())
    load_weights(model, file, transfer=True)
    variance = model.get_layer("mobilenet_v2").get_layer("block_3_expand_BN").moving_variance
    tf_test.assertAllEqual(variance, np.full(variance.shape, 0.25))


def without(name):
    return lambda graph: graph.node.remove(next(node for node in graph.node if node.name == name))


def with_values(name, values):
    def change(graph):
        node = next(node for node in graph.node if node.name == name)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))

    return change


def cut_values(graph):
    tensor = next(node for node in graph.node if node.name == FIRST).attr["value"].tensor
    tensor.tensor_content = tensor.tensor_content[:-4]


def of_another_network(graph):
    for node in graph.node:
        node.name = node.name.replace("MobilenetV2", "InceptionV2")


def huge_shape(graph):
    """One value, repeated to more memory than there is."""
    tensor = next(node for node in graph.node if node.name == VARIANCE).attr["value"].tensor
    tensor.tensor_content = b""
    tensor.float_val.append(1)
    tensor.tensor_shape.dim[0].size = 2**40


CHANGES = [
    (without(VARIANCE), rf"has no {VARIANCE}: is it cut off"),
    (
        with_values(FIRST, np.ones((3, 3, 3, 32), "f4")),
        r"another MobileNetV2 .* \[3, 3, 3, 32\] instead of .*width",
    ),
    (with_values(FIRST, np.full((3, 3, 3, 16), np.nan, "f4")), rf"{FIRST} holds nan at place 0"),
    (with_values(VARIANCE, np.full(48, -1, "f4")), rf"a negative variance in {VARIANCE}"),
    (with_values(FIRST, np.full((3, 3, 3, 16), "x")), rf"{FIRST} does not hold the numbers"),
    (cut_values, rf"{FIRST} does not hold the numbers that its shape \[3, 3, 3, 16\]"),
    (huge_shape, r"\[1099511627776\] instead of \[48\]"),
    (
        of_another_network,
        r"without MobileNetV2: it has 'BoxPredictor_0/ClassPredictor/weights', but no weights",
    ),
]


def saved_model(folder):
    module = tf.Module()
    module.call = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, folder)
    return (folder / "saved_model.pb").read_bytes()


def assert_refused(model, file, message):
    found = refusal(model, file, load=transfer_weights)
    assert found.startswith(str(file)) and re.search(message, found)


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_graphs_that_do_not_fit(model, weights, tmp_path, change, message):
    graph = graph_of(weights)
    change(graph)
    file = tmp_path / "graph.pb"
    file.write_bytes(graph.SerializeToString())
    assert_refused(model, file, message)


def test_files_that_are_no_graph(model, weights, tmp_path, monkeypatch):
    file = write_graph(tmp_path / "graph.pb", weights)
    content, damaged = (
        file.read_bytes(),
        "is not a whole frozen graph of TensorFlow: is it cut off or damaged",
    )
    for bytes_of_file, message in (
        (content[:-100], damaged),
        (b"", damaged),
        (np.random.default_rng(0).bytes(1000), damaged),
        (saved_model(tmp_path / "saved"), "is a SavedModel; take the frozen_inference_graph.pb"),
    ):
        file.write_bytes(bytes_of_file)
        assert_refused(model, file, message)
    monkeypatch.setattr(frozen_graphs, "MAX_BYTES", 999)
    file.write_bytes(bytes(1000))
    assert_refused(model, file, "is larger than 999 bytes")


def test_a_graph_is_a_start_of_mobilenet_alone(model, weights, tmp_path):
    file = write_graph(tmp_path / "graph.pb", weights)
    assert_refused(thin_vgg(2), file, "a start for model.backbone mobilenet_v2 only, not for vgg16")
    assert "weights must be a .weights.h5, .keras, .caffemodel or .pth" in refusal(model, file)
    with pytest.raises(InputError, match=r"weights not found: .*gone.pb"):
        transfer_weights(model, tmp_path / "gone.pb")
