"""What a `.weights.h5` file says of its weights, and what is refused because of it."""

import dataclasses
import warnings

import h5py
import pytest
from network_values import assert_values, refusal
from thin_vgg import thin_vgg

from refinedet_tf.config.values import DEFAULT_LEVELS
from refinedet_tf.weights import load_weights, save_weights
from refinedet_tf.weights.description import ATTRIBUTE, describe, read_description

CLASSES = ("cat", "tvmonitor", "cow")


@pytest.fixture(scope="module")
def model():
    return thin_vgg(CLASSES, image_size=(64, 64))


@pytest.fixture
def file(model, tmp_path):
    save_weights(model, tmp_path / "saved.weights.h5")
    return tmp_path / "saved.weights.h5"


def test_description_comes_back(model, file):
    config = model.config
    found = read_description(file, file)
    assert found == describe(config)
    assert found.classes == CLASSES and found.model.image_size == (64, 64)


def test_keras_ignores_it(model, file):
    """Keras' own reader takes the file, and files without a description stay loadable."""
    other = thin_vgg(CLASSES, image_size=(64, 64))
    other.load_weights(file)
    assert_values(other, model)
    other.save_weights(file)
    assert read_description(file, file) is None
    load_weights(thin_vgg(("x", "y", "z")), file)


def test_many_classes(file, model):
    """HDF5 limits other attributes to 64 KiB."""
    with h5py.File(file, "r+") as opened:
        opened.attrs[ATTRIBUTE] = opened.attrs[ATTRIBUTE].replace(
            '"cow"', ", ".join(f'"{i}"' for i in range(20000))
        )
    assert len(read_description(file, file).classes) == 20002
    assert "names 20002 classes, but holds weights for 3: is it damaged?" in refusal(model, file)


OTHER_ANCHORS = tuple(dataclasses.replace(level, scales=(3.0,)) for level in DEFAULT_LEVELS)


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (
            ("tvmonitor", "cat", "cow"),
            {},
            "was trained on these classes in another order: label 1 is cat there, tvmonitor in the config; "
            "the file has cat, tvmonitor, cow; the config tvmonitor, cat, cow; set data.classes",
        ),
        (
            ("cat", "tv", "horse"),
            {},
            "was trained on other classes: label 3 is cow there, horse in the config",
        ),
        (
            CLASSES,
            {"channel_order": "rgb"},
            "was trained on BGR images, the model sees RGB: set model.channel_order to bgr",
        ),
        (CLASSES, {"anchors": OTHER_ANCHORS}, "was trained with other anchors than the config has"),
    ],
)
def test_another_network(classes, options, message, file):
    assert message in refusal(thin_vgg(classes, **options), file)


def test_synonyms_are_equal(file):
    load_weights(thin_vgg(("cat", "tv", "cow")), file)


def test_another_size_warns_of_the_cost(file):
    with pytest.warns(
        UserWarning, match=r"was trained at 64 x 64 pixels, the model takes 128 x 64.*mAP 3"
    ) as notes:
        load_weights(thin_vgg(CLASSES, image_size=(128, 64)), file)
    assert not [note for note in notes if "\n" in str(note.message)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*was trained at")
        load_weights(thin_vgg(CLASSES), file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"classes": [1], "model": {}}', '{"classes": ["a"]}', 7])
def test_damaged_description(model, file, text):
    with h5py.File(file, "r+") as opened:
        opened.attrs[ATTRIBUTE] = text
    assert "its attribute 'refinedet', which describes the weights, cannot be read (" in refusal(model, file)


def test_description_of_a_later_version(model, file):
    with h5py.File(file, "r+") as opened:
        opened.attrs[ATTRIBUTE] = opened.attrs[ATTRIBUTE].replace('"backbone"', '"depth": 3, "backbone"')
    assert "(model.depth: " in refusal(model, file)
