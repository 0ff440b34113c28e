"""The detector that comes with the package, on photographs in the public domain."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import ship_detector

import detect
from refinedet_tf.config.files import PRETRAINED, load_config, run_folder_of
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detector import Detector
from refinedet_tf.refinedet.boxes import pairwise_iou
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.weights import load_initial_weights

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples/photos"
SHIPPED = run_folder_of(PRETRAINED)

OBJECTS = {"astronaut.jpg": ("person", (15, 20, 512, 365)), "chelsea.jpg": ("cat", (0, 0, 300, 400))}
"""Class and box, [ymin, xmin, ymax, xmax] in pixels, of the object in each photograph."""


@pytest.fixture(scope="module")
def detector():
    return Detector.pretrained()


def test_finds_the_person_and_the_cat(detector):
    results = detector([PHOTOS / name for name in OBJECTS])
    for result, (name, box) in zip(results, OBJECTS.values(), strict=True):
        assert result.names[0] == name
        assert result.scores[0] >= 0.5
        assert pairwise_iou(result.boxes[:1], np.float32([box]))[0, 0] >= 0.7


@pytest.mark.story
def test_command_without_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("detections").mkdir()
    Path("detections/of_before.png").touch()
    detect.main([str(PHOTOS)])
    assert {file.name for file in Path("detections-2").iterdir()} == {*OBJECTS, "detections.json"}
    entries = json.loads(Path("detections-2/detections.json").read_text("utf-8"))
    assert [entry["detections"][0]["class"] for entry in entries] == ["person", "cat"]
    assert "detections-2" in capsys.readouterr().out


def test_weights_need_their_config(tmp_path):
    with pytest.raises(InputError, match="--weights needs --config"):
        detect.main([str(PHOTOS), "--weights", str(tmp_path / "some.weights.h5")])


def test_a_folder_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert SHIPPED == ROOT / "refinedet_tf/pretrained"
    Path(PRETRAINED).mkdir()
    assert run_folder_of(PRETRAINED) == Path(PRETRAINED)


@pytest.mark.slow
def test_start_of_a_training_of_other_classes():
    """VOC's label 8 is the cat."""
    overrides = [f"model.weights={PRETRAINED}", 'data.classes=["zebra", "cat"]']
    config = load_config("own_data.json", overrides)
    model = build_model(config)
    start = load_initial_weights(model, config.model)
    assert set(start.layers) == {layer.name for layer in model.layers if layer.weights}
    shipped = build_model(load_config(PRETRAINED))
    shipped.load_weights(SHIPPED / "final.weights.h5")
    for level in (3, 4, 5, 6):
        name = f"odm_conf{level}"
        kernel, source = (np.asarray(network.get_layer(name).kernel) for network in (model, shipped))
        by_class = kernel.reshape(*kernel.shape[:3], 3, 3)[..., 2]
        np.testing.assert_array_equal(by_class, source.reshape(*source.shape[:3], 3, 21)[..., 8])


def test_shipped_files_are_small_and_name_no_place():
    file = RunFolder(SHIPPED).final_weights
    assert file.stat().st_size <= 13_000_000
    kinds = set()
    with h5py.File(file) as weights:
        weights.visititems(lambda _, item: kinds.add(item.dtype) if isinstance(item, h5py.Dataset) else None)
    assert kinds == {np.dtype(np.float16)}
    assert load_config(PRETRAINED) == load_config("voc2007_test_photos_2.json")


def test_weights_are_rounded_to_16_bits(tmp_path):
    source, target = tmp_path / "source.weights.h5", tmp_path / "target.weights.h5"
    values = np.float32([1 / 3, -2.5, 60_000])
    with h5py.File(source, "w") as file:
        file.attrs["about"] = "text"
        file.create_group("layers/first/vars").create_dataset("0", data=values)
    ship_detector.write_in_16_bits(source, target)
    with h5py.File(target) as file:
        assert file.attrs["about"] == "text"
        np.testing.assert_array_equal(file["layers/first/vars/0"], values.astype(np.float16))
    with h5py.File(source, "r+") as file:
        file["layers/first/vars/0"][0] = 70_000
    with pytest.raises(InputError, match="layers/first/vars/0 holds a number that float16 cannot hold"):
        ship_detector.write_in_16_bits(source, target)
