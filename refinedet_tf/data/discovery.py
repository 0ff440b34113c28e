"""What lies in a folder of annotated photographs: its format, and its parts for training and test."""

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config.files import load_config
from refinedet_tf.data.readers.csv_tables import COLUMNS, WITHOUT_HEADER
from refinedet_tf.data.readers.identity import name_without_ending
from refinedet_tf.data.readers.image_folders import files_and_folders, is_image, walk
from refinedet_tf.data.readers.parts import READERS
from refinedet_tf.data.readers.shares import WHOLE
from refinedet_tf.data.readers.yolo_files import read_data_yaml
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder

BASE_CONFIG = "own_data.json"
"""The config that the data of a folder are put into."""

_SPLITS = {
    "trainval": "train",
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?![a-z])")
"""A word in the name of a file or folder that says what it is for."""

_LISTS = ("trainval", "train", "val", "test")
"""The lists of a devkit that are used; VOC has others, one per class."""

_HEAD_BYTES = 4096
"""The beginning of a file, by which COCO's JSON files and tables are told from others."""

_MOST_FOLDERS, _MOST_FILES = 50, 100_000
"""The numbers of folders and files that are looked at for the message where nothing is found."""

_COCO_KEY = re.compile(r'"(images|annotations|categories|info|licenses)"\s*:')


@dataclasses.dataclass(frozen=True)
class Discovery:
    """The keys of `data` that read a folder."""

    format: str
    root: Path
    seen: str
    """The files by which the format was told."""
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def lines(self) -> list[str]:
        """Returns what was found, for the terminal: where, and the parts."""
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        listed = "; ".join(f"{split}: {', '.join(names)}" for split, names in parts.items() if names)
        return [f"data: {self.format.upper()} in {shortened_text(self.root)}, told by {self.seen}", listed]

    def overrides(self) -> list[str]:
        """Returns the keys as `load_config` takes overrides."""
        keys = {"format": self.format, "root": str(self.root), "train": self.train}
        keys |= {"validation": self.validation, "test": self.test}
        return [f"data.{key}={json.dumps(value)}" for key, value in keys.items()]


def config_of_folder(folder: str | Path) -> Config:
    """Makes the config that trains on the data of a folder: `BASE_CONFIG` with the name of the folder.

    Raises:
        InputError: the reasons are those of `discover` and `load_config`.
    """
    return load_config(BASE_CONFIG, [*discover(folder).overrides(), name_override(folder)])


def name_override(folder: str | Path) -> str:
    """Returns the name of a config for a folder, as `load_config` takes an override."""
    # The bytes of a file name need not be text.
    name = Path(folder).resolve().name.encode("utf-8", "backslashreplace").decode()
    return f"name={json.dumps(name or 'data')}"


def discover(folder: str | Path, data_format: str | None = None) -> Discovery:
    """Finds out which format the annotations of a folder have, and what is for training and for test.

    A part whose name says train, val or test is for that. Without a test part, validation parts are for the
    test; where nothing is for the test, a fifth of the images is, by `data.split_seed`. Annotations are not
    read, except for what tells where the images lie.

    Args:
        folder: the folder of a devkit, of flat folders, of COCO's JSON files, of a data.yaml or of tables.
        data_format: the format to look for; None: any.

    Raises:
        InputError: the folder is missing or empty, holds no annotations or those of two formats, or does not
            tell what belongs together or what is for training. The message says what was found.
    """
    folder = Path(folder)
    shown = shortened_text(folder)
    if not is_folder(folder):
        raise InputError(f"--data: folder {shown} does not exist")
    finders = {"voc": _find_voc, "coco": _find_coco, "yolo": _find_yolo, "csv": _find_csv}
    if data_format is not None and data_format not in list(finders):
        raise InputError(f"data.format must be one of {', '.join(finders)}, got {shortened(data_format)}")
    looked_for = [data_format] if data_format else list(finders)

    def look_into(place: Path) -> list[Discovery]:
        return [discovery for name in looked_for if (discovery := finders[name](place))]

    found = look_into(folder)
    if len(found) > 1:
        readings = " and ".join(f"{each.format} (told by {each.seen})" for each in found)
        example = f"--set data.format={found[0].format}"
        raise InputError(f"{shown} can be read as {readings}: say which by {example}")
    if found:
        return found[0]
    deeper = [name for name in _folders(folder)[:_MOST_FOLDERS] if _is_found(look_into, folder / name)]
    if deeper:
        raise InputError(
            f"{shown} holds no annotations itself, but {' and '.join(deeper)} does: name that folder"
        )
    names = list(itertools.islice(walk(folder), _MOST_FILES))
    if not names:
        raise InputError(f"{shown} is empty")
    images = _stems(name for name in names if is_image(name))
    texts = _stems(name for name in names if name.endswith(".txt"))
    if data_format in (None, "yolo") and images & texts:
        raise InputError(
            f"{shown} holds images and text files of their names, but no data.yaml: if these are labels of "
            "YOLO, write one that names the classes, e.g. names: [cat, dog] and train: images"
        )
    wanted = f"for {data_format}" if data_format else "(XML files, COCO's JSON, data.yaml or a table)"
    raise InputError(f"{shown} holds {len(images):,} images, but no annotations {wanted}")


def _is_found(look_into: Callable[[Path], list[Discovery]], folder: Path) -> bool:
    try:
        return bool(look_into(folder))
    except InputError:
        return False


def _stems(names: Iterable[str]) -> set[str]:
    return {name_without_ending(name.rpartition("/")[2]) for name in names}


def _find_voc(folder: Path) -> Discovery | None:
    """Finds a devkit, or XML files in flat folders."""
    years = [name[3:] for name in _folders(folder) if name.startswith("VOC") and _is_year(folder / name)]
    if years:
        return _devkit(folder, years)
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if named.name.startswith("VOC") and _is_year(folder):
        return _devkit(named.parent, [named.name[3:]])
    if any(name.lower().endswith(".xml") for name in _files(folder)):
        if not any(map(is_image, _files(folder))):
            raise InputError(
                f"{shortened_text(folder)} holds XML files without images next to them: move them into a "
                "folder annotations, and the images into images"
            )
        return _divided("voc", named.parent, f"XML files and images in {named.name}", [named.name])
    parts = _flat_parts(folder, "")
    # Each split may have a folder of its own, with two folders in it.
    parts = parts or [
        part for name in _folders(folder) if _split_of(name) for part in _flat_parts(folder, name)
    ]
    return _divided("voc", folder, f"XML files in {parts[0].partition(':')[0]}", parts) if parts else None


def _is_year(folder: Path) -> bool:
    return is_folder(folder / "Annotations") and is_folder(folder / "JPEGImages")


def _devkit(root: Path, years: list[str]) -> Discovery:
    parts = []
    for year in sorted(years):
        lists = root / f"VOC{year}" / "ImageSets" / "Main"
        found = [name for name in _LISTS if is_file(lists / f"{name}.txt")]
        if "trainval" in found and "test" in found:
            found = ["trainval", "test"]
        elif {"train", "val"} & {*found}:
            found = [name for name in found if name != "trainval"]
        parts += [f"{year}/{name}" for name in found or ["all"]]
    return _divided("voc", root, f"VOC{years[0]}/Annotations", parts)


def _flat_parts(root: Path, within: str) -> list[str]:
    """Finds the parts of flat folders in a folder, whose path within the root is `within`."""
    folder = root / within
    prefix = f"{within}/" if within else ""
    names = _folders(folder)
    with_xml = [name for name in names if _any(folder / name, lambda file: file.lower().endswith(".xml"))]
    with_images = [name for name in names if _any(folder / name, is_image)]
    if not with_xml:
        return []
    if set(with_xml) <= set(with_images):
        # Otherwise each of them holds a pair of folders.
        is_mixed = all(any(map(is_image, _files(folder / name))) for name in with_xml)
        return [f"{prefix}{name}" for name in with_xml] if is_mixed else []
    others = [name for name in with_images if name not in with_xml]
    if len(with_xml) == len(others) == 1:
        return [f"{prefix}{with_xml[0]}:{prefix}{others[0]}"]
    raise InputError(
        f"{shortened_text(folder)} holds XML files in {', '.join(with_xml)} and images in "
        f"{', '.join(others) or 'no other folder'}: say what belongs together, e.g. "
        """--set 'data.train=["annotations:images[:80%]"]' --config own_data.json instead of --data"""
    )


def _find_coco(folder: Path) -> Discovery | None:
    """Finds JSON files of COCO, in the folder, in annotations/ or in the folders of the splits."""
    known = [
        name[len("instances_") : -len(".json")]
        for name in _files(folder / "annotations")
        if name.startswith("instances_") and name.endswith(".json")
    ]
    parts = [name for name in known if is_folder(folder / name)]
    if not parts:
        # COCO has files of captions and key points, too.
        names = [f"annotations/instances_{name}.json" for name in known]
        names = names or _files_of_splits(folder, ".json", ["annotations"])
        names = [name for name in names if _COCO_KEY.search(_head(folder / name))]
        parts = [_with_image_folder("coco", folder, name) for name in names]
    if not parts:
        return None
    return _divided("coco", folder, f"the JSON of {parts[0].partition(':')[0]}", parts)


def _find_yolo(folder: Path) -> Discovery | None:
    """Finds a data.yaml, or another file of its form."""
    names = [name for name in _files(folder) if name.endswith((".yaml", ".yml"))]
    if "data.yaml" in names:
        names = ["data.yaml"]
    else:
        names = [name for name in names if re.search(r"^names\s*:", _head(folder / name), re.MULTILINE)]
    if not names:
        return None
    if len(names) > 1:
        raise InputError(
            f"{shortened_text(folder)} holds {' and '.join(names)}: rename the one meant to data.yaml"
        )
    prefix = "" if names == ["data.yaml"] else f"{names[0]}:"
    splits = read_data_yaml(folder / names[0]).splits
    # Some files name the training images for the validation as well, which would measure nothing.
    parts = [f"{prefix}{key}" for key in splits if key == "train" or splits[key] != splits.get("train")]
    return _divided("yolo", folder, names[0], parts)


def _find_csv(folder: Path) -> Discovery | None:
    """Finds tables, in the folder or in the folders of the splits."""
    names = [name for name in _files_of_splits(folder, ".csv") if _is_table(folder / name)]
    if not names:
        return None
    return _divided("csv", folder, names[0], [_with_image_folder("csv", folder, name) for name in names])


def _is_table(file: Path) -> bool:
    line = next(csv.reader(_head(file).splitlines()[:1]), [])
    fields = {field.strip().lower() for field in line}
    has_header = all(fields & set(COLUMNS[column]) for column in ("image", "xmin", "class"))
    numbers = [re.fullmatch(r"\s*-?\d*\.?\d*\s*", field) for field in line[1:5]]
    return has_header or (len(line) == len(WITHOUT_HEADER) and is_image(Path(line[0]).name) and all(numbers))


def _with_image_folder(data_format: str, root: Path, file: str) -> str:
    """Returns the part of a JSON file or table with the folder in which its first image lies."""
    own = Path(file).parent.as_posix()
    split = _split_of(file)
    near = [name for name in _folders(root) if split and _split_of(name) == split]
    deeper = [f"images/{name}" for name in _folders(root / "images") if split and _split_of(name) == split]
    for candidate in dict.fromkeys([own, *near, *deeper, "images", ".", *_folders(root)]):
        # The file may be large, and is only read where there are images.
        if not (is_folder(root / candidate) and _any(root / candidate, is_image)):
            continue
        part = f"{file}:{candidate}"
        image = next(iter(READERS[data_format](str(root), part, False, WHOLE).image_files()), None)
        if image is not None and is_file(image):
            return part
    raise InputError(f"{shortened_text(root / file)} lists images, but no folder of {root} holds the first")


def _divided(data_format: str, root: Path, seen: str, parts: Sequence[str]) -> Discovery:
    """Divides parts by the words in their names."""
    of: dict[str | None, tuple[str, ...]] = {
        split: tuple(part for part in parts if _split_of(part) == split)
        for split in (None, "train", "validation", "test")
    }
    if not of["train"] and len(parts) == 1:
        of = {"train": tuple(parts)}
    elif of[None] or not of["train"]:
        unclear = ", ".join(of[None] or parts)
        raise InputError(
            f"{shortened_text(root)}: nothing says what of {unclear} is for training and what for the test; "
            "use the words train, val and test in the names, or name the parts in a config (docs/data.md)"
        )
    train, validation, test = (of.get(split, ()) for split in ("train", "validation", "test"))
    if not test:
        validation, test = (), validation
    if not test:
        train, test = (tuple(f"{part}{share}" for part in train) for share in ("[:80%]", "[80%:]"))
    return Discovery(data_format, root, shortened_text(seen), train, validation, test)


def _split_of(name: str) -> str | None:
    """Returns "train", "validation" or "test" if a word in the name says so; the last such word counts."""
    found = _SPLIT.findall(name.lower())
    return _SPLITS[found[-1]] if found else None


def _files_of_splits(folder: Path, ending: str, further: Iterable[str] = ()) -> list[str]:
    """Lists the files with an ending in a folder, in those below it that name a split, and in others."""
    folders = [*(name for name in _folders(folder) if _split_of(name)), *further]
    names = [name for name in _files(folder) if name.lower().endswith(ending)]
    for inner in folders:
        names += [f"{inner}/{name}" for name in _files(folder / inner) if name.lower().endswith(ending)]
    return names


def _files(folder: Path) -> list[str]:
    return files_and_folders(folder)[0] if is_folder(folder) else []


def _folders(folder: Path) -> list[str]:
    return files_and_folders(folder)[1] if is_folder(folder) else []


def _any(folder: Path, wanted: Callable[[str], bool]) -> bool:
    return any(wanted(name.rpartition("/")[2]) for name in walk(folder))


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
