"""Blobs of Caffe's files fill variables: names and layouts fit, every blob is used, every defect is named."""

import re

import formula_weights
import numpy as np
import pytest
from caffe_writer import write_caffemodel
from network_values import refusal
from random_layers import random_layers
from resnet import resnet
from thin_vgg import thin_vgg

from refinedet_tf.errors import InputError
from refinedet_tf.weights import load_weights
from refinedet_tf.weights.blobs import blob_shape, variables_by_blob


def changed(layers, name, change):
    """The layers with the list of blobs of one of them changed by a function of it."""
    return [(layer, kind, change(blobs) if layer == name else blobs) for layer, kind, blobs in layers]


@pytest.fixture(scope="module")
def vgg():
    return thin_vgg(num_classes=2)


@pytest.fixture(scope="module")
def thin_resnet():
    return resnet(image_size=(64, 64))


@pytest.fixture
def load(tmp_path):
    """Writes layers to a file and loads it: load(model, layers, **options of the writer)."""

    def write_and_load(model, layers, **options):
        file = tmp_path / "net.caffemodel"
        write_caffemodel(file, layers, **options)
        return load_weights(model, file)

    return write_and_load


@pytest.fixture
def refused(load):
    """The message of a file that does not fit; the model must not have changed."""

    def message_of(model, layers):
        return refusal(model, "net.caffemodel", load=lambda *_: load(model, layers))

    return message_of


@pytest.mark.parametrize("network", formula_weights.BLOBS)
def test_every_blob_of_the_authors_files_has_its_variable(network):
    """Names, numbers and shapes agree one to one, except for the channels of the thin networks."""
    model = thin_vgg(num_classes=20) if network == "vgg16" else resnet(classes=80, image_size=(64, 64))
    listed = {(layer, number): shape for layer, _, number, shape, _ in formula_weights.BLOBS[network]}
    ours = {blob: blob_shape(variable) for blob, variable in variables_by_blob(model).items()}
    assert ours.keys() == listed.keys()
    for blob, shape in ours.items():
        assert len(shape) == len(listed[blob])
        assert shape[2:] == tuple(listed[blob][2:])
    classifier = next(blob for blob in ours if "P3" in blob[0] and blob[0].endswith("mbox_conf"))
    assert ours[classifier][0] == listed[classifier][0]


@pytest.mark.parametrize("network", ["vgg", "thin_resnet"])
@pytest.mark.parametrize("options", [{}, {"double": True}, {"old_shapes": True}, {"v1": True}], ids=str)
def test_values_and_layouts(tf_test, network, options, load, request):
    model = request.getfixturevalue(network)
    layers = random_layers(model)
    filled = load(model, [("data", "Input", []), *layers], **options)
    assert filled == [layer.name for layer in model.layers if layer.weights]
    arrays = {layer: blobs for layer, _, blobs in layers}
    for (layer, number), variable in variables_by_blob(model).items():
        expected = arrays[layer][number]
        if variable.name in ("moving_mean", "moving_variance"):
            expected = expected / 4
        if expected.ndim == 4:
            # Keras: (height, width, in, out); a deconvolution (height, width, out, in).
            expected = np.moveaxis(expected, (0, 1), (3, 2))
        tf_test.assertAllEqual(np.asarray(variable), expected, msg=variable.path)


def test_statistics_of_no_terms_are_zero(thin_resnet, load):
    load(thin_resnet, random_layers(thin_resnet, statistics_weight=0.0))
    norm = thin_resnet.get_layer("conv1_bn")
    assert (
        not np.any(norm.moving_mean) and not np.any(norm.moving_variance) and not np.any(norm.moving_weight)
    )


def test_another_number_of_classes(vgg, refused):
    message = refused(vgg, random_layers(thin_vgg(num_classes=4)))
    assert "holds weights for 4 classes, the model has 2" in message
    assert message.endswith("or pick classes with refinedet subset-classes")


def test_missing_left_over_and_other_shape(vgg, refused):
    layers = changed(random_layers(vgg), "conv3_2", lambda blobs: [blobs[0], blobs[1][:-1]])
    layers = [layer for layer in layers if layer[0] != "TL4_2"] + [("extra", "Scale", [np.ones(3)])]
    message = refused(vgg, layers)
    assert "2 missing (TL4_2 blob 0, TL4_2 blob 1)" in message
    assert "1 left over (extra blob 0)" in message
    assert "1 of another shape (conv3_2 blob 1 is [7], not [8])" in message


def test_transposed_kernel_of_the_same_size(vgg, refused):
    message = refused(
        vgg, changed(random_layers(vgg), "conv2_1", lambda b: [b[0].transpose(1, 0, 2, 3), b[1]])
    )
    assert "1 of another shape (conv2_1 blob 0 is [4, 8, 3, 3], not [8, 4, 3, 3])" in message


def test_negative_variance(thin_resnet, refused):
    layers = changed(random_layers(thin_resnet), "bn2a_branch1", lambda b: [b[0], -b[1], b[2]])
    assert "negative variance in bn2a_branch1 blob 1" in refused(thin_resnet, layers)


def test_statistics_that_overflow(thin_resnet, refused):
    """Their sums and their divisor are finite, but not what Caffe computes from them."""
    message = refused(thin_resnet, random_layers(thin_resnet, statistics_weight=1e-38))
    assert re.search(r": bn\S+ blob 0 holds \S+ at place \d+, which is ", message)


def test_other_network(vgg, thin_resnet, refused):
    message = refused(vgg, random_layers(thin_resnet))
    # The transfer connection blocks have the same names in both.
    assert "83 missing (conv1_1 blob 0, " in message
    assert f"{962 - 15} left over (" in message


def test_network_that_is_none_of_the_authors(tmp_path):
    file = tmp_path / "net.caffemodel"
    write_caffemodel(file, [("P3_mbox_conf", "Convolution", [np.ones((9, 8, 3, 3))])])
    model = thin_vgg(num_classes=2, head_blocks=True)
    with pytest.raises(InputError, match="net.caffemodel: .* fit the authors' networks only"):
        load_weights(model, file)
