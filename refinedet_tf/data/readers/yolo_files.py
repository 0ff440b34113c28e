"""The files around YOLO's labels: data.yaml, lists of images, and the place of each label file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from refinedet_tf.data.readers.image_folders import is_image, refuse_unreadable, walk
from refinedet_tf.data.readers.reader import FolderListings, check_class_name, path_within, read_text
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder, list_folder
from refinedet_tf.json_files import check_text

MAX_YAML_BYTES = 2**18
"""The largest size of a data.yaml. The one of LVIS with 1,203 classes has 36 kB."""

MAX_LIST_BYTES = 2**29
"""The largest size of a list of images."""

SPLITS = ("train", "val", "test")
"""The keys of data.yaml that name images."""


class DataYaml(NamedTuple):
    """What is used of a data.yaml."""

    file: Path
    names: dict[int, str]
    """The class name of each index of the label files, in ascending order of the indices."""
    path: str
    """The folder from which the splits start; "" where the file does not say."""
    splits: dict[str, list[str]]
    """The folders and lists of images of each split, as the file has them."""


class _PlainLoader(yaml.SafeLoader):
    """A loader that refuses aliases, of which a few lines may stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) has no place in it")
        return super().compose_node(parent, index)


def read_data_yaml(file: Path) -> DataYaml:
    """Reads a data.yaml.

    `names` may be a list, or an object from index to name; `nc`, if it is there, must be their number.
    Each of `train`, `val` and `test` may be a path or a list of paths.

    Raises:
        InputError: the file cannot be read, is no YAML, or a key is missing or wrong.
    """
    text = read_text(file, MAX_YAML_BYTES)
    try:
        tree = yaml.load(text, _PlainLoader)  # noqa: S506 - it is a safe loader
    except Exception as error:
        # For broken texts PyYAML raises errors from RecursionError to AttributeError besides its own.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file} is not valid YAML: {shortened_text(reason, 300)}") from None
    if not isinstance(tree, dict):
        raise InputError(f'{file} must hold the keys "names" and "train"')
    if "kpt_shape" in tree:
        raise InputError(f"{file} describes key points (kpt_shape), whose labels are not read as boxes")
    path = tree.get("path") or ""
    if not isinstance(path, str):
        raise InputError(f"{file}: path must be a folder, got {shortened(path)}")
    check_text(path, f"{file}: path")
    splits = {key: _paths(tree[key], f"{file}: {key}") for key in SPLITS if tree.get(key)}
    return DataYaml(file, _names(tree, file), path.replace("\\", "/"), splits)


def _names(tree: dict[Any, Any], file: Path) -> dict[int, str]:
    entries = tree.get("names")
    pairs: list[tuple[Any, Any]]
    if isinstance(entries, list):
        pairs = list(enumerate(entries))
    elif isinstance(entries, dict):
        pairs = list(entries.items())
    else:
        raise InputError(f'{file} must hold "names", a list of class names or an object from index to name')
    names: dict[int, str] = {}
    for index, name in pairs:
        if isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 10:
            index = int(index)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**31:
            raise InputError(f"{file}: an index in names must be a whole number, got {shortened(index)}")
        if isinstance(name, int) and not isinstance(name, bool) and abs(name) < 10**9:
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            # YAML reads the words yes, no, on and off as booleans.
            raise InputError(
                f"{file}: names[{index}] must be text, got {shortened(name)}; write it between quotes"
            )
        check_text(name, f"{file}: names[{index}]")
        check_class_name(name, f"{file}: names[{index}]")
        if index in names or name in names.values():
            raise InputError(f"{file}: names repeats the index {index} or the name {shortened(name)}")
        names[index] = name
    if not names:
        raise InputError(f"{file}: names is empty")
    if tree.get("nc") not in (None, len(names)):
        raise InputError(f"{file}: nc is {shortened(tree['nc'])}, but names has {len(names)} entries")
    return dict(sorted(names.items()))


def _paths(value: Any, where: str) -> list[str]:
    paths = value if isinstance(value, list) else [value]
    for path in paths:
        if not isinstance(path, str) or not path:
            raise InputError(f"{where} must be a folder, a .txt file or several, got {shortened(value)}")
        check_text(path, where)
    return [path.replace("\\", "/") for path in paths]


class ListedImage(NamedTuple):
    """An image of a split."""

    file: Path
    folder: Path | None
    """The folder of the split that the image was found in; None: a list names the image."""


def find_images(root: Path, data_yaml: DataYaml, split: str) -> list[ListedImage]:
    """Lists the images of a split ("train", "val", "test"), all of which must lie within `root`, `data.root`.

    Those of its folders come in the order of their paths, and those of its lists in the order of the lists.
    Paths start at `path`, or at the folder of the data.yaml where `path` does not exist within `root`, as
    after a move to another machine. A leading "../" that leads nowhere is ignored, as other readers do.

    Raises:
        InputError: the split is not in the file, or a path does not exist or leads out of `root`.
    """
    if split not in data_yaml.splits:
        there = ", ".join(data_yaml.splits) or "none"
        raise InputError(f'{data_yaml.file} has no "{shortened_text(split)}"; the splits there are {there}')
    bases = [data_yaml.file.parent]
    moved = path_within(root, bases[0] / data_yaml.path)
    if data_yaml.path and moved is not None and is_folder(moved):
        bases.insert(0, moved)
    images: list[ListedImage] = []
    for entry in data_yaml.splits[split]:
        where = f"{data_yaml.file}: {split}"
        path = _existing(root, bases, entry, where)
        if is_folder(path):
            inside = list(_find_below(path))
            _refuse_orphan_labels(root, inside)
            images += [ListedImage(image, path) for image in inside]
        elif path.suffix == ".txt":
            listed = _read_list(root, [path.parent, *bases], path)
            images += [ListedImage(image, None) for image in listed]
        else:
            raise InputError(f"{where} must be a folder or a .txt file, got {shortened(entry)}")
    return images


def _existing(
    root: Path, bases: list[Path], entry: str, where: str, listings: FolderListings | None = None
) -> Path:
    """Returns the first place of `entry` below one of the bases that exists."""
    names = [entry, entry.removeprefix("../")] if entry.startswith("../") else [entry]
    places = [path_within(root, base / name) for name in names for base in bases]
    for place in places:
        if place is not None and (place in listings if listings else is_folder(place) or is_file(place)):
            return place
    first = next((place for place in places if place is not None), None)
    if first is None:
        raise InputError(f"{where}: {shortened(entry)} leads out of data.root ({shortened_text(root)})")
    raise InputError(f"{where}: {shortened_text(first)} does not exist")


def _find_below(folder: Path) -> Iterator[Path]:
    """Yields the images in a folder and in the folders below it."""
    for name in walk(folder):
        refuse_unreadable(folder / name)
        if is_image(name):
            yield folder / name


def _read_list(root: Path, bases: list[Path], file: Path) -> Iterator[Path]:
    listings = FolderListings()
    for number, line in enumerate(read_text(file, MAX_LIST_BYTES).splitlines(), start=1):
        if entry := line.strip().replace("\\", "/"):
            where = f"{file}, line {number}"
            check_text(entry, where)
            yield _existing(root, bases, entry, where, listings)


def label_file(root: Path, image: Path) -> Path:
    """Returns the place of an image's label file: the last "/images/" below `root` becomes "/labels/".

    Where there is none, the label file lies next to the image.
    """
    relative = f"/{image.relative_to(root).as_posix()}"
    before, images, after = relative.rpartition("/images/")
    moved = f"{before}/labels/{after}" if images else relative
    return (root / moved[1:]).with_suffix(".txt")


def _refuse_orphan_labels(root: Path, images: list[Path]) -> None:
    """Refuses a label file in labels/ whose image is not there, as after a deletion or a wrong copy."""
    stems: dict[Path, set[str]] = {}
    for image in images:
        label = label_file(root, image)
        if label.parent != image.parent:
            stems.setdefault(label.parent, {"classes"}).add(label.stem)
    for folder, known in stems.items():
        names = list_folder(folder) if is_folder(folder) else []
        for name in sorted(names):
            if name.endswith(".txt") and not name.startswith(".") and name[:-4] not in known:
                raise InputError(
                    f"{shortened_text(folder / name)} has no image; restore or remove one of them"
                )
