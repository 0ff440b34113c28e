"""RefineDet with every backbone: its grids, its preprocessing, a training step, an export."""

import dataclasses
import importlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from image_files import noise
from network_values import assert_heads
from small_network import make_trainer, random_batch
from tiers import slow

from refinedet_tf.config import ModelConfig
from refinedet_tf.config.values import DEFAULT_LEVELS, level_grids
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.backbones import applications as applications_module
from refinedet_tf.refinedet.backbones.adaptation import adapted, copy_weights
from refinedet_tf.refinedet.backbones.applications import APPLICATIONS, as_backbone, find_levels
from refinedet_tf.refinedet.batch_norm import BatchNormalization
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.refinedet.network import build_model

resnext_module = importlib.import_module("refinedet_tf.refinedet.backbones.resnext101")
lite_module = importlib.import_module("refinedet_tf.refinedet.backbones.efficientnet_lite")

LEVELS = [level.number for level in DEFAULT_LEVELS]

LEVEL_LAYERS = {
    "resnet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "inception_v3": ("mixed2", "mixed7", "mixed10"),
    "inception_resnet_v2": ("block35_10_ac", "block17_20_ac", "conv_7b_ac"),
    "mobilenet_v2": ("block_6_expand_relu", "block_13_expand_relu", "out_relu"),
    # Lite1 and Lite2 differ in repeats and channels alone (test_efficientnet_lite.py).
    "efficientnet_lite0": ("blocks_5_expand_relu", "blocks_11_expand_relu", "blocks_15_bn2"),
    "efficientnet_v2_s": ("block4a_expand_activation", "block6a_expand_activation", "top_activation"),
    # The additions that end stages 1 and 2 (3 + 3 blocks, and 9 more), and what Keras puts at the end.
    "convnext_tiny": ("add_5", "add_14", "layer_normalization"),
}

STRIDE_4_LAYERS = {
    "resnet50": "conv2_block3_out",
    "inception_v3": "activation_4",
    "inception_resnet_v2": "activation_4",
    "mobilenet_v2": "block_3_expand_relu",
    "efficientnet_lite0": "blocks_3_expand_relu",
    "efficientnet_v2_s": "block2d_add",
    "convnext_tiny": "add_2",
}
"""The level of stride 4, which a network has only if its config asks for it."""

LARGE = ("resnet50", "inception_v3", "inception_resnet_v2", "efficientnet_v2_s")
"""Networks with training steps of seconds, for which one update is enough."""

FAST = ("mobilenet_v2", "efficientnet_lite0")
"""The networks that are not only tried on demand."""


def tiered(names):
    """The names as cases, of which all but two are slow."""
    return [name if name in FAST else slow(name) for name in names]


THIN_STAGES = ((1, 64), (2, 64), (2, 64), (1, 64))
"""The stages of a ResNeXt with few blocks and 2 channels per group."""


@pytest.fixture(scope="module", params=tiered([*LEVEL_LAYERS, "resnext101"]))
def built(request):
    """A RefineDet of any size with random weights; of Keras' networks also what it was adapted from."""
    found = {}

    def spy(network, model_config):
        trunk, pairs = adapted(network, model_config)
        found.update(original=network, pairs=pairs)
        return trunk, pairs

    def spy_on_trunk(network, inputs, model_config):
        found.update(trunk=network)
        return as_backbone(network, inputs, model_config)

    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applications_module, "adapted", spy)
        for module in (applications_module, lite_module):
            patch.setattr(module, "as_backbone", spy_on_trunk)
        patch.setattr(resnext_module, "STAGES", THIN_STAGES)
        width = {"width_multiplier": 0.35} if request.param == "mobilenet_v2" else {}
        config = config_of(
            ("a", "b"),
            model={"backbone": request.param, "tcb_channels": 8, "image_size": None, **width},
            training={"learning_rate": 0.01, "batch_size": 2},
        )
        model = build_model(config)
    yield SimpleNamespace(name=request.param, config=config, model=model, **found)
    keras.backend.clear_session()


def test_every_name_of_the_config_has_a_backbone():
    (names,) = (f.type for f in dataclasses.fields(ModelConfig) if f.name == "backbone")
    assert set(names.__args__) == set(BACKBONES)
    assert {*APPLICATIONS, "efficientnet_lite0"} == set(LEVEL_LAYERS)


def test_levels_of_every_network(built):
    if built.name in LEVEL_LAYERS:
        assert tuple(op.name for op in find_levels(built.trunk)) == LEVEL_LAYERS[built.name]
        (finer,) = find_levels(built.trunk, (4,))
        assert finer.name == STRIDE_4_LAYERS[built.name]
    for level in LEVELS:
        # Whatever the size of the maps, what the heads see starts at this norm.
        assert (np.asarray(built.model.get_layer(f"source{level}_norm").scale) == 2).all()


def test_grids_of_any_size(built):
    """The shapes that Keras infers and those of the outputs for one image are the grids of the anchors."""
    features = keras.Model(built.model.input, [built.model.get_layer(f"tcb{k}").output for k in LEVELS])
    for size in ((64, 64), (65, 127), (75, 130), (96, 321)):
        shapes = features.compute_output_shape((1, *size, 3))
        assert [tuple(shape[1:3]) for shape in shapes] == level_grids(size), size
    heads, maps = keras.Model(built.model.input, [built.model.output, features.outputs])(noise(1, 97, 75))
    assert [tuple(m.shape[1:3]) for m in maps] == level_grids((97, 75))
    assert_heads(heads, (97, 75), 2)


def test_preprocessing(tf_test, built):
    images = noise(1, 4, 5)
    wide = images.astype(np.float64)
    expected = {
        "resnet50": wide[..., ::-1] - [104, 117, 123],
        "inception_v3": keras.applications.inception_v3.preprocess_input(wide.copy()),
        "inception_resnet_v2": keras.applications.inception_resnet_v2.preprocess_input(wide.copy()),
        "mobilenet_v2": keras.applications.mobilenet_v2.preprocess_input(wide.copy()),
        "efficientnet_lite0": (wide - 127) / 128,
        # Keras' own layer of EfficientNetV2-S; that of ConvNeXt is compared further down.
        "efficientnet_v2_s": wide / 128 - 1,
    }
    torch_style = (wide / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    layer = built.model.get_layer("preprocessing")
    found = np.asarray(layer(images.astype(np.float32)))
    tf_test.assertAllClose(found, expected.get(built.name, torch_style), rtol=1e-5, atol=1e-5)
    if built.name == "resnet50":
        of_keras = keras.applications.resnet50.preprocess_input(wide.copy())
        assert np.abs(found - of_keras).max() < 0.7


def test_training_lowers_the_loss(built):
    model, before = built.model, built.model.get_weights()
    config = dataclasses.replace(
        built.config, model=dataclasses.replace(built.config.model, image_size=(64, 64))
    )
    trainer, batch = make_trainer(config, network=model), random_batch(config, objects=(2, 1))
    batch = {key: tf.constant(value) for key, value in batch.items()}
    losses, updates = [], 1 if built.name in LARGE else 2
    for _ in range(updates + 1):
        result = trainer.train_step(batch)
        losses.append(sum(float(result[term]) for term in TERMS))
        assert not result["bad_gradients"].numpy().any()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]
    kernels = [i for i, variable in enumerate(model.weights) if variable.name.endswith("kernel")]
    changed = [not np.array_equal(before[i], model.weights[i]) for i in kernels]
    assert len(kernels) > 20 and all(changed)
    model.set_weights(before)


@pytest.mark.parametrize("built", tiered(APPLICATIONS), indirect=True, scope="module")
def test_the_adapted_network_computes_what_keras_has(tf_test, built):
    """Both agree with the same weights where they pad alike: at even sizes, or inside the Inceptions."""
    original, before = built.original, built.model.get_weights()
    generator = np.random.default_rng(0)
    for variable in original.weights:
        if len(variable.shape) == 1:
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.1
            variable.assign(generator.uniform(low, low + 0.5, variable.shape))
    copy_weights(built.pairs)
    names, trunk = LEVEL_LAYERS[built.name], built.model.get_layer(built.name)
    if built.name.startswith("inception"):
        first, last = {
            "inception_v3": ("mixed3", "mixed7"),
            "inception_resnet_v2": ("mixed_6a", "block17_20_ac"),
        }[built.name]
        channels = original.get_layer(first).output.shape[-1]
        features = generator.uniform(0, 1, (1, 5, 6, channels)).astype(np.float32)
        ends = [(network.get_layer(first), network.get_layer(last)) for network in (original, trunk)]
        expected, found = (keras.Model(a.output, b.output)(features) for a, b in ends)
        pairs = [(expected, found)]
    else:
        if built.name == "convnext_tiny":
            outputs = [op.output for op in find_levels(original)]
        else:
            outputs = [original.get_layer(name).output for name in names]
        features = generator.normal(0, 1, (1, 64, 96, 3)).astype(np.float32)
        pairs = zip(keras.Model(original.input, outputs)(features), trunk(features), strict=True)
    for expected, found in pairs:
        tf_test.assertAllClose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    norms = [layer for _, layer in built.pairs if isinstance(layer, BatchNormalization)]
    assert len(norms) > 45 or built.name == "convnext_tiny"
    for norm in norms:
        tf_test.assertAllClose(norm.moving_weight, [1000], rtol=1e-4, atol=0)
    built.model.set_weights(before)
