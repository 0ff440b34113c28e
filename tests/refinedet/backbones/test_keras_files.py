"""Initial weights of the backbones from the files of keras.applications."""

import keras
import numpy as np
import pytest
from image_files import noise
from keras import layers
from tiers import slow

from refinedet_tf.config import ModelConfig
from refinedet_tf.config.values import level_grids
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.backbones import build_features
from refinedet_tf.weights import load_initial_weights
from refinedet_tf.weights.imagenet import is_keras_file


@pytest.mark.slow
def test_keras_file_of_mobilenet(tf_test, tmp_path):
    file = tmp_path / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    network = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), include_top=False, weights=None, alpha=0.35
    )
    generator = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(generator.uniform(0.5, 1, variable.shape))
    network.save(file)
    model_config = ModelConfig(backbone="mobilenet_v2", width_multiplier=0.35, weights=str(file))
    images = keras.Input((97, 75, 3))
    sources = build_features(images, model_config)
    assert [tuple(source.shape[1:3]) for source in sources] == level_grids((97, 75))
    model = keras.Model(images, sources)
    assert load_initial_weights(model, model_config).layers == ["mobilenet_v2"]
    trunk = model.get_layer("mobilenet_v2")
    for name in ("Conv1", "block_13_expand", "Conv_1"):
        tf_test.assertAllEqual(trunk.get_layer(name).kernel, network.get_layer(name).kernel)
    found, expected = (n.get_layer("block_5_depthwise_BN") for n in (trunk, network))
    tf_test.assertAllEqual(found.moving_variance, expected.moving_variance)
    assert len(trunk.weights) == len(network.weights) + 52
    for value, problem in (
        (np.nan, "holds nan at place 0, which is not finite"),
        (-1, "a negative variance in"),
    ):
        variable = network.get_layer("block_5_depthwise_BN").moving_variance
        variable.assign(np.full(variable.shape, value))
        network.save(file)
        before = model.get_weights()
        with pytest.raises(InputError, match=problem) as refused:
            load_initial_weights(model, model_config)
        assert "block_5_depthwise_BN/moving_variance" in str(refused.value)
        for values, old in zip(model.get_weights(), before, strict=True):
            tf_test.assertAllEqual(values, old)


@pytest.mark.slow
def test_keras_file_of_convnext(tf_test, tmp_path):
    """A level has the values of Keras' network, which has its preprocessing inside."""
    file = tmp_path / "convnext_tiny_notop.h5"
    network = keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(None, None, 3))
    for variable in network.weights:
        # The scales of the residual branches too, which start at 1e-6.
        if len(variable.shape) == 1:
            variable.assign(np.random.default_rng(0).uniform(0.2, 0.4, variable.shape))
    network.save(file)
    images = keras.Input((None, None, 3))
    model_config = ModelConfig(backbone="convnext_tiny", weights=str(file))
    model = keras.Model(images, build_features(images, model_config))
    load_initial_weights(model, model_config)
    assert not [v.path for v in model.weights if v.name.startswith("variable")]
    assert "convnext_tiny_stage_0_block_0_layer_scale/gamma" in {v.path for v in model.weights}
    photo = noise(1, 64, 96).astype(np.float32)
    found = model.get_layer("convnext_tiny")(model.get_layer("preprocessing")(photo))[-1]
    expected = np.asarray(network(photo))
    tf_test.assertAllClose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_what_is_a_file_of_keras():
    assert is_keras_file("imagenet")
    assert is_keras_file("folder/convnext_tiny_notop.h5")
    assert not is_keras_file("final.weights.h5")
    assert not is_keras_file("final.keras")


@pytest.mark.parametrize("backbone", ["mobilenet_v2", slow("resnext101")])
def test_building_loads_nothing(backbone, tmp_path):
    """Neither a file that is missing nor a download stands in the way of building."""
    for weights in ("imagenet", str(tmp_path / "gone.h5")):
        build_features(keras.Input((64, 64, 3)), ModelConfig(backbone=backbone, weights=weights))


def load_into(backbone, weights):
    """`load_initial_weights` of a network whose weights do not matter: what is refused is the source."""
    return load_initial_weights(keras.Sequential(), ModelConfig(backbone=backbone, weights=weights))


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"gone.h5; take resnet50_weights.*_notop.h5, or null"):
        load_into("resnet50", str(tmp_path / "gone.h5"))
    with pytest.raises(InputError, match=r"imagenet: Keras has no weights of resnext101"):
        load_into("resnext101", "imagenet")
    with pytest.raises(InputError, match=r"resnet101_notop.h5: Keras has no weights of resnext101"):
        load_into("resnext101", "resnet101_notop.h5")
    other_file = tmp_path / "other.h5"
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save(other_file)
    with pytest.raises(InputError, match=r"other.h5: .*; give the path of mobilenet_v2_weights.*, or null"):
        load_into("mobilenet_v2", str(other_file))

    def no_download(**arguments):
        assert arguments["weights"] == "imagenet"
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "ResNet50", no_download)
    with pytest.raises(InputError, match=r"model.weights imagenet: URL fetch failure; give the path"):
        load_into("resnet50", "imagenet")
