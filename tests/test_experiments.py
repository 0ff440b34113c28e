"""The published experiments: every config builds the network it names, and trains."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import resnet
import thin_vgg
from small_network import make_trainer, random_batch, state_of
from tiers import slow

from refinedet_tf.config import with_classes
from refinedet_tf.config.files import CONFIG_FOLDER, load_config
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.training.agreement import FREE_ON_RESUME
from refinedet_tf.training.schedule import check_schedule, in_steps

VGG_VOC, VGG_COCO, RESNET_COCO = 34_440_884, 36_100_484, 82_608_287

TRAINED = ("voc320", "coco320_resnet101", "own_data")
"""The configs whose training step `make test` tries: one for each network."""

EXPERIMENTS = {
    "voc320": (VGG_VOC, 6375, 20),
    "voc512": (VGG_VOC, 16320, 20),
    "voc2012_320": (VGG_VOC, 6375, 20),
    "voc2012_512": (VGG_VOC, 16320, 20),
    "coco320": (VGG_COCO, 6375, 80),
    "coco512": (VGG_COCO, 16320, 80),
    "coco320_resnet101": (RESNET_COCO, 6375, 80),
    "coco512_resnet101": (RESNET_COCO, 16320, 80),
    "voc320_from_coco": (VGG_VOC, 6375, 20),
    "voc512_from_coco": (VGG_VOC, 16320, 20),
    "voc2012_320_from_coco": (VGG_VOC, 6375, 20),
    "voc2012_512_from_coco": (VGG_VOC, 16320, 20),
    "voc320_no_filter": (VGG_VOC, 6375, 20),
    "voc320_no_cascade": (VGG_VOC, 6375, 20),
    "voc320_no_tcb": (23_655_788, 6375, 20),
    "shapes": (4_248_897, 1602, 6),
    "bccd": (4_228_125, 6375, 3),
    "own_data": (5_975_965, 6375, 6),
    "own_data_from_scratch": (4_248_897, 6375, 6),
    "voc2007_test_photos": (6_072_901, 6375, 20),
    "voc2007_test_photos_2": (6_072_901, 6375, 20),
}
"""Parameters, anchors and classes of every config."""

TO_EXTEND = ("own_data", "own_data_from_scratch")
"""The configs that claim no result."""

PUBLISHED = [name for name in EXPERIMENTS if name not in TO_EXTEND]

SCHEDULES = {
    "voc320": (32, 1e-3, (80_000, 100_000), 120_000),
    "voc2012_512": (32, 1e-3, (160_000, 200_000), 240_000),
    "coco512": (32, 1e-3, (280_000, 360_000), 400_000),
    "coco320_resnet101": (32, 1e-3, (280_000, 360_000), 400_000),
    "coco512_resnet101": (20, 1e-3, (400_000, 480_000), 540_000),
    "voc512_from_coco": (32, 5e-5, (80_000,), 120_000),
    "voc2012_320_from_coco": (32, 5e-5, (120_000,), 160_000),
}
"""Batch size, first rate, milestones and steps (paper, section 3.4; fine-tuning: the authors' code)."""


def experiment(name):
    """The config of an experiment, with class names where training would read them from the data."""
    config = load_config(f"{name}.json")
    if config.data.classes is None:
        config = with_classes(config, [f"class {i}" for i in range(EXPERIMENTS[name][2])])
    return config


@pytest.fixture(scope="module")
def parameters_of():
    """The number of parameters of a config's network; equal networks are built once."""
    counts = {}

    def count(config):
        key = (dataclasses.replace(config.model, image_size=None), config.num_classes)
        if key not in counts:
            counts[key] = build_model(config).count_params()
        return counts[key]

    return count


def test_every_config_is_listed():
    assert {path.stem for path in CONFIG_FOLDER.glob("*.json")} == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_size_of_the_network(name, parameters_of):
    config = experiment(name)
    parameters, anchors, classes = EXPERIMENTS[name]
    assert config.num_classes == classes
    assert len(tile_anchors(config.model.image_size)) == anchors
    assert parameters_of(config) == parameters


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    training = experiment(name).training
    found = (training.batch_size, training.learning_rate, training.milestones, training.steps)
    assert found == SCHEDULES[name]
    assert training.decay_factor == (0.2 if "from_coco" in name else 0.1)
    assert (training.momentum, training.weight_decay) == (0.9, 5e-4)


def test_splits():
    parts = {name: (experiment(name).data.train, experiment(name).data.test) for name in SCHEDULES}
    assert parts["voc320"] == (("2007/trainval", "2012/trainval"), ("2007/test",))
    assert parts["voc2012_512"] == (("2007/trainval", "2007/test", "2012/trainval"), ("2012/test",))
    assert parts["coco512_resnet101"] == (("train2017",), ("val2017",))
    assert experiment("voc320").data.use_difficult and not experiment("coco512").data.use_difficult


@pytest.mark.story
@pytest.mark.parametrize("name", [name if name in TRAINED else slow(name) for name in EXPERIMENTS])
def test_two_training_steps(name, monkeypatch):
    """The channels are few and the images small; solver, loss and design are those of the config."""
    monkeypatch.setattr(
        importlib.import_module("refinedet_tf.refinedet.backbones.vgg16"), "STAGES", thin_vgg.STAGES
    )
    for constant, value in resnet.THIN.items():
        monkeypatch.setattr(
            importlib.import_module("refinedet_tf.refinedet.backbones.resnet101"), constant, value
        )
    config = experiment(name)
    small = {"image_size": (64, 64), "tcb_channels": 8, "width_multiplier": 0.35}
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **small),
        training=in_steps(config.training, num_images=100),
    )
    trainer = make_trainer(config)
    before = state_of(trainer)
    for step in range(2):
        result = trainer.train_step(random_batch(config, seed=step, objects=(2, 1)))
        assert all(float(result[term]) >= 0 for term in ("arm_loc", "arm_conf", "odm_loc", "odm_conf"))
        assert float(result["odm_conf"]) > 0
        assert not result["bad_gradients"].numpy().any()
    after = state_of(trainer)
    changed = [path for path in before if (before[path] != after[path]).any()]
    # Some biases do not change, since no object is as large as the deepest anchors; every weight decays.
    weights = {v.path for v in trainer.network.trainable_variables if v.name not in ("bias", "beta")}
    assert weights <= set(changed)


def test_results_page_names_every_experiment():
    """docs/results.md has a row for each config, with its command and its figure."""
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text(encoding="utf-8")
    for name in PUBLISHED:
        config = load_config(f"{name}.json")
        rows = [line for line in page.splitlines() if f"{name}.json" in line and line.startswith("|")]
        assert rows, name
        assert any(f"{100 * config.expected.value:.1f}" in row for row in rows), name
        *_, last_command = config.command.split(" && ")
        assert any(f"`{last_command}`" in row for row in rows), name


@pytest.mark.parametrize("name", TO_EXTEND)
def test_config_to_extend_claims_nothing(name):
    """It describes no data and no result, which would end up in the export of whoever extends it."""
    config = load_config(f"{name}.json")
    assert (config.name, config.description, config.command, config.expected) == (name, "", None, None)
    assert config.data.validation == () and config.data.classes is None
    check_schedule(in_steps(config.training, num_images=1))


@pytest.mark.parametrize("name", PUBLISHED)
def test_command_of_a_config_names_it_and_its_hours_are_measured_here(name):
    config = load_config(f"{name}.json")
    assert name == "shapes" or f"train.py --config {name}.json" in config.command
    is_measured = config.expected.hours is not None
    assert is_measured == (name in ("shapes", "bccd", "voc2007_test_photos_2"))
    assert not is_measured or config.expected.source.startswith("this project")


def test_a_run_is_resumed_whatever_describes_it():
    """A run of an older version has no `command`, and its description may be another."""
    assert {"name", "description", "command", "expected"} <= set(FREE_ON_RESUME)
