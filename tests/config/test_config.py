import dataclasses
import json
import os
from pathlib import Path

import pytest
from refusals import message_of

from refinedet_tf.config import (
    Config,
    DataConfig,
    ExpectedConfig,
    ModelConfig,
    TrainingConfig,
    differences,
    with_classes,
)
from refinedet_tf.config.files import CONFIG_FOLDER, config_to_json, load_config, overridden_value
from refinedet_tf.errors import InputError
from refinedet_tf.run_folder import default_run_folder

SHIPPED = sorted(path.name for path in CONFIG_FOLDER.glob("*.json"))


def write(folder, name, tree):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
    return path


def error_of(*args):
    return message_of(load_config, *args)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_loads_and_survives_the_round_trip(name, tmp_path):
    config = load_config(name)
    if not name.startswith("own_data"):  # Whoever extends it says what the data are.
        assert config.description.endswith(".")
        assert config.command
        assert config.command not in config.description
    assert config.name == Path(name).stem
    assert load_config(write(tmp_path, "config.json", config_to_json(config))) == config


def test_defaults_are_those_of_the_paper():
    config = Config()
    assert config.loss.positive_iou == 0.5
    assert config.loss.negatives_per_positive == 3
    assert config.loss.objectness_threshold == 0.01
    assert config.postprocess.pre_nms_per_image == 400
    assert config.postprocess.pre_nms_per_class is None
    assert config.postprocess.nms_iou == 0.45
    assert config.postprocess.max_detections == 200
    assert config.augmentation.expand_ratio == (1, 4)
    assert config.augmentation.crop_min_ious == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert config.model.tcb_channels == 256


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("traning", "training"),
        ("training.batchsize", "training.batch_size"),
        ("model.backbon", "model.backbone"),
        ("augmentation.crop_min_iou", "augmentation.crop_min_ious"),
        ("postprocess.nms_iuo", "postprocess.nms_iou"),
        ("expected.valu", "expected.value"),
    ],
)
def test_unknown_key_names_itself_and_the_nearest(key, nearest, tmp_path):
    by_override = error_of("voc320.json", [f"{key}=5"])
    tree = 5
    for part in reversed(key.split(".")):
        tree = {part: tree}
    child = write(tmp_path, "child.json", {"extends": "voc320.json", **tree})
    by_file = error_of(child)
    for message, file in ((by_override, "voc320.json"), (by_file, "child.json")):
        assert file in message
        assert f"unknown key {key};" in message
        assert f"did you mean {nearest}?" in message


def test_unknown_key_without_a_near_one_lists_the_valid_keys():
    message = error_of("voc320.json", ["evaluation.zzzzzz=1"])
    assert "unknown key evaluation.zzzzzz; valid keys: metric, batch_size" in message


def test_all_wrong_keys_are_told_at_once():
    message = error_of("voc320.json", ["traning=1", "training.batch_size=-1"])
    assert "unknown key traning" in message
    assert "training.batch_size" in message


FREEZE = 'training.freeze: must be "none", "backbone", "all_but_heads" or a list of names'


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.batch_size=16.5", "training.batch_size: .*integer.*16.5"),
        ("training.batch_size=true", "training.batch_size: .*integer.*true"),
        ('training.batch_size="16"', 'training.batch_size: .*integer.*"16"'),
        ("training.batch_size=0", "training.batch_size: .*greater than or equal to 1.*0"),
        ("training.learning_rate=0", "training.learning_rate: .*greater than 0"),
        ("training.learning_rate=NaN", "training.learning_rate: .*finite"),
        ("training.momentum=1", "training.momentum: .*less than 1"),
        ("training.seed=-1", "training.seed: .*greater than or equal to 0"),
        ("training.seed=4294967296", "training.seed: .*less than or equal to 4294967295.*4294967296"),
        *((f"training.freeze={value}", FREEZE) for value in ("heads", "[]", '[""]')),
        ("training.jit_compile=1", "training.jit_compile: .*boolean"),
        ("training.precision=float16", "training.precision: .*bfloat16.*float16"),
        ("loss.positive_iou=1.5", "loss.positive_iou: .*less than or equal to 1.*1.5"),
        ("loss.negatives_per_positive=-1", "loss.negatives_per_positive: .*greater than or equal to 0"),
        ("loss.background_negatives=-1", "loss.background_negatives: .*greater than or equal to 0"),
        ("postprocess.pre_nms_per_image=0", "postprocess.pre_nms_per_image: "),
        (
            "postprocess.pre_nms_per_image=2147483648",
            "pre_nms_per_image: .*less than or equal to 10000.*2147",
        ),
        ("postprocess.pre_nms_per_class=2147483648", "pre_nms_per_class: .*less than or equal to 100000"),
        ("postprocess.max_detections=2147483648", "max_detections: .*less than or equal to 100000"),
        (f"training.batch_size={10**30}", "training.batch_size: .*less than or equal to 100000.*1000"),
        (f"evaluation.batch_size={2**64}", "evaluation.batch_size: .*less than or equal to 100000"),
        (f"training.milestones=[5, {2**63}]", "training.milestones.1: must be .* from 1 to 1000000000"),
        (f"training.warmup={2**63}", "training.warmup: must be .* from 0 to 1000000000"),
        (f"training.log_every={2**63}", "training.log_every: .*less than or equal to 1000000000"),
        (f"training.checkpoint_every={2**63}", "training.checkpoint_every: must be .* to 1000000000"),
        (f"training.validate_every={2**63}", "training.validate_every: must be .* to 1000000000"),
        (f"augmentation.crop_trials={2**31}", "augmentation.crop_trials: .*less than or equal to 10000"),
        (f"model.tcb_channels={2**31}", "model.tcb_channels: .*less than or equal to 10000"),
        (f"model.image_size=[320, {2**31}]", "model.image_size.1: .*less than or equal to 10000"),
        ("model.width_multiplier=1e300", "model.width_multiplier: .*less than or equal to 10"),
        ("model=vgg16", "model: .*object"),
        ("model.backbone=vgg19", "model.backbone: .*vgg19.*did you mean vgg16"),
        ("model.image_size=320", "model.image_size: .*array.*320"),
        ("model.image_size=[320]", "model.image_size"),
        ("model.image_size=[320,320,3]", "model.image_size: .*2 items"),
        ("model.image_size=[63,320]", "model.image_size.0: .*64.*63"),
        ("data.train=2007/train", "data.train: .*array"),
        ("data.classes=[]", "classes must name at least one class"),
        ('data.classes=["cat","dog","cat"]', "data: classes names a class twice"),
        ("augmentation.contrast=[1.5,0.5]", r"contrast must be \[smallest, largest\], got \[1.5, 0.5\]"),
        ("augmentation.brightness=-1", "augmentation.brightness"),
        ("augmentation.expand_ratio=[0.5,2]", "augmentation.expand_ratio.0: .*1.*0.5"),
        ("augmentation.crop_scale=[0,1]", r"crop_scale must lie in \(0, 1\]"),
        ("augmentation.crop_scale=[0.5,1.5]", r"crop_scale must lie in \(0, 1\]"),
        ("augmentation.crop_aspect_ratio=[0,1]", "crop_aspect_ratio must be above 0"),
        ("augmentation.horizontal_flip_probability=2", "augmentation.horizontal_flip_probability"),
        ('loss={"background_negatives": 1, "negatives_per_positive": 0}', "needs negatives_per_positive"),
        ("expected.spread=[0.9,0.7]", "must hold the value 0.8"),
        ("expected.spread=[0.81,0.9]", "must hold the value 0.8"),
        ("expected.hours=0", "expected.hours: .*greater than 0"),
    ],
)
def test_wrong_value_is_named(override, told):
    with pytest.raises(InputError, match=told):
        load_config("voc320.json", [override])


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.batch_size=16", "training", "batch_size", 16),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.learning_rate=1e-2", "training", "learning_rate", 0.01),
        ("model.image_size=null", "model", "image_size", None),
        ("model.image_size=[512, 512]", "model", "image_size", (512, 512)),
        ("data.root=my data/VOC=2", "data", "root", "my data/VOC=2"),
        ('data.root="quoted"', "data", "root", "quoted"),
        ("data.train=[]", "data", "train", ()),
        ("training.jit_compile=true", "training", "jit_compile", True),
        ("training.milestones=[3, 5]", "training", "milestones", (3, 5)),
    ],
)
def test_override(override, section, key, value):
    plain = load_config("voc320.json")
    config = load_config("voc320.json", [override])
    assert getattr(getattr(config, section), key) == value
    assert list(differences(plain, config)) == [f"{section}.{key}"]


def test_later_override_wins_and_others_stay():
    config = load_config(
        "voc320.json", ["training.batch_size=4", "name=mine", "training.batch_size=8", "expected=null"]
    )
    assert config.training.batch_size == 8
    assert config.training.steps == 120_000
    assert config.name == "mine"
    assert config.expected is None


@pytest.mark.parametrize("override", ["training.length", "=5", "training.=5", ".steps=5", "a..b=5", ""])
def test_override_syntax(override):
    message = error_of("voc320.json", [override])
    assert message.startswith(f"--set {override}: write section.key=value")


def test_extends_chain_merges_deeply(tmp_path):
    write(
        tmp_path,
        "base.json",
        {"training": {"length": 10, "milestones": [5], "seed": 1}, "data": {"classes": ["a"]}},
    )
    write(tmp_path, "sub/middle.json", {"extends": "../base.json", "training": {"seed": 2}})
    top = write(
        tmp_path, "top.json", {"extends": "sub/middle.json", "training": {"length": 20, "milestones": []}}
    )
    config = load_config(top)
    assert config.training == TrainingConfig(length=20, milestones=(), seed=2)
    assert config.data == DataConfig(classes=("a",))
    assert config.name == "top"


def test_extends_finds_a_shipped_config(tmp_path):
    file = write(tmp_path, "mine.json", {"extends": "voc320.json", "training": {"length": 7}})
    config = load_config(file)
    assert config.training.steps == 7
    assert config.data == load_config("voc320.json").data


PARENT = {
    "name": "parent",
    "description": "A parent.",
    "command": "make parent",
    "expected": {"metric": "mAP on its data", "value": 0.5, "source": "this project", "hours": 2},
    "data": {"root": "data/parent", "train": ["2007/train"], "classes": ["cat", "dog"]},
}


@pytest.mark.parametrize(
    ("change", "inherits_expected"),
    [
        ({}, True),
        ({"training": {"length": 7}}, True),
        ({"data": {}}, True),
        ({"data": {"classes": ["cat", "dog"]}}, True),
        ({"data": {"classes": ["dog", "cat"]}}, False),
        ({"data": {"test": ["2007/test"]}}, False),
        ({"data": {"root": "data/mine"}}, False),
    ],
)
def test_what_a_config_does_not_inherit(change, inherits_expected, tmp_path):
    write(tmp_path, "parent.json", PARENT)
    parent = load_config(tmp_path / "parent.json")
    child = load_config(write(tmp_path, "child.json", {"extends": "parent.json", **change}))
    grandchild = load_config(write(tmp_path, "grandchild.json", {"extends": "child.json"}))
    for config, name in ((child, "child"), (grandchild, "grandchild")):
        assert (config.name, config.description, config.command) == (name, "", None)
        assert config.expected == (parent.expected if inherits_expected else None)
        assert config.data.train == ("2007/train",)


def test_a_config_with_other_data_states_its_own_expectation(tmp_path):
    write(tmp_path, "parent.json", PARENT)
    tree = {"extends": "parent.json", "data": {"classes": None}, "command": "make child"}
    whole = tree | {"expected": {"metric": "mAP", "value": 0.25, "source": "a paper"}}
    config = load_config(write(tmp_path, "child.json", whole))
    assert config.expected == ExpectedConfig(metric="mAP", value=0.25, source="a paper", hours=None)
    assert config.command == "make child"
    # Nothing of the parent's fills up an incomplete one.
    message = error_of(write(tmp_path, "child.json", tree | {"expected": {"value": 0.25}}))
    assert "expected.metric" in message and "expected.source" in message


def test_overrides_leave_the_expectation():
    plain = load_config("voc320.json")
    config = load_config("voc320.json", ["data.root=elsewhere", 'data.test=["2007/val"]'])
    assert config.expected == plain.expected
    assert (config.description, config.command) == (plain.description, plain.command)


def test_config_of_an_older_run_is_read(tmp_path):
    """It holds every key of its time: neither `command` nor `expected.hours`, and others."""
    config = load_config("shapes.json", ["loss.background_negatives=30"])
    tree = json.loads(config_to_json(config))
    newer = ("hours", "spread", "seeds")
    del tree["command"], tree["loss"]["background_negatives"]
    for key in newer:
        del tree["expected"][key]
    older = load_config(write(tmp_path, "run/config.json", tree).parent)
    assert older.command is older.expected.hours is older.expected.spread is older.expected.seeds is None
    assert older.loss.background_negatives == 0
    changed = {"command", "loss.background_negatives", *(f"expected.{key}" for key in newer)}
    assert differences(older, config).keys() == changed


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.json": "a.json"}, "extends itself: a.json -> a.json"),
        ({"a.json": "b.json", "b.json": "a.json"}, "extends itself: a.json -> b.json -> a.json"),
        (
            {"a.json": "b.json", "b.json": "c.json", "c.json": "b.json"},
            "extends itself: a.json -> b.json -> c.json -> b.json",
        ),
        ({"a.json": "../sub/a.json"}, "extends itself: a.json -> a.json"),
        ({"a.json": "gone.json"}, "config not found: gone.json"),
        ({"a.json": ["voc320.json"]}, r"^a.json: extends must be a file name, got \['voc320.json'\]$"),
    ],
)
def test_wrong_parents(files, told, tmp_path):
    for name, parent in files.items():
        write(tmp_path, f"sub/{name}", {"extends": parent})
    with pytest.raises(InputError, match=told):
        load_config(tmp_path / "sub/a.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"model": {"tcb_channels": 1,}}', "is not valid JSON: .*line 1"),
        (b"[1]", "must hold a JSON object"),
        (b"5", "must hold a JSON object"),
    ],
)
def test_damaged_file(content, told, tmp_path):
    (tmp_path / "damaged.json").write_bytes(content)
    with pytest.raises(InputError, match=f"damaged.json {told}"):
        load_config(tmp_path / "damaged.json")


HOSTILE_TEXTS = {
    "nested": '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "long key": json.dumps({"x" * 400_000: 1}),
    "long value": json.dumps({"training": {"length": "x" * 400_000}}),
    "long list": json.dumps({"training": {"milestones": [5] * 150_000}}),
    "long choice": json.dumps({"model": {"backbone": "vgg" * 100_000}}),
    "many mistakes": json.dumps({"data": {"classes": [0] * 150_000}}),
    "many keys": json.dumps(dict.fromkeys(map(str, range(30_000)))),
    "long parent": json.dumps({"extends": "x" * 400_000}),
    "parent of another type": json.dumps({"extends": ["x" * 400_000]}),
    "parent with a null character": '{"extends": "a\\u0000b.json"}',
    "very long": json.dumps({"name": "x" * 3_000_000}),
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_file_is_refused_in_one_short_line(name, tmp_path):
    message = error_of(write(tmp_path, "hostile.json", HOSTILE_TEXTS[name]))
    assert "hostile.json" in message or "config not found" in message
    assert len(message) < 3_000


def test_only_the_first_mistakes_are_listed(tmp_path):
    message = error_of(write(tmp_path, "a.json", {f"key{i}": 1 for i in range(25)}))
    assert message.count("unknown key") == 10 and message.endswith("; and 15 more")


@pytest.mark.parametrize(
    "override",
    [
        "training.length=" + "9" * 5_000,
        "training.length=" + "x" * 1_000_000,
        "model=" + "[" * 100_000,
        "model=" + "[" * 100_000 + "]" * 100_000,
        "name=" + '{"a":' * 100 + "1" + "}" * 100,
        ".".join(["model"] * 10_000) + "=1",
        "x" * 1_000_000 + "=1",
        "x" * 1_000_000,
        "name=a\0b",
        'name="\\u0000"',
        "name=\udcff",
        'name="\\ud800"',
        "na\udcffme=5",
        "training.length.value=5",
        f"training.{'x' * 1_000_000}=5",
        f"model.image_size={[7] * 100_000}",
        f"training.milestones={list(range(100_000, 0, -1))}",
        f"training.milestones={[-7] * 100_000}",
    ],
    ids=range(18),
)
def test_hostile_override_is_refused_in_one_short_line(override):
    message = error_of("voc320.json", [override])
    # The last one has many mistakes.
    assert 30 < len(message) < (3_000 if "[-7" in override else 1_000)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 5_000, "a\0b", "\ud800", "a\nb"])
def test_names_that_no_file_can_have(name, tmp_path):
    parent = write(tmp_path, "a.json", {"extends": name})
    for path in (name, tmp_path / name, parent):
        message = error_of(path)
        assert len(message) < 1_500


def test_name_of_a_file_that_is_not_text(tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.json")
    write(tmp_path, file.name, {"training": {"length": 3}})
    assert load_config(file).name == "caf\\udce9"
    write(tmp_path, file.name, {"training": {"step": 3}})
    assert error_of(file).startswith("caf\\udce9.json: unknown key training.step")


def test_the_name_of_a_config_in_its_own_folder(tmp_path, monkeypatch):
    """`config.json` is named after its folder, however its path is written."""
    folder = tmp_path / "cups"
    (folder / "deeper").mkdir(parents=True)
    write(folder, "config.json", {"training": {"length": 3}})
    monkeypatch.chdir(folder)
    for path in (
        "config.json",
        ".",
        "./config.json",
        "deeper/../config.json",
        folder,
        folder / "config.json",
    ):
        assert load_config(path).name == "cups", path
    monkeypatch.chdir(folder / "deeper")
    assert load_config("..").name == load_config("../config.json").name == "cups"


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "a/..", "../elsewhere"])
def test_a_name_that_is_no_folder_in_runs(name):
    with pytest.raises(InputError, match=r"^the config's name '.*' names no folder in runs: add --output"):
        default_run_folder(name)
    assert default_run_folder("cups") == "runs/cups" and default_run_folder("cups/first") == "runs/cups/first"


def test_a_long_chain_of_parents(tmp_path):
    for number in range(1_100):
        write(tmp_path, f"{number}.json", {"extends": f"{number + 1}.json"})
    assert error_of(tmp_path / "0.json") == "0.json extends more than 20 files"
    write(tmp_path, "20.json", {"training": {"length": 3}})
    assert load_config(tmp_path / "0.json").training.steps == 3


def test_bare_name_folder_and_nearest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("voc320") == load_config("voc320.json") == load_config(CONFIG_FOLDER / "voc320.json")
    run = write(tmp_path, "runs/first/config.json", {"training": {"length": 3}}).parent
    assert load_config(run).training.steps == 3
    assert load_config(run).name == "first"
    assert "config not found: voc321.json; did you mean voc320.json?" in error_of("voc321.json")
    assert "config not found: qqqq; known configs: " + ", ".join(SHIPPED) in error_of("qqqq")
    assert "config not found" in error_of(tmp_path)


def test_a_misspelt_name_is_looked_for_here_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "raccoon.json", "{}")
    write(tmp_path, "voc32.json", "{}")
    write(tmp_path, "sub/cards.json", "{}")
    for name, near in (
        ("racoon.json", "raccoon.json"),
        ("racoon", "raccoon.json"),
        ("voc320.jsn", "voc32.json"),
        ("sub/card.json", "sub/cards.json"),
        ("shape.json", "shapes.json"),
        ("sub/shape.json", "shapes.json"),
        ("nowhere/coco321.json", "coco320.json"),
    ):
        assert f"config not found: {name}; did you mean {near}?" in error_of(name)
    child = write(tmp_path, "sub/child.json", {"extends": "card.json"})
    assert "config not found: card.json; did you mean cards.json?" in error_of(child)


def test_a_file_here_goes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "voc320.json", {"training": {"length": 3}})
    assert load_config("voc320.json").training.steps == 3


def test_round_trip_of_unusual_values(tmp_path):
    config = Config(
        name="ünusual",
        model=ModelConfig(image_size=None, weights='a "quoted" file.weights.h5', width_multiplier=0.35),
        data=DataConfig(classes=("Käse", "a b"), train=("2007/train",)),
        training=TrainingConfig(gradient_clip_norm=0.1, learning_rate=1e-7, milestones=()),
    )
    text = config_to_json(config)
    assert load_config(write(tmp_path, "config.json", text)) == config
    tree = json.loads(text)
    assert set(tree) == {field.name for field in dataclasses.fields(Config)}
    assert set(tree["training"]) == {field.name for field in dataclasses.fields(TrainingConfig)}


def test_config_is_frozen_and_strict_in_python_too():
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"
    with pytest.raises(ValueError, match="batch_size"):
        TrainingConfig(batch_size="16")
    with pytest.raises(ValueError, match="batchsize"):
        TrainingConfig(batchsize=16)


def test_differences():
    old = load_config("voc320.json")
    assert differences(old, old) == {}
    new = load_config("voc320.json", ["training.length=9", "model.image_size=[512,512]", "name=other"])
    assert differences(old, new) == {
        "training.length": (120_000, 9),
        "model.image_size": ((320, 320), (512, 512)),
        "name": ("voc320", "other"),
    }
    without = load_config("voc320.json", ["expected=null"])
    removed = dataclasses.asdict(old.expected).items()
    assert differences(old, without) == {f"expected.{key}": (value, None) for key, value in removed if value}


def test_overridden_value():
    assert overridden_value([], "data.format") is None
    assert overridden_value(["data.root=coco", "name=voc"], "data.format") is None
    assert overridden_value(["data.format=coco", ' data.format="voc"'], "data.format") == "voc"
    assert overridden_value(['data={"format": "yolo"}', "data.root=set"], "data.format") == "yolo"
    with pytest.raises(InputError, match="write section.key=value"):
        overridden_value(["data.format"], "data.format")


def test_with_classes_and_their_names_and_number():
    config = load_config("shapes.json")
    for name in ("num_classes", "class_names"):
        with pytest.raises(InputError, match="data.classes is null"):
            getattr(config, name)
    named = with_classes(config, ["circle", "square"])
    assert named.num_classes == 2
    assert named.data.classes == named.class_names == ("circle", "square")
    assert differences(config, named) == {"data.classes": (None, ("circle", "square"))}
