"""No graph of a training adds the terms of a sum in the order in which threads deliver them."""

import collections
import contextlib

import pytest
import tensorflow as tf
from keras import layers
from small_network import BACKBONE, small_backbone
from tensorflow.python.eager import context
from training_config import sets

import train
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.layers import ScaleToUnitRange
from refinedet_tf.training.sums import sums_in_fixed_order

ACCUMULATION = "TemporaryVariable"
"""The node to which TensorFlow's memory optimizer adds the terms of a sum in the order of their arrival."""


@contextlib.contextmanager
def optimized_graphs():
    """Collects the nodes of the graphs that TensorFlow optimizes inside the block: the counts by kind."""
    eager, nodes = context.context(), collections.Counter()
    eager.enable_graph_collection()
    try:
        yield nodes
        for graphs in eager.export_run_metadata().function_graphs:
            nodes.update(node.op for node in graphs.post_optimization_graph.node)
    finally:
        eager.disable_graph_collection()


@tf.function
def sum_of_three(values):
    """A sum of three tensors of 80 MB; TensorFlow takes the memory of a CPU for 256 MiB."""
    many = tf.stack([values] * 4)
    return tf.reduce_sum(tf.add_n([tf.sin(many), tf.cos(many), tf.exp(many)]))


def test_only_sums_change():
    values = tf.random.normal([5_000_000])
    with optimized_graphs() as usual:
        expected = sum_of_three(values)
    with sums_in_fixed_order(), optimized_graphs() as fixed:
        total = sum_of_three(values)
    assert usual[ACCUMULATION] == 1 and not usual["AddN"], "the test does not meet its condition"
    assert not fixed[ACCUMULATION] and fixed["AddN"] == 1
    # The other optimizers turn `tf.stack` of equal tensors into a Tile.
    assert usual["Tile"] == fixed["Tile"] == 1
    assert float(total) == pytest.approx(float(expected), rel=1e-4)


def test_options_come_back():
    before = context.context().function_call_options
    with pytest.raises(ZeroDivisionError), sums_in_fixed_order():
        assert context.context().function_call_options is not before
        1 / 0  # noqa: B018
    assert context.context().function_call_options is before


def wide_backbone(images, model_config):
    """The small backbone after three branches of 67 MB, whose values and gradients are summed."""
    wide = layers.Conv2D(1024, 1, name="wide")(ScaleToUnitRange(name="wide_input")(images))
    branches = [layers.Activation(name, name=f"wide_{name}")(wide) for name in ("sigmoid", "tanh", "elu")]
    narrow = layers.Conv2D(3, 1, name="narrow")(layers.Add(name="branches")(branches))
    return small_backbone(narrow, model_config)


def test_training_step_has_no_accumulation(config_file, done, monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, BACKBONE, wide_backbone)
    arguments = ["--config", config_file, "--output", tmp_path / "run"]
    arguments += sets("training.length=1", "data.validation=[]")
    with optimized_graphs() as nodes:
        done(train, *arguments)
    assert nodes["Conv2DBackpropFilter"] > 20 and nodes["AddN"] > 10, "the step was not collected"
    assert nodes[ACCUMULATION] == 0
