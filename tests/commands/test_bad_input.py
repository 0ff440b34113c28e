"""A mistake of the user ends a command with exit code 2 and one line that names the mistake."""

import json
import re
import shutil

import keras
import pytest
from PIL import Image
from training_config import sets

import detect
import evaluate
import export_savedmodel
import train
from refinedet_tf.commands import subset_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.training.lock import RunLock


@pytest.fixture
def devkit_copy(devkit, tmp_path):
    """A copy of the devkit to spoil: its VOC2007 folder."""
    return shutil.copytree(devkit, tmp_path / "copy") / "VOC2007"


@pytest.fixture
def training(config_file, devkit_copy, tmp_path):
    """The arguments of a run of one step on `devkit_copy`, without validation."""
    short = sets(f"data.root={devkit_copy.parent}", "data.validation=[]", "training.length=1")
    return ["--config", config_file, "--output", tmp_path / "run", *short]


@pytest.fixture(scope="module")
def weights(config_file, tmp_path_factory):
    """Untrained weights of the small network for the devkit's six classes."""
    from small_network import BACKBONE, small_backbone

    from refinedet_tf.refinedet.backbones import BACKBONES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        keras.utils.set_random_seed(0)
        network = build_model(load_config(config_file, sets_of_classes(CLASS_NAMES)))
    file = tmp_path_factory.mktemp("weights") / "six.weights.h5"
    network.save_weights(file)
    return file


def sets_of_classes(names):
    return [f"data.classes={json.dumps(list(names))}"]


def required_by(module, folder):
    """The arguments that a command needs besides its model: an output folder, an image."""
    arguments = [] if module is evaluate else ["--output", folder / "out"]
    if module is detect:
        Image.new("RGB", (9, 9)).save(folder / "image.png")
        arguments.append(folder / "image.png")
    return arguments


# Configs


@pytest.mark.parametrize("module", [train, evaluate, detect, export_savedmodel])
def test_wrong_key(refused, config_file, module, tmp_path):
    arguments = ["--config", config_file, "--set", "training.bach_size=4", *required_by(module, tmp_path)]
    line = refused(module, *arguments)
    assert "unknown key training.bach_size; did you mean training.batch_size?" in line


@pytest.mark.parametrize("module", [evaluate, detect, export_savedmodel])
def test_open_image_size(refused, config_file, weights, small_network, tmp_path, module):
    overrides = sets("model.image_size=null", *sets_of_classes(CLASS_NAMES))
    model = ["--config", config_file, *overrides, "--weights", weights, *required_by(module, tmp_path)]
    assert "model.image_size is null" in refused(module, *model)


# Weights and runs


def evaluation(training, weights):
    """The arguments of evaluate.py for the same data."""
    output = training.index("--output")
    rest = training[:output] + training[output + 2 :]
    return [*rest, *sets(*sets_of_classes(CLASS_NAMES)), "--weights", weights]


# Data


def lose_an_image(folder):
    (folder / "JPEGImages" / "train_000000.jpg").unlink()


def widen_boxes(folder):
    for file in (folder / "Annotations").glob("*.xml"):
        file.write_text(re.sub(r"<xmax>\d+", "<xmax>4000", file.read_text()))


def truncate_images(folder):
    for file in (folder / "JPEGImages").glob("train_*.jpg"):
        file.write_bytes(file.read_bytes()[:3000])


def spoil_boxes(devkit_copy):
    """One box without area and one outside the image, in the first image that has two objects."""
    for file in sorted((devkit_copy / "Annotations").glob("train_*.xml")):
        parts = file.read_text().split("<bndbox>")
        if len(parts) > 2:
            for place, box in ((1, (5, 9, 5, 30)), (2, (5000, 10, 5040, 50))):
                tags = ("xmin", "ymin", "xmax", "ymax")
                inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
                parts[place] = inside + parts[place][parts[place].index("</bndbox>") :]
            file.write_text("<bndbox>".join(parts))
            return file
    raise AssertionError("no image with two objects")


@pytest.mark.slow
def test_unusable_boxes_are_dropped_and_counted(done, training, devkit_copy, eagerly, tmp_path):
    objects = sum(
        file.read_text().count("<bndbox>") for file in (devkit_copy / "Annotations").glob("train_*")
    )
    file = spoil_boxes(devkit_copy)
    result = done(train, *training)
    said = f"training images: 8, objects: {objects - 2}; 2 boxes dropped: 1 without area, e.g. "
    assert said in result.out
    assert "[5, 9, 5, 30]; 1 outside the image, e.g. " in result.out
    listed = json.loads((tmp_path / "run" / "box_defects.json").read_text())
    assert [(issue["image"], issue["reason"]) for issue in listed["issues"]] == [
        (file.stem, "without area"),
        (file.stem, "outside the image"),
    ]


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, sets("model.image_size=null"), "model.image_size is null: training needs a size"),
        (lose_an_image, [], "JPEGImages/train_000000.jpg does not exist, but 2007/train"),
        (
            None,
            sets(*sets_of_classes([*CLASS_NAMES, "ghost"])),
            'error: data.classes names "ghost", of which data.train (2007/train) has no object',
        ),
        (spoil_boxes, ["--strict"], ".xml: the box [5, 9, 5, 30] ("),
        (widen_boxes, [], "--set data.max_bad_boxes=1"),
        (truncate_images, [], "cannot be decoded: it is truncated or broken"),
        (None, sets("model.weights=none.weights.h5"), "weights not found: none.weights.h5"),
    ],
)
def test_training_that_cannot_begin(
    refused, training, devkit_copy, eagerly, monkeypatch, tmp_path, spoil, options, message
):
    """It leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    if spoil is not None:
        spoil(devkit_copy)
    assert message in refused(train, *training, *options)
    assert not (tmp_path / "run").exists()


def test_evaluation_that_cannot_begin(refused, training, devkit_copy, weights, small_network, tmp_path):
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(weights.read_bytes()[:2000])
    line = refused(evaluate, *evaluation(training, damaged))
    assert f"{damaged} cannot be read as weights (damaged?)" in line
    file = devkit_copy / "Annotations" / "val_000000.xml"
    file.unlink()
    line = refused(evaluate, *evaluation(training, weights))
    assert f"{file} cannot be read: No such file" in line


def test_run_folder_in_use(refused, training, tmp_path):
    with RunLock(tmp_path / "run") as lock:
        lock.take()
        (tmp_path / "run" / "final.weights.h5").touch()
        line = refused(train, *training)
    assert line.startswith(f"error: {tmp_path / 'run'} is in use by another training (process ")


# Names


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3_000, "a\0b"], ids=range(3))
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (evaluate, ["--weights", "w", "--json", "{}/a.json"]),
        (evaluate, ["--weights", "w", "--curves", "{}/a.png"]),
        (evaluate, ["--weights", "w", "--detections", "{}/a.json"]),
        (evaluate, ["--weights", "w", "--set", "data.root={}"]),
        (train, ["--output", "{}"]),
        (detect, ["--output", "out", "{}"]),
        (export_savedmodel, ["--output", "{}"]),
        (subset_classes, ["--target", "{}", "--output", "a.weights.h5"]),
        (subset_classes, ["--target", "voc320.json", "--output", "{}/a.weights.h5"]),
    ],
)
def test_names_that_no_file_can_have(refused, config_file, monkeypatch, tmp_path, module, arguments, name):
    monkeypatch.chdir(tmp_path)
    filled = [argument.replace("{}", name) for argument in arguments]
    for config in (config_file, name):
        line = refused(module, "--config", config, *filled)
        assert len(line) < 2_000 and line.isprintable()


def test_run_folder_without_weights(refused, config_file, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config_file.read_text())
    line = refused(evaluate, "--config", folder)
    assert line == f"error: {folder} holds no weights yet (best.weights.h5 or final.weights.h5)"


# Outputs


def test_an_output_that_is_not_empty(refused, training, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert f"{folder} is not empty, it holds notes.txt: name another --output" in refused(train, *training)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
