"""Files of weights and networks whose anchors differ: one line that names the stride and both numbers."""

import numpy as np
import pytest
from caffe_writer import write_caffemodel
from image_files import noise
from network_values import assert_values, filled, refusal
from own_anchors import FIVE_LEVELS, FOUR_LEVELS, level
from random_layers import random_layers
from thin_vgg import thin_vgg

from refinedet_tf.weights import load_weights, save_weights
from refinedet_tf.weights.head_counts import HeadCounts, counts_in, counts_of_channels
from refinedet_tf.weights.transfer import copy_classes

HINT = ": use the model.anchors that the weights were trained with"


@pytest.fixture(scope="module")
def paper():
    return thin_vgg(num_classes=2)


@pytest.fixture(scope="module")
def four():
    return thin_vgg(num_classes=2, anchors=FOUR_LEVELS)


@pytest.fixture(scope="module")
def five():
    return thin_vgg(num_classes=2, anchors=FIVE_LEVELS)


def message_of(model, file):
    return refusal(model, file).removeprefix(f"{file} ")


def test_numbers_of_networks_and_files(paper, five, tmp_path):
    assert paper.classifiers == {"odm_conf3": 3, "odm_conf4": 3, "odm_conf5": 3, "odm_conf6": 3}
    expected = HeadCounts({2: 4, 3: 6, 4: 1, 5: 2, 6: 1}, 2)
    save_weights(five, tmp_path / "five.weights.h5")
    assert counts_in(tmp_path / "five.weights.h5") == expected
    assert five.classifiers == {
        "odm_conf2": 4,
        "odm_conf3": 6,
        "odm_conf4": 1,
        "odm_conf5": 2,
        "odm_conf6": 1,
    }


@pytest.mark.parametrize(
    ("channels", "classes"),
    [
        ({"odm_loc3": 12, "odm_conf3": 63, "odm_loc4": 8, "odm_conf4": 42}, 20),
        ({"odm_loc3": 12, "odm_conf3": 63, "odm_loc4": 8, "odm_conf4": 44}, None),
        ({"odm_loc3": 12, "odm_conf3": 64}, None),
        ({"odm_loc3": 12, "odm_conf3": 3}, None),
        ({"odm_loc3": 12}, None),
        ({"odm_loc3": 2, "odm_conf3": 63}, None),
        ({"odm_conf3": 63}, None),
    ],
)
def test_classes_that_channels_tell(channels, classes):
    assert counts_of_channels(channels).classes == classes


def other_strides(found, wanted):
    return f"has heads for the strides {found}, the model for {wanted}{HINT}"


WRITERS = {
    "weights.h5": save_weights,
    "keras": lambda model, file: model.save(file),
    "caffemodel": lambda model, file: write_caffemodel(file, random_layers(model)),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_files_of_other_anchors(paper, four, five, tmp_path, ending):
    file = tmp_path / f"paper.{ending}"
    WRITERS[ending](paper, file)
    assert message_of(four, file) == f"has 3 anchors per cell at stride 8, the model has 6{HINT}"
    assert message_of(five, file) == other_strides("8, 16, 32, 64", "4, 8, 16, 32, 64")
    if ending == "caffemodel":
        same_numbers = tuple(level(stride, [2 * stride]) for stride in (8, 16, 32, 64))
        load_weights(thin_vgg(num_classes=2, anchors=same_numbers), file)
    else:
        WRITERS[ending](five, tmp_path / f"five.{ending}")
        message = message_of(four, tmp_path / f"five.{ending}")
        assert message == other_strides("4, 8, 16, 32, 64", "8, 16, 32, 64")


def test_weights_of_own_anchors_are_read_again(five, tmp_path):
    save_weights(five, tmp_path / "five.weights.h5")
    other = thin_vgg(num_classes=2, anchors=FIVE_LEVELS)
    load_weights(other, tmp_path / "five.weights.h5")
    assert_values(other, five)


def test_other_numbers_of_classes(five, tmp_path):
    """With different numbers per level, the number of classes is still told from the shapes."""
    save_weights(thin_vgg(num_classes=4, anchors=FIVE_LEVELS), tmp_path / "other.weights.h5")
    message = message_of(five, tmp_path / "other.weights.h5")
    assert message.startswith("holds weights for 4 classes, the model has 2: ")


def test_picked_classes(tf_test, five):
    target = thin_vgg(num_classes=1, anchors=FIVE_LEVELS)
    copy_classes(filled(five, scale=0.1), target, [2])
    images = noise(1, 64, 64)
    expected = np.asarray(five(images)["odm_conf"])[..., [0, 2]]
    tf_test.assertAllClose(target(images)["odm_conf"], expected, rtol=1e-5, atol=1e-6)
