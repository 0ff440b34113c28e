"""The order of the rooms: an import only ever goes to a room below."""

import ast
from pathlib import Path

import pytest

import refinedet_tf

PACKAGE = Path(refinedet_tf.__file__).parent

ROOMS = (
    ("errors",),
    ("files", "fonts", "progress", "pixel_boxes", "tensors", "threads"),
    ("drawing", "json_files"),
    ("config.values",),
    ("config.training",),
    ("config.schema",),
    ("config.files",),
    ("run_folder", "precision", "refinedet.anchors", "refinedet.boxes", "refinedet.tensorflow_batch_norm"),
    ("refinedet.batch_norm", "refinedet.matching"),
    ("refinedet.layers", "refinedet.losses"),
    ("refinedet.backbones",),
    ("refinedet.network", "refinedet.candidates"),
    ("refinedet.postprocessing",),
    ("data",),
    ("weights",),
    ("inference",),
    ("evaluation",),
    ("reports", "training"),
    ("exports",),
    ("verbs",),
    ("commands",),
)
"""The rooms, from the ground up. Those of one row do not import each other.

A room is a module at the top or a folder. In the folders of the config and of the paper, each module is one.
"""

FLOOR = {room: number for number, row in enumerate(ROOMS) for room in row}

NO_ROOMS = ("__init__", "__main__", "configs", "pretrained", "refinedet")
"""The public surface and the entry point, which may reach everything, and the folders without code."""

FILES = sorted(file for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts)


def room_of(file):
    """The room of a file of the package."""
    return room_named(file.relative_to(PACKAGE).with_suffix("").parts)


def room_named(parts):
    """The room of a module, or of a name in it, whose path in the package has these parts."""
    if parts[0] == "config" and ".".join(parts[:2]) not in FLOOR:
        return "config.schema"  # The package gives its names to others.
    if parts[0] in ("config", "refinedet") and len(parts) > 1 and parts[1] != "__init__":
        return ".".join(parts[:2])
    return parts[0]


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
        found |= {room_named(part[1:]) for part in parts if part[0] == "refinedet_tf" and len(part) > 1}
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
    ("room", "source", "found"),
    [
        ("refinedet.layers", "import refinedet_tf.training.loop", {"training"}),
        (
            "refinedet.layers",
            "def f():\n    from refinedet_tf.refinedet.network import x",
            {"refinedet.network"},
        ),
        ("refinedet.layers", "from refinedet_tf import data, errors, __version__", {"data"}),
        ("refinedet.layers", "from refinedet_tf.refinedet import losses, boxes", {"refinedet.losses"}),
        ("refinedet.layers", "from refinedet_tf.config import Config, files", set()),
        ("config.values", "from refinedet_tf.config import Config, files", {"config.schema", "config.files"}),
    ],
)
def test_upward_imports_are_seen(room, source, found):
    """An import of a module that is not below is reported, also within a function."""
    assert upward_imports(room, ast.parse(source)) == found
