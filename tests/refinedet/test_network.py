import ast
from pathlib import Path

import keras
import numpy as np
import pytest
from config_of import config_of
from image_files import noise
from network_values import assert_heads
from own_anchors import FIVE_LEVELS
from thin_vgg import thin_vgg

import refinedet_tf
from refinedet_tf.config import Config, ModelConfig
from refinedet_tf.config.values import DEFAULT_LEVELS, level_grids
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_initial_weights

LEVELS = [level.number for level in DEFAULT_LEVELS]

HEADS = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": 4}
"""The number of values per anchor of each head, with three classes."""


def mobilenet(**model):
    return build_model(config_of(3, model={"backbone": "mobilenet_v2", "tcb_channels": 16, **model}))


@pytest.fixture(scope="module")
def thin():
    """A VGG-16 with few channels that takes any size, with its initial weights."""
    return thin_vgg()


@pytest.fixture(scope="module")
def free_mobilenet():
    return mobilenet(image_size=None, width_multiplier=0.35)


@pytest.fixture(scope="module")
def fixed_mobilenet():
    """A MobileNetV2 of which every setting differs from `free_mobilenet`."""
    return mobilenet(
        image_size=(97, 130), width_multiplier=0.75, tcb_batch_norm=True, batch_norm_momentum=0.9
    )


def test_vgg16_initial_values(tf_test, thin):
    for variable in thin.weights:
        value = np.asarray(variable)
        if variable.name == "bias":
            tf_test.assertAllEqual(value, np.zeros_like(value))
        elif variable.name == "scale":
            scale = 10 if variable.path.startswith("conv4_3") else 8
            tf_test.assertAllEqual(value, np.full_like(value, scale))
        elif not variable.path.endswith("-up/kernel"):
            bound = np.sqrt(3 / np.prod(value.shape[:-1]))
            assert 0.9 * bound < np.abs(value).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("size", [(64, 64), (64, 160), (97, 130), (100, 65)])
def test_vgg16_of_any_size(thin, size):
    features = [thin.get_layer(f"tcb{level}").output for level in LEVELS]
    heads, features = keras.Model(thin.input, [thin.output, features])(noise(2, *size))
    assert [tuple(feature.shape[1:3]) for feature in features] == level_grids(size)
    assert_heads(heads, size, 3, batch=2)


@pytest.mark.parametrize(
    ("network", "size"),
    [("free_mobilenet", (64, 96)), ("free_mobilenet", (97, 130)), ("fixed_mobilenet", (97, 130))],
)
def test_mobilenet_of_any_size(request, network, size):
    assert_heads(request.getfixturevalue(network)(noise(2, *size)), size, 3, batch=2)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_order_of_the_anchors(tf_test, thin, name):
    """The order is that of the tiled anchors: level, row, column, anchor of the cell, value."""
    size, values = (128, 192), HEADS[name]
    convolutions = [thin.get_layer(f"{name}{level}").output for level in LEVELS]
    joined, *maps = keras.Model(thin.input, [thin.output[name], *convolutions])(noise(1, *size))
    joined, maps = np.asarray(joined)[0], [np.asarray(m)[0] for m in maps]
    expected = [
        maps[level][row, column, anchor * values : (anchor + 1) * values]
        for level, (rows, columns) in enumerate(level_grids(size))
        for row in range(rows)
        for column in range(columns)
        for anchor in range(3)
    ]
    tf_test.assertAllEqual(joined, expected)
    assert len(np.unique(joined[:, 0])) > 0.9 * len(joined)


def test_an_anchor_sees_the_image_where_it_lies(thin):
    """A change in one place of the image moves the outputs of the anchors there most."""
    image = noise(1, 192, 320).astype(np.float32)
    changed = image.copy()
    changed[:, 32:72, 240:288] = 0
    moved = np.abs(np.asarray(thin(changed)["arm_conf"]) - np.asarray(thin(image)["arm_conf"]))[0]
    anchors = tile_anchors((192, 320))[: 24 * 40 * 3]
    anchor = anchors[moved[: len(anchors)].sum(axis=-1).argmax()]
    y, x = (anchor[:2] + anchor[2:]) / 2 * [192, 320]
    assert 16 <= y <= 88
    assert 224 <= x <= 304


@pytest.mark.parametrize("network", ["thin", "free_mobilenet"])
def test_number_type_of_the_image_does_not_matter(tf_test, network, request):
    model = request.getfixturevalue(network)
    images = noise(1, 64, 64)
    wanted = model(images)
    for kind in (np.float32, np.int32):
        for name, value in model(images.astype(kind)).items():
            tf_test.assertAllEqual(value, wanted[name])


def test_bfloat16_computes_narrow_and_answers_in_float32(bfloat16, tf_test, thin):
    before = keras.config.dtype_policy().name
    narrow = thin_vgg(precision="bfloat16")
    assert keras.config.dtype_policy().name == before
    narrow.set_weights(thin.get_weights())
    images = noise(1, 64, 64)
    wanted, found = thin(images), narrow(images)
    for name in HEADS:
        tf_test.assertDTypeEqual(found[name], np.float32)
        error = np.abs(np.asarray(found[name]) - np.asarray(wanted[name])).max()
        assert 0 < error < 0.1 * np.abs(wanted[name]).max()
    assert narrow.get_layer("tcb3").compute_dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(v.dtype) for v in narrow.weights} == {"float32"}


def test_width_multiplier_scales_the_channels(free_mobilenet, fixed_mobilenet):
    def channels(model):
        return model.get_layer("mobilenet_v2").get_layer("block_6_expand_relu").output.shape[-1]

    # Six times 32, narrowed and rounded to a multiple of 8: 11.2 -> 16, 24.
    assert channels(free_mobilenet) == 6 * 16
    assert channels(fixed_mobilenet) == 6 * 24


def test_batch_norm_of_the_transfer_blocks_is_optional(free_mobilenet, fixed_mobilenet):
    def count(model, kind):
        return sum(v.path.startswith("tcb") and v.name == kind for v in model.weights)

    # Each of the four blocks has three convolutions, and three blocks have an upsampling.
    assert (count(free_mobilenet, "bias"), count(free_mobilenet, "gamma")) == (15, 0)
    assert (count(fixed_mobilenet, "bias"), count(fixed_mobilenet, "gamma")) == (0, 15)


@pytest.mark.parametrize(("network", "momentum"), [("free_mobilenet", 0.999), ("fixed_mobilenet", 0.9)])
def test_batch_norm_momentum_reaches_every_layer(network, momentum, request):
    layers = request.getfixturevalue(network)._flatten_layers()
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 50
    assert {layer.momentum for layer in norms} == {momentum}


def test_unknown_width_multiplier():
    """ImageNet weights exist for some widths only."""
    model_config = ModelConfig(backbone="mobilenet_v2", width_multiplier=0.4, weights="imagenet")
    with pytest.raises(InputError, match=r"model.width_multiplier 0.4: .*0\.35"):
        load_initial_weights(keras.Sequential(), model_config)


def test_classes_must_be_known():
    with pytest.raises(InputError, match="data.classes is null"):
        build_model(Config())


@pytest.mark.parametrize("design", ["refinedet", "single_stage"])
def test_parts(design):
    levels = range(2, 7) if design == "refinedet" else LEVELS
    network = thin_vgg(design=design, anchors=FIVE_LEVELS if len(levels) == 5 else None)
    parts = {"backbone": set(), "extra": set(), "transfer": set(), "heads": set()}
    for variable in network.weights:
        parts[network.part_of(variable.path)].add(variable.path.split("/")[0])
    assert {name[:4] for name in parts["backbone"]} == {"conv", "fc6", "fc7"}
    assert len(parts["backbone"]) == 2 + 2 + 3 * 3 + 2
    norms = {f"conv{level + 1}_3_norm" for level in levels if level < 5}
    assert parts["extra"] == norms | {"conv6_1", "conv6_2"}
    modules = ("arm", "odm") if design == "refinedet" else ("odm",)
    assert parts["transfer"] == {f"tcb{level}" for level in levels if design == "refinedet"}
    heads = [f"{module}_{kind}" for module in modules for kind in ("loc", "conf")]
    assert parts["heads"] == {f"{head}{level}" for head in heads for level in levels}


def test_anchors_of_a_network(thin):
    np.testing.assert_array_equal(thin.anchors((64, 128)), tile_anchors((64, 128)))
    with pytest.raises(ValueError, match="image_size is null"):
        thin.anchors()
    fixed = thin_vgg(image_size=(64, 64), anchors=FIVE_LEVELS)
    np.testing.assert_array_equal(fixed.anchors(), tile_anchors((64, 64), FIVE_LEVELS))
    assert fixed.anchors().shape == fixed.output["arm_loc"].shape[1:]


def imports_of(file):
    """The modules that are imported when a file of the package is imported."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    at_once = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found = set()
    for node in ast.walk(ast.Module(at_once, [])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def file_of(module):
    """The file of a module of the package; None for anything else."""
    path = Path(refinedet_tf.__file__).parent.parent.joinpath(*module.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in files if module.startswith("refinedet_tf") and file.is_file()), None)


@pytest.mark.parametrize(
    "name",
    ["config.files", "refinedet.anchors", "refinedet.losses", "refinedet.network", "training.optimizer"]
    + ["weights"],
)
def test_network_and_loss_run_on_every_backend_of_keras(name):
    """Neither they nor what they import needs TensorFlow to be installed."""
    waiting, seen = ["refinedet_tf", f"refinedet_tf.{name}"], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for imported in imports_of(file_of(module)):
            assert imported.split(".")[0] not in ("tensorflow", "jax", "torch"), module
            if imported not in seen and file_of(imported):
                waiting.append(imported)
    if name == "refinedet.network":
        assert {"refinedet_tf.refinedet.layers", "refinedet_tf.refinedet.backbones.vgg16"} <= seen
