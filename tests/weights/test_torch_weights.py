"""Checkpoints of RefineDet.PyTorch: which tensor fills which variable."""

import re

import numpy as np
import pytest
from caffe_writer import write_caffemodel
from network_values import assert_values, refusal
from random_layers import random_layers
from thin_vgg import thin_vgg
from torch_names import tensors_of

from refinedet_tf.weights import loading


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Loads tensors as if they were read from a file."""

    def load_tensors(model, tensors):
        file = tmp_path / "refinedet.pth"
        file.write_bytes(b"read by the patched function")
        monkeypatch.setattr(loading, "read_checkpoint", lambda path: tensors)
        return loading.load_weights(model, file)

    return load_tensors


def test_every_tensor_fills_its_variable(load, tmp_path):
    source, model = thin_vgg(2), thin_vgg(2, channel_order="rgb")
    layers = random_layers(source)
    write_caffemodel(tmp_path / "same.caffemodel", layers)
    loading.load_weights(source, tmp_path / "same.caffemodel")
    tensors = tensors_of(layers)
    assert {"tcb1.2.weight", "tcb2.10.bias", "tcb0.11.weight", "odm_conf.3.bias", "vgg.33.weight"} <= set(
        tensors
    )
    filled = load(model, tensors)
    assert filled == [layer.name for layer in model.layers if layer.weights]
    assert_values(model, source)


def test_note_on_the_order_of_channels(load):
    model = thin_vgg(2)
    with pytest.warns(
        UserWarning, match="feeds its networks RGB, this model sees BGR; set model.channel_order"
    ):
        load(model, tensors_of(random_layers(model)))


def test_messages_use_the_names_of_the_file(load):
    model = thin_vgg(2)
    tensors = tensors_of(random_layers(model))
    tensors["vgg.5.weight"] = tensors["vgg.5.weight"][:, :2]
    del tensors["odm_loc.1.bias"]
    tensors |= {"arm_loc.4.weight": np.ones(3), "tcb0.1.weight": np.ones(3), "step": np.ones(1)}
    message = refusal(model, "refinedet.pth", load=lambda *_: load(model, tensors))
    assert "1 missing (P4_mbox_loc blob 1)" in message
    assert "3 left over (arm_loc.4.weight, tcb0.1.weight, step)" in message
    assert "1 of another shape (vgg.5.weight is [8, 2, 3, 3], not [8, 4, 3, 3])" in message


def test_plain_vgg16_of_the_same_family_is_a_start(tf_test, load):
    """vgg16_reducedfc.pth numbers the same layers without `vgg.`."""
    model = thin_vgg(2, channel_order="rgb")
    tensors = tensors_of(random_layers(model))
    plain = {name.removeprefix("vgg."): value for name, value in tensors.items() if name.startswith("vgg.")}
    with pytest.warns(UserWarning, match="holds ImageNet weights"):
        filled = load(model, plain)
    assert filled[0] == "conv1_1" and filled[-1] == "fc7" and len(filled) == 15
    tf_test.assertAllEqual(model.get_layer("fc7").bias, plain["33.bias"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e11])
def test_values_that_no_network_has(load, value):
    model = thin_vgg(2, channel_order="rgb")
    tensors = tensors_of(random_layers(model))
    tensors["odm_conf.3.bias"][-1] = value
    message = refusal(model, "refinedet.pth", load=lambda *_: load(model, tensors))
    assert re.search(r"refinedet.pth: odm_conf.3.bias holds (nan|inf|1e\+11) at place 8, ", message)
