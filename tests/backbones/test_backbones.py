"""The backbones of keras.applications and ResNeXt-101."""

import dataclasses
import importlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_network import make_trainer, random_batch

from refinedet_tf.anchors import level_grids, tile_anchors
from refinedet_tf.backbones import BACKBONES, build_features
from refinedet_tf.backbones import applications as applications_module
from refinedet_tf.backbones.adaptation import adapted, copy_weights
from refinedet_tf.backbones.applications import APPLICATIONS, find_levels, normalize_imagenet
from refinedet_tf.batch_norm import BatchNormalization
from refinedet_tf.config import Config, DataConfig, ModelConfig, TrainingConfig
from refinedet_tf.errors import InputError
from refinedet_tf.export.check import generated_samples
from refinedet_tf.export.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.losses import TERMS
from refinedet_tf.model import LEVELS, build_model
from refinedet_tf.weights import load_initial_weights
from refinedet_tf.weights.applications import is_keras_file

resnext_module = importlib.import_module("refinedet_tf.backbones.resnext101")

LEVEL_LAYERS = {
    "resnet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "inception_v3": ("mixed2", "mixed7", "mixed10"),
    "inception_resnet_v2": ("block35_10_ac", "block17_20_ac", "conv_7b_ac"),
    "mobilenet_v2": ("block_6_expand_relu", "block_13_expand_relu", "out_relu"),
    "efficientnet_v2_s": ("block4a_expand_activation", "block6a_expand_activation", "top_activation"),
    # The additions that end stages 1 and 2 (3 + 3 blocks, and 9 more), and what Keras puts at the end.
    "convnext_tiny": ("add_5", "add_14", "layer_normalization"),
}

SLOW = ("resnet50", "inception_v3", "inception_resnet_v2", "efficientnet_v2_s")
"""What takes seconds a training step: one update must do."""

EXPORTED = ("mobilenet_v2", "convnext_tiny", "resnext101")
"""What is exported here: one network of each kind of block, and quick."""

THIN_STAGES = ((1, 64), (2, 64), (2, 64), (1, 64))
"""ResNeXt with few blocks, of 2 channels a group."""


def config_of(backbone, **model):
    return Config(
        data=DataConfig(classes=("a", "b")),
        model=ModelConfig(**{"backbone": backbone, "tcb_channels": 8, "image_size": None, **model}),
        training=TrainingConfig(learning_rate=0.01, batch_size=2),
    )


@pytest.fixture(scope="module", params=[*LEVEL_LAYERS, "resnext101"])
def built(request):
    """A RefineDet of any size with random weights; of the adapter's also what it was adapted from."""
    found = {}

    def spy(network, config):
        trunk, pairs = adapted(network, config)
        found.update(original=network, trunk=trunk, pairs=pairs)
        return trunk, pairs

    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applications_module, "adapted", spy)
        patch.setattr(resnext_module, "STAGES", THIN_STAGES)
        width = {"width_multiplier": 0.35} if request.param == "mobilenet_v2" else {}
        config = config_of(request.param, **width)
        model = build_model(config)
    yield SimpleNamespace(name=request.param, config=config, model=model, **found)
    keras.backend.clear_session()


def images_of(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_every_name_of_the_config_has_a_backbone():
    (names,) = (f.type for f in dataclasses.fields(ModelConfig) if f.name == "backbone")
    assert set(names.__args__) == set(BACKBONES)
    assert set(APPLICATIONS) == set(LEVEL_LAYERS)


def test_levels_of_every_network(built):
    if built.name in LEVEL_LAYERS:
        assert tuple(op.name for op in find_levels(built.trunk)) == LEVEL_LAYERS[built.name]
    for level in LEVELS:
        # Whatever the size of the maps, what the heads see starts at this norm.
        assert (np.asarray(built.model.get_layer(f"source{level}_norm").scale) == 2).all()


def test_grids_of_any_size(built):
    """By the shapes that Keras infers, and of one image as it is computed."""
    features = keras.Model(built.model.input, [built.model.get_layer(f"tcb{k}").output for k in LEVELS])
    for size in ((64, 64), (65, 127), (75, 130), (96, 321)):
        shapes = features.compute_output_shape((1, *size, 3))
        assert [tuple(shape[1:3]) for shape in shapes] == level_grids(size), size
    heads, maps = keras.Model(built.model.input, [built.model.output, features.outputs])(images_of(1, 97, 75))
    assert [tuple(m.shape[1:3]) for m in maps] == level_grids((97, 75))
    for name, values in {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": 3}.items():
        assert heads[name].shape == (1, len(tile_anchors((97, 75))), values)
        assert np.isfinite(heads[name]).all()


def test_preprocessing(built):
    images = images_of(1, 4, 5)
    wide = images.astype(np.float64)
    expected = {
        "resnet50": wide[..., ::-1] - [104, 117, 123],
        "inception_v3": keras.applications.inception_v3.preprocess_input(wide.copy()),
        "inception_resnet_v2": keras.applications.inception_resnet_v2.preprocess_input(wide.copy()),
        "mobilenet_v2": keras.applications.mobilenet_v2.preprocess_input(wide.copy()),
        # Keras' own layer of EfficientNetV2-S; that of ConvNeXt is compared further down.
        "efficientnet_v2_s": wide / 128 - 1,
    }
    torch_style = (wide / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    layer = built.model.get_layer("preprocessing")
    found = np.asarray(layer(images.astype(np.float32)))
    np.testing.assert_allclose(found, expected.get(built.name, torch_style), rtol=1e-5, atol=1e-5)
    if built.name == "resnet50":
        keras_own = keras.applications.resnet50.preprocess_input(wide.copy())
        assert np.abs(found - keras_own).max() < 0.7


def test_training_lowers_the_loss(built):
    model, before = built.model, built.model.get_weights()
    config = dataclasses.replace(
        built.config, model=dataclasses.replace(built.config.model, image_size=(64, 64))
    )
    trainer, batch = make_trainer(config, network=model), random_batch(config, objects=(2, 1))
    batch = {key: tf.constant(value) for key, value in batch.items()}
    losses, updates = [], 1 if built.name in SLOW else 2
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


@pytest.mark.parametrize("built", EXPORTED, indirect=True, scope="module")
def test_export(built, tmp_path):
    """What is exported detects the same. All networks, and ONNX files of all: test_export_backbones.py."""
    options = ExportOptions(onnx=built.name == "mobilenet_v2")
    samples = generated_samples()[:2]
    _, comparisons = export_saved_model(
        built.model, built.config, tmp_path, image_size=(96, 128), options=options, samples=samples
    )
    assert len(comparisons) == (5 if options.onnx else 3)
    for comparison in comparisons:
        assert comparison.detections > 100 and comparison.lost == 0


@pytest.mark.parametrize("built", list(LEVEL_LAYERS), indirect=True, scope="module")
def test_the_adapted_network_computes_what_keras_has(built):
    """With the same weights, where the padding is the same: at even sizes; in Inception's inner blocks."""
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
        assert found.shape == expected.shape
        error = np.abs(np.asarray(expected) - np.asarray(found)).max()
        assert error < 1e-4 * np.abs(expected).max()
    norms = [own for _, own in built.pairs if isinstance(own, BatchNormalization)]
    assert len(norms) > 45 or built.name == "convnext_tiny"
    for norm in norms:
        np.testing.assert_allclose(norm.moving_weight, [1000], rtol=1e-4)
    built.model.set_weights(before)


# The adapter's rules, on a network small enough to see what they do.


def small_network():
    """Stride 8 ends in `level8`; then a block of three branches, a residual one, stride 32."""
    images = keras.Input((None, None, 3))
    features = layers.Conv2D(8, 3, strides=2, name="stem")(images)
    features = layers.BatchNormalization(scale=False)(features)
    features = layers.ZeroPadding2D(1, name="symmetric")(features)
    features = layers.MaxPooling2D(3, strides=2, name="pool")(features)
    features = layers.ZeroPadding2D(((0, 1), (0, 1)), name="for_even_sizes")(features)
    features = layers.DepthwiseConv2D(3, strides=2, name="level8")(features)
    branches = [layers.Conv2D(8, 1)(features), layers.MaxPooling2D(3, strides=2)(features)]
    branches[0] = layers.Conv2D(4, 3, strides=2)(branches[0])
    features = shortcut = layers.Concatenate(name="level16_start")(branches)
    features = layers.Conv2D(12, 5, padding="same", groups=12, name="grouped")(features)
    features = layers.Dropout(0.5)(features)
    features = shortcut + layers.Conv2D(12, 3, padding="same", name="residual")(features)
    features = layers.BatchNormalization(name="level16")(features)
    features = layers.Conv2D(16, 3, strides=2, name="level32")(features)
    return keras.Model(images, features)


@pytest.mark.parametrize("statistics", ["moving", "frozen_backbone", "frozen"])
def test_adapted_layers(statistics):
    network = small_network()
    config = ModelConfig(batch_norm_statistics=statistics, batch_norm_momentum=0.7)
    copy, pairs = adapted(network, config)
    assert [op.name for op in find_levels(copy)] == ["level8", "level16", "level32"]
    # However many networks were made before.
    assert {layer.name for layer in copy.layers} > {"batch_normalization", "conv2d", "conv2d_1"}
    for name in ("batch_normalization", "level16"):
        norm = copy.get_layer(name)
        assert isinstance(norm, BatchNormalization)
        assert (norm.momentum, norm.frozen, norm.epsilon) == (0.7, statistics != "moving", 1e-3)
    assert not copy.get_layer("batch_normalization").scale and copy.get_layer("level16").scale
    names = {layer.name for layer in copy.layers}
    assert "symmetric" in names and not {"for_even_sizes", "dropout"} & names
    paddings = {name: copy.get_layer(name).padding for name in ("stem", "pool", "level8", "conv2d_1")}
    assert paddings == {"stem": "same", "pool": "valid", "level8": "same", "conv2d_1": "same"}
    for size in ((64, 64), (65, 70), (95, 101)):
        shape = copy.compute_output_shape((1, *size, 3))
        assert tuple(shape[1:3]) == tuple(-(-side // 32) for side in size)


def test_a_group_for_each_channel_is_a_depthwise_convolution():
    network = small_network()
    copy, pairs = adapted(network, ModelConfig())
    copy_weights(pairs)
    own, original = copy.get_layer("grouped"), network.get_layer("grouped")
    assert isinstance(own, layers.DepthwiseConv2D)
    features = np.random.default_rng(0).normal(size=(1, 6, 7, 12)).astype(np.float32)
    np.testing.assert_allclose(own(features), original(features), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(copy.get_layer("stem").kernel, network.get_layer("stem").kernel)


def test_initial_values():
    """He's, where the network has Keras' default; its own otherwise; each kernel of its own."""
    images = keras.Input((None, None, 64))
    features = layers.Conv2D(64, 3, name="first")(images)
    features = layers.Conv2D(64, 3, name="second")(features)
    features = layers.DepthwiseConv2D(3, name="depthwise")(features)
    features = layers.Conv2D(64, 3, kernel_initializer=keras.initializers.Constant(3), name="own")(features)
    copy, _ = adapted(keras.Model(images, features), ModelConfig())
    first, second = (np.asarray(copy.get_layer(name).kernel) for name in ("first", "second"))
    for kernel in (first, second):
        assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert np.abs(first - second).max() > 0.05
    assert np.asarray(copy.get_layer("depthwise").kernel).std() == pytest.approx(np.sqrt(2 / 9), rel=0.15)
    assert (np.asarray(copy.get_layer("own").kernel) == 3).all()


def test_a_network_without_a_level():
    images = keras.Input((None, None, 3))
    features = layers.Conv2D(4, 3, strides=16, padding="same")(images)
    with pytest.raises(ValueError, match="no level of stride 8"):
        find_levels(keras.Model(images, layers.Conv2D(4, 3, strides=2, padding="same")(features)))


# Weights.


def test_keras_file_of_mobilenet(tmp_path):
    file = tmp_path / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    network = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), include_top=False, weights=None, alpha=0.35
    )
    generator = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(generator.uniform(0.5, 1, variable.shape))
    network.save(file)
    config = config_of("mobilenet_v2", width_multiplier=0.35, weights=str(file))
    images = keras.Input((97, 75, 3))
    sources = build_features(images, config.model)
    assert [tuple(source.shape[1:3]) for source in sources] == level_grids((97, 75))
    model = keras.Model(images, sources)
    assert load_initial_weights(model, config.model) == ["mobilenet_v2"]
    trunk = model.get_layer("mobilenet_v2")
    for name in ("Conv1", "block_13_expand", "Conv_1"):
        np.testing.assert_array_equal(trunk.get_layer(name).kernel, network.get_layer(name).kernel)
    own, original = (n.get_layer("block_5_depthwise_BN") for n in (trunk, network))
    np.testing.assert_array_equal(own.moving_variance, original.moving_variance)
    assert len(trunk.weights) == len(network.weights) + 52


def test_keras_file_of_convnext(tmp_path):
    """From the file to the values of a level, the preprocessing that Keras' network has inside included."""
    file = tmp_path / "convnext_tiny_notop.h5"
    network = keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(None, None, 3))
    for variable in network.weights:
        # The scales of the residual branches too, which start at 1e-6.
        if len(variable.shape) == 1:
            variable.assign(np.random.default_rng(0).uniform(0.2, 0.4, variable.shape))
    network.save(file)
    images = keras.Input((None, None, 3))
    config = config_of("convnext_tiny", weights=str(file))
    model = keras.Model(images, build_features(images, config.model))
    load_initial_weights(model, config.model)
    assert not [v.path for v in model.weights if v.name.startswith("variable")]
    assert "convnext_tiny_stage_0_block_0_layer_scale/gamma" in {v.path for v in model.weights}
    photo = images_of(1, 64, 96).astype(np.float32)
    found = model.get_layer("convnext_tiny")(model.get_layer("preprocessing")(photo))[-1]
    found, expected = np.asarray(found), np.asarray(network(photo))
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_what_is_a_file_of_keras():
    assert is_keras_file("imagenet")
    assert is_keras_file("folder/convnext_tiny_notop.h5")
    assert not is_keras_file(None)
    assert not is_keras_file("final.weights.h5")
    assert not is_keras_file("final.keras")


def test_building_loads_nothing(tmp_path):
    """Neither a file that is missing nor a download stands in the way of building."""
    for backbone in ("mobilenet_v2", "resnext101"):
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
    other = tmp_path / "other.h5"
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save(other)
    with pytest.raises(InputError, match=r"other.h5: .*; give the path of mobilenet_v2_weights.*, or null"):
        load_into("mobilenet_v2", str(other))

    def no_download(**arguments):
        assert arguments["weights"] == "imagenet"
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "ResNet50", no_download)
    with pytest.raises(InputError, match=r"model.weights imagenet: URL fetch failure; give the path"):
        load_into("resnet50", "imagenet")


# ResNeXt-101.


def test_resnext_has_the_published_number_of_parameters():
    """44,177,704 with a classifier of 1000 classes, BatchNorm's statistics not counted."""
    images = keras.Input((64, 64, 3))
    sources = build_features(images, config_of("resnext101").model)
    end = keras.Model(images, sources).get_layer("layer4_2_relu").output
    trunk = keras.Model(images, end)
    trainable = sum(int(np.prod(variable.shape)) for variable in trunk.trainable_variables)
    assert trainable == 44_177_704 - (2048 * 1000 + 1000)
    assert tuple(end.shape) == (None, 2, 2, 2048)
    for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 1), ("downsample_0", 2)):
        assert trunk.get_layer(f"layer3_0_{name}").strides == (stride, stride)
    kernel = trunk.get_layer("layer3_5_conv2").kernel
    assert tuple(kernel.shape) == (3, 3, 16, 512)
    assert np.asarray(kernel).std() == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.05)


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolution_and_its_gradient(stride):
    """Against a convolution of each group's channels."""
    layer = resnext_module.GroupedConvolution(12, 3, strides=stride, groups=4, padding="same", use_bias=False)
    generator = np.random.default_rng(0)
    features = tf.constant(generator.normal(size=(2, 7, 6, 8)), tf.float32)
    layer.build(features.shape)

    def apart(features, kernel):
        pairs = zip(tf.split(features, 4, -1), tf.split(kernel, 4, -1), strict=True)
        return tf.concat([tf.nn.conv2d(f, k, stride, "SAME") for f, k in pairs], -1)

    results = []
    for function in (layer, lambda f: apart(f, layer.kernel.value)):
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = function(features)
            loss = tf.reduce_sum(output**2)
        results.append([output, *tape.gradient(loss, [features, layer.kernel.value])])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    again = resnext_module.GroupedConvolution.from_config(layer.get_config())
    assert again.groups == 4


def test_imagenet_normalization_takes_the_mean_colour_to_zero():
    colours = np.array([[[[123.675, 116.28, 103.53], [123.675 + 58.395, 116.28, 103.53 - 57.375]]]])
    np.testing.assert_allclose(normalize_imagenet()(colours), [[[[0, 0, 0], [1, 0, -1]]]], atol=1e-5)
