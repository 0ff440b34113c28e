"""The order of the rooms: an import only ever goes to a room below."""

import ast
from pathlib import Path

import pytest

import refinedet_tf

PACKAGE = Path(refinedet_tf.__file__).parent

ROOMS = (
    ("errors",),
    ("files", "fonts", "progress", "pixel_boxes", "tensors", "threads"),
    ("drawing", "json_files", "pages"),
    ("boxes", "anchors", "config_values"),
    ("data_config", "training_config"),
    ("config",),
    ("config_files",),
    ("run_folder", "precision", "tensorflow_batch_norm"),
    ("batch_norm", "matching"),
    ("layers", "losses"),
    ("backbones",),
    ("model",),
    ("data",),
    ("inspection", "weights"),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("export",),
    ("commands",),
)
"""The modules and folders of the package, from the ground up. Those of one row do not import each other."""

FLOOR = {room: number for number, row in enumerate(ROOMS) for room in row}

NO_ROOMS = ("__init__", "__main__", "configs", "pretrained")
"""The public surface and the entry point, which may reach everything, and the folders without code."""

FILES = sorted(file for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts)


def room_of(file):
    """The room of a file of the package: the folder, or the module at the top."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(tree):
    """The rooms that a module imports from, wherever the import stands in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        # "from refinedet_tf import __version__" reaches no room.
        found |= {part[1] for part in parts if part[0] == "refinedet_tf" and len(part) > 1}
    return found - {"__version__"}


def upward_imports(room, tree):
    return {other for other in imported_rooms(tree) if other != room and FLOOR[other] >= FLOOR[room]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_import_runs_upward(file):
    room = room_of(file)
    if room in NO_ROOMS:
        return
    assert room in FLOOR, f"{room} has no place in ROOMS"
    assert not upward_imports(room, ast.parse(file.read_text(encoding="utf-8")))


def test_every_room_exists():
    assert set(FLOOR) <= {room_of(file) for file in FILES}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from refinedet_tf.commands.options import run", {"commands"}),
        ("def f():\n    from refinedet_tf.model import build_model", {"model"}),
        ("import refinedet_tf.training.loop", {"training"}),
        ("from refinedet_tf import model, errors", {"model"}),
        ("from refinedet_tf.losses import TERMS", {"losses"}),
        ("from refinedet_tf.boxes import area\nfrom refinedet_tf import __version__", set()),
    ],
)
def test_upward_imports_are_seen(source, found):
    """An import of a module above `layers` is reported, also within a function."""
    assert upward_imports("layers", ast.parse(source)) == found
