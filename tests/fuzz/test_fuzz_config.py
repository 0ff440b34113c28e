"""Config files, what they extend, and overrides: a config that survives the round trip, or one line."""

import json

from mutation import EXTREME_NUMBERS, EXTREME_TEXTS, json_bytes, pick

from refinedet_tf.config import Config, differences
from refinedet_tf.config.files import CONFIG_FOLDER, config_to_json, load_config

SHIPPED = sorted(CONFIG_FOLDER.glob("*.json"))
WHOLE = json.loads(config_to_json(load_config("voc320.json")))
KEYS = [
    name
    for section, values in WHOLE.items()
    for name in ([f"{section}.{key}" for key in values] if isinstance(values, dict) else [section])
]


def check(config, tmp_path):
    """A config that was accepted can be written, read again, and compared."""
    assert isinstance(config, Config)
    copy = tmp_path / "copy.json"
    copy.write_text(config_to_json(config), encoding="utf-8")
    assert load_config(copy) == config
    assert differences(config, load_config("voc320.json")) is not None


def test_config_files(fuzz, tmp_path):
    file = tmp_path / "mutated.json"

    def case(rng):
        tree = WHOLE if rng.random() < 0.5 else json.loads(pick(rng, SHIPPED).read_bytes())
        file.write_bytes(json_bytes(rng, tree))
        check(load_config(file), tmp_path)

    fuzz(case)


def test_extended_files(fuzz, tmp_path):
    (tmp_path / "folder").mkdir()
    names = ("a.json", "b.json", "folder/config.json")

    def case(rng):
        for name in names:
            parent = pick(rng, (*names, "voc320.json", "folder", *EXTREME_TEXTS, "x" * 300))
            tree = {"extends": parent, "training": {"length": 5}, "data": {"classes": ["cat"]}}
            if rng.random() < 0.3:
                del tree["extends"]
            contents = json.dumps(tree).encode("utf-8", "surrogatepass")
            (tmp_path / name).write_bytes(json_bytes(rng, tree) if rng.random() < 0.3 else contents)
        check(load_config(tmp_path / "a.json"), tmp_path)

    fuzz(case)


def hostile_override(rng):
    texts = (*EXTREME_TEXTS, "x" * 100_000, ".".join("a" * 10_000), "training", "model..", "=")
    name = pick(rng, KEYS)
    section, _, key = name.partition(".")
    valid = WHOLE[section][key] if key else WHOLE[section]
    if rng.random() < 0.2:
        name = name[: rng.integers(len(name) + 1)] + pick(rng, texts)
    match rng.integers(8):
        case 0:
            value = pick(rng, texts)
        case 1:
            value = repr(pick(rng, EXTREME_NUMBERS))
        case 2:
            values = ("[" * 100_000, "9" * 5_000, '"\\u0000"', '"\\ud800"', "{}", "NaN", "[[]]", "\0")
            value = pick(rng, values)
        case 3:
            section = pick(rng, ("model", "data", "training"))
            value = json_bytes(rng, WHOLE[section]).decode(errors="surrogateescape")
        case _:
            value = json.dumps(valid)
    return f"{name}={value}" if rng.random() < 0.95 else f"{name}{value}"


def test_overrides(fuzz, tmp_path):
    def case(rng):
        overrides = [hostile_override(rng) for _ in range(rng.integers(1, 4))]
        check(load_config("voc320.json", overrides), tmp_path)

    fuzz(case)


def test_names_of_configs(fuzz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def case(rng):
        parts = (*EXTREME_TEXTS, "x" * 300, "x/" * 3000, "voc320", "config.json", "~")
        name = "".join(pick(rng, parts) for _ in range(rng.integers(1, 4)))
        check(load_config(name), tmp_path)

    fuzz(case)
