"""Strict reading of configs from JSON files, with inheritance and overrides.

A config file that says `"extends": "voc320.json"` holds only the keys that differ. Every key can be
overridden on the command line, for example by `--set training.batch_size=16`.

`name`, `description` and `command` describe a single file and are never inherited. `expected` is a claim
about certain data: a config whose `data` differs from that of the config it extends does not inherit it.
Overrides on the command line leave all four as they are.

Earlier configs and run folders have other keys for durations (`OLD_KEYS`), which are read as the new ones.
"""

import dataclasses
import difflib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from refinedet_tf.config import Config, TrainingConfig, epochs_of
from refinedet_tf.config.values import in_epochs
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder, list_folder
from refinedet_tf.json_files import JsonSyntaxError, check_text, parse_json, read_json

_PACKAGE = Path(__file__).resolve().parent.parent

CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    _PACKAGE / "configs",
)
"""The folder of the project's configs: inside the installed package, or next to it in a checkout."""

PRETRAINED = "pretrained"
"""The name that stands for the run folder of the detector that comes with the package."""

OLD_KEYS = {
    "steps": "length",
    "epochs": "length",
    "milestone_epochs": "milestones",
    "warmup_steps": "warmup",
    "warmup_epochs": "warmup",
    "validate_every_epochs": "validate_every",
}
"""Keys of `training` in earlier configs and run folders, and those that have taken their place."""

OLD_KEYS_IN_EPOCHS = {key for key in OLD_KEYS if key.endswith("epochs")}
"""Those that hold numbers of epochs. Null in them left the length to the key in steps."""

DESCRIBES_ONE_FILE = ("name", "description", "command")
"""The keys that a config does not inherit."""

MAX_BYTES = 2**19
"""The largest size of a config file. Longer ones are no configs, and a list of all that is wrong with them
would take much memory."""

MAX_PARENTS = 20
"""The largest number of files that extend each other."""

MAX_KEYS = 10
"""The largest number of keys in the name of an override, such as 2 in `training.batch_size`."""

MAX_MISTAKES = 10
"""The number of wrong keys and values that a message lists."""

_LONGEST_KEY = 100
"""Longer names and values are cut before they are compared with the valid ones."""

_ADAPTER = TypeAdapter(Config)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config.

    Args:
        path: a JSON file, a run folder that holds a `config.json`, a name of a file in `configs/`, or
            "pretrained".
        overrides: strings `"section.key=value"`, whose value is JSON or a plain string.

    Raises:
        InputError: the file is missing or not JSON, or a key or value is wrong. The message
            names the key and, if it is unknown, the nearest valid key.
    """
    file = _find(path, base=None)
    tree = _read_with_parents(file, seen=())
    # A relative path such as "config.json" does not name its folder.
    folder = os.path.basename(os.path.dirname(os.path.abspath(file)))  # noqa: PTH100, PTH119, PTH120
    name = file.stem if file.name != "config.json" or not folder else folder
    # The bytes of a file name need not be text.
    tree.setdefault("name", name.encode("utf-8", "backslashreplace").decode())
    given: dict[str, Any] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        if len(keys) == 1:  # A whole section takes the place of the other, and is not joined with it.
            tree.pop(keys[0], None)
        _set(given, keys, value)
    tree = _merge(tree, _with_new_keys(given, tree, "--set"))
    try:
        return _ADAPTER.validate_json(json.dumps(tree))
    except ValidationError as error:
        mistakes = [
            f"{shortened_text(file.name)}: {_explain(mistake)}"
            for mistake in itertools.islice(error.errors(include_url=False), MAX_MISTAKES)
        ]
        if error.error_count() > MAX_MISTAKES:
            mistakes.append(f"and {error.error_count() - MAX_MISTAKES} more")
        raise InputError("; ".join(mistakes)) from None


def overridden_value(overrides: Sequence[str], key: str) -> Any:
    """Returns the value that overrides, as `load_config` takes them, give a key; None where they give none.

    Raises:
        InputError: an override has another form.
    """
    tree: Any = {}
    for override in overrides:
        _set(tree, *_parse_override(override))
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def run_folder_of(path: str | Path) -> Path:
    """Returns the path, or the folder of the detector that comes with the package if it is "pretrained".

    A file or folder of that name is meant first.
    """
    path = Path(path)
    shipped = str(path) == PRETRAINED and not is_file(path) and not is_folder(path)
    return _PACKAGE / PRETRAINED if shipped else path


def config_to_json(config: Config) -> str:
    """Returns the whole config as JSON text, from which `load_config` reads an equal config."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def _find(path: str | Path, base: Path | None) -> Path:
    """Returns the config file that `path` names; it is looked up in `base` first."""
    path = run_folder_of(path)
    candidates = [path, CONFIG_FOLDER / path, CONFIG_FOLDER / f"{path}.json"]
    if base is not None:
        candidates.insert(0, base / path)
    for candidate in candidates:
        if is_folder(candidate) and is_file(candidate / "config.json"):
            return candidate / "config.json"
        if is_file(candidate):
            return candidate
    # A file of the user is a more likely aim than one of this project.
    near = _nearest(path, (base or Path()) / path.parent) or _nearest(path, CONFIG_FOLDER)
    hint = f"did you mean {near}?" if near else f"known configs: {', '.join(_json_files(CONFIG_FOLDER))}"
    raise InputError(f"config not found: {shortened_text(path)}; {hint}")


def _nearest(path: Path, folder: Path) -> str | None:
    """Returns the path with the name of the most similar JSON file of a folder; None: none is similar."""
    # The ending would make all names alike.
    names = {name.removesuffix(".json"): name for name in _json_files(folder)}
    near = difflib.get_close_matches(path.name.removesuffix(".json")[:_LONGEST_KEY], names, n=1)
    if not near:
        return None
    name = names[near[0]]
    return shortened_text(name if folder == CONFIG_FOLDER else path.with_name(name))


def _json_files(folder: Path) -> list[str]:
    """Returns the names of the JSON files in a folder; none if it cannot be read."""
    try:
        return sorted(name for name in list_folder(folder) if name.endswith(".json"))
    except InputError:
        return []


def _read_with_parents(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    file = file.resolve()
    if file in seen:
        names = " -> ".join(path.name for path in (*seen, file))
        raise InputError(f"{shortened_text(file.name)} extends itself: {shortened_text(names)}")
    if len(seen) > MAX_PARENTS:
        raise InputError(f"{shortened_text(seen[0].name)} extends more than {MAX_PARENTS} files")
    tree = read_json(file, max_bytes=MAX_BYTES)
    if not isinstance(tree, dict):
        raise InputError(f"{shortened_text(file)} must hold a JSON object")
    parent = tree.pop("extends", None)
    if parent is None:
        return _with_new_keys(tree, {}, shortened_text(file.name))
    if not isinstance(parent, str):
        raise InputError(f"{shortened_text(file.name)}: extends must be a file name, got {shortened(parent)}")
    inherited = _read_with_parents(_find(parent, file.parent), (*seen, file))
    return _inherit(inherited, _with_new_keys(tree, inherited, shortened_text(file.name)))


def _inherit(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Returns the child with what it inherits, as the head of this file describes."""
    inherited = {key: value for key, value in parent.items() if key not in DESCRIBES_ONE_FILE}
    if _merge(inherited, child).get("data") != parent.get("data"):
        inherited.pop("expected", None)
    return _merge(inherited, child)


def _with_new_keys(tree: dict[str, Any], inherited: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the keys of one file or option, `where`, with new ones in the place of old ones (`OLD_KEYS`).

    `inherited` is what they extend or override, which has new keys.
    """
    training, before = tree.get("training"), inherited.get("training")
    if not isinstance(training, dict):
        return tree
    renamed: dict[str, Any] = {}
    names: dict[str, str] = {}
    key: str
    for key, value in training.items():
        if key in OLD_KEYS_IN_EPOCHS:
            value = [_as_epochs(item) for item in value] if isinstance(value, list) else _as_epochs(value)
            if value is None:
                continue
        new = OLD_KEYS.get(key, key)
        if new in names:
            raise InputError(f"{where}: training.{names[new]} and training.{key} say the same; give one")
        names[new], renamed[new] = key, value
    for key in OLD_KEYS_IN_EPOCHS & training.keys():
        new = OLD_KEYS[key]
        if new not in renamed and isinstance(before, dict) and _is_in_epochs(before.get(new)):
            renamed[new] = getattr(TrainingConfig(), new)
    return tree | {"training": renamed}


def _as_epochs(number: Any) -> Any:
    """Returns a number as a duration in epochs; anything else is a mistake, which is found later."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return in_epochs(number) if is_number else number


def _is_in_epochs(value: Any) -> bool:
    """Says whether a duration, or one of a list, is in epochs."""
    return any(epochs_of(item) is not None for item in (value if isinstance(value, list) else [value]))


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _parse_override(override: str) -> tuple[list[str], Any]:
    """Returns the keys, from the section down, and the value of `--set section.key=value`."""
    name, separator, text = override.partition("=")
    keys = name.strip().split(".", MAX_KEYS)
    shown = shortened_text(f"--set {override}", 100)
    if not separator or not all(keys):
        raise InputError(f"{shown}: write section.key=value, e.g. training.batch_size=16")
    if len(keys) > MAX_KEYS:
        raise InputError(f"{shown}: no key lies in so many sections")
    check_text(override, "--set")
    try:
        return keys, parse_json(text, f"--set {shortened_text(name.strip(), 100)}")
    except JsonSyntaxError:
        return keys, text


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets the value to which the keys lead; what is no section on the way becomes one."""
    for key in keys[:-1]:
        child = tree.get(key)
        tree[key] = dict(child) if isinstance(child, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def _explain(error: ErrorDetails) -> str:
    """Describes a validation error as `section.key: what is wrong`."""
    location = [shortened_text(part, _LONGEST_KEY) for part in error["loc"]]
    if error["type"] == "unexpected_keyword_argument":
        valid = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.4)
        hint = (
            f"did you mean {'.'.join([*location[:-1], near[0]])}?"
            if near
            else f"valid keys: {', '.join(valid)}"
        )
        return f"unknown key {'.'.join(location)}; {hint}"
    given = error.get("input")
    shown = (
        ""
        if isinstance(given, dict) or error["type"] == "missing"
        else f", got {shortened_text(json.dumps(given, default=str), 200)}"
    )
    message = shortened_text(error["msg"].removeprefix("Value error, "))
    near = difflib.get_close_matches(str(given)[:_LONGEST_KEY], _choices(error), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{'.'.join(location) or 'config'}: {message}{shown}{hint}"


def _choices(error: ErrorDetails) -> list[str]:
    """Returns the valid values of a key that has a fixed set of them, else an empty list."""
    if error["type"] != "literal_error":
        return []
    return [part.strip(" '") for part in error["ctx"]["expected"].replace(" or ", ",").split(",")]


def _keys_at(location: Sequence[str]) -> list[str]:
    """Returns the valid keys of the section to which a location leads."""
    section: Any = Config
    for part in location:
        # A number stands for an entry of the list that the part before it names.
        types = [get_type_hints(section).get(part)]
        for hint in types:
            types += get_args(hint)
        section = next((t for t in types if dataclasses.is_dataclass(t)), section)
    return [field.name for field in dataclasses.fields(section)]
