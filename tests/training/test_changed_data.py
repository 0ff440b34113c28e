"""The facts by which a resumed run and other workers recognise the data, wherever it lies."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from config_of import config_of

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.training.agreement import changed_data, data_facts
from refinedet_tf.training.best import comparable_best, measured_by

NAME = "training set"


@pytest.fixture(scope="module")
def dataset(devkit):
    return read_dataset(DataConfig(root=str(devkit), train=("2007/train",)), "train")


def changed(dataset, **changes):
    return dataclasses.replace(dataset, **changes)


def test_the_same_data_elsewhere(dataset, devkit, tmp_path):
    root = shutil.copytree(devkit, tmp_path / "moved")
    moved = read_dataset(DataConfig(root=str(root), train=("2007/train",)), "train")
    assert moved.image_paths != dataset.image_paths
    assert data_facts(NAME, moved) == data_facts(NAME, dataset)


CHANGES = {
    "number of objects": lambda d: {
        "boxes": d.boxes[:-1],
        "labels": d.labels[:-1],
        "difficult": d.difficult[:-1],
        "offsets": np.minimum(d.offsets, len(d.labels) - 1),
    },
    "digest of image ids": lambda d: {"image_ids": (*d.image_ids[:-1], "other")},
    "the order of the images": lambda d: {"image_ids": d.image_ids[::-1]},
    "digest of image sizes": lambda d: {"image_sizes": d.image_sizes + 1},
    "digest of boxes": lambda d: {"boxes": d.boxes * np.float32(1.0001)},
    "digest of labels": lambda d: {"labels": d.labels % 6 + 1},
    "difficult objects": lambda d: {"difficult": ~d.difficult},
}
"""What differs -> the fields with that difference."""


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_named(dataset, change):
    facts = data_facts(NAME, dataset)
    line = changed_data(facts, data_facts(NAME, changed(dataset, **CHANGES[change](dataset))))
    key = {"the order of the images": "digest of image ids", "difficult objects": "digest of labels"}
    first = f"{key.get(change, change)} of the {NAME}"
    assert line.startswith(f"{first} was {facts[first]!r}, is ")


def test_facts_that_cannot_be_compared(dataset):
    """Those of a checkpoint of an earlier version are missing, or mean something else."""
    facts = data_facts(NAME, dataset)
    assert json.loads(json.dumps(facts)) == facts
    assert changed_data(None, facts) == ""
    assert changed_data({}, facts) == ""
    of_another_version = {**facts, "version of the facts": 0, f"number of images of the {NAME}": 1}
    assert changed_data(of_another_version, facts) == ""
    without = {key: value for key, value in facts.items() if "digest" not in key}
    assert changed_data(without, facts) == ""


def test_names_that_are_not_text(dataset):
    names = tuple(os.fsdecode(f"caf\xe9{number}".encode("latin-1")) for number in range(len(dataset)))
    facts = data_facts(NAME, changed(dataset, image_ids=names))
    assert "digest of image ids" in changed_data(facts, data_facts(NAME, dataset))


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({}, None),
        ({"evaluation": {"batch_size": 2}}, None),
        ({"data": {"validation": ()}}, None),
        ({"evaluation": {"metric": "coco"}}, 'evaluation.metric was "voc07", is "coco"'),
        ({"postprocess": {"max_detections": 7}}, "postprocess.max_detections was 200, is 7"),
        ({"data": {"validation": ("a", "b")}}, 'data.validation was ["2007/val"], is ["a", "b"]'),
    ],
)
@pytest.mark.parametrize("earlier_version", [False, True])
def test_the_best_validation_of_another_measurement(dataset, change, how, earlier_version):
    """A checkpoint of an earlier version does not say what its best value means."""
    config = config_of(data={"validation": ("2007/val",)})
    facts = data_facts("validation set", dataset)
    best = {"mAP": 0.5, "step": 4}
    if not earlier_version:
        best |= {"measured_by": measured_by(config), "data": facts}
    found = comparable_best(best, config_of(**{"data": {"validation": ("2007/val",)}, **change}), facts)
    if how is None or earlier_version:
        assert found == (best, None)
        return
    line = "the best validation so far (mAP 0.5000 at step 4) was measured otherwise: "
    assert found == (None, f"{line}{how}; the next validation replaces it")


def test_the_best_validation_of_other_data(dataset):
    config = config_of(data={"validation": ("2007/val",)})
    facts = data_facts("validation set", dataset)
    best = {"mAP": 0.5, "step": 4, "measured_by": measured_by(config), "data": facts}
    _, line = comparable_best(best, config, {**facts, "number of images of the validation set": 7})
    assert "measured otherwise: number of images of the validation set was 8, is 7; " in line
