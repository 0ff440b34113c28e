"""One table of defects for all formats: what is read of each, or the line that refuses it."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_sets import FORMATS, HEIGHT, PARTS, WIDTH, Photo, WrittenSet, write_set
from refusals import message_of

from refinedet_tf.config import DataConfig
from refinedet_tf.data.box_checks import CLIPPED, FRACTIONS, NO_AREA, NOT_FINITE, OUTSIDE, ROUNDED
from refinedet_tf.data.dataset import read_dataset

DOG = ("dog", (10, 4, 20, 12))
CAT = ("cat", (0, 0, 40, 20))
A, B = Photo("a.jpg", (DOG,)), Photo("b.jpg", (CAT,))

GROUPS = {"devkit": "voc", "flat": "voc", "yolo": "yolos", "yolo list": "yolos"}
"""A cell of the table may stand for two formats."""

IS_NO_SIDE = "height must be a whole number of pixels below 2,147,483,648, got "
ARE_FRACTIONS = (
    "lies within 0..1, as fractions of the image do; so do 2 of the 2 in {part}; data.format {format} takes "
    "pixels: multiply them by width and height (only data.format yolo takes fractions)"
)
ARE_PIXELS = "{annotation}, line 1: coordinates are fractions of the image's sides, 0..1, got "


@dataclasses.dataclass(frozen=True)
class Row:
    """A defect, and what comes of it in each format: "all", one of `GROUPS`, or one of `FORMATS`.

    A cell is a part of the message that refuses the set, or what is read: {image file: its objects}. A
    format without a cell reads all photographs.
    """

    name: str
    photos: list[Photo]
    cells: dict[str, str | dict[str, list[Any]]] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    """The reasons for which boxes were dropped or clipped."""
    change: Callable[[WrittenSet], Any] = lambda written: None
    """Is called after the set has been written."""
    classes: tuple[str, ...] = ("cat", "dog")


def with_box(name: str, box: tuple[float, ...], reason: str, kept: tuple[float, ...] | None = None, **cells):
    """A second object in the first image."""
    photo = dataclasses.replace(A, objects=(DOG, ("cat", box)))
    read = {"a.jpg": [DOG, *([("cat", kept)] if kept else [])], "b.jpg": [CAT]}
    return Row(name, [photo, B], {"all": read, **cells}, {reason: 1})


def with_size(name: str, *stated: Any, message: str | None = None):
    photos = [dataclasses.replace(photo, stated=stated or None) for photo in (A, B)]
    cells = {} if message is None else {"voc": message, "coco": message, "csv": message}
    return Row(f"size {name}", photos, cells)


def with_difficult(value: Any, **cells):
    return Row(f"difficult {value!r}", [dataclasses.replace(A, difficult=value), B], cells)


def add_hidden_files(written: WrittenSet) -> None:
    for folder in (written.images, written.annotations):
        for name in ("._a", ".ipynb_checkpoints/a-checkpoint"):
            for ending in (".jpg", ".xml", ".txt", ".tif"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / f"{name}{ending}").write_bytes(b"\0")
        (folder / "notes.md").touch()


def add_image(name: str | bytes) -> Callable[[WrittenSet], Any]:
    def add(written: WrittenSet) -> None:
        image = (written.images / "a.jpg").read_bytes()
        (written.images / os.fsdecode(name)).write_bytes(image)

    return add


ENDINGS = ("jpg", "JPEG", "jfif", "png", "BMP", "gif", "webp")
BELOW = dataclasses.replace(A, file="street/a.jpg")
IN_OTHER_UNIT = Photo("c.jpg", (CAT,), other_unit=True)

ROWS = [
    Row("nothing", [A, B]),
    Row("an image without objects", [A, Photo("b.jpg", ())]),
    Row("an image in a folder below", [BELOW, B]),
    Row("a path with a backslash", [dataclasses.replace(BELOW, spelled=r"street\a.jpg"), B]),
    Row("all endings", [Photo(f"{number}.{ending}") for number, ending in enumerate(ENDINGS)]),
    Row("hidden files, and others", [A, B], change=add_hidden_files),
    Row(
        "an image of another format",
        [A, Photo("b.tif", (CAT,), stated=None, contents=b"II*\0")],
        {
            "all": "images/b.tif cannot be read as an image: it is no JPEG, PNG, BMP, GIF or WebP file",
            "voc": "b.tif: images must be JPEG, PNG, BMP, GIF or WebP files; convert or remove it",
            "yolo": "b.tif: images must be JPEG, PNG, BMP, GIF or WebP files; convert or remove it",
        },
    ),
    Row(
        "a missing image",
        [A, B],
        {
            "devkit": "b.jpg does not exist, but 2007/train lists it",
            "flat": "b.jpg does not exist, but {root}/annotations/b.xml lists it",
            "coco": "b.jpg does not exist, but {root}/set.json lists it",
            "yolo": "{root}/labels/b.txt has no image; restore or remove one of them",
            "yolo list": "{root}/train.txt, line 2: {root}/images/b.jpg does not exist",
            "csv": "b.jpg does not exist, but {root}/set.csv lists it",
        },
        change=lambda written: (written.images / "b.jpg").unlink(),
    ),
    Row(
        "an image without annotation",
        [A, B],
        {
            "flat": "c.xml cannot be read: No such file; of the 3 images of annotations:images, 1 has no",
            "yolo": {"a.jpg": [DOG], "b.jpg": [CAT], "c.jpg": []},
        },
        change=add_image("c.jpg"),
    ),
    Row(
        "a broken image",
        [A, Photo("b.jpg", (CAT,), stated=None, contents=b"text")],
        {"all": "b.jpg cannot be read as an image: it is no JPEG, PNG, BMP, GIF or WebP file"},
    ),
    Row(
        "a broken annotation",
        [A, B],
        {
            "voc": "{annotation} is not valid XML: not well-formed",
            "coco": "{annotation} is not valid JSON: Expecting value",
            "yolos": "{annotation}, line 1: write numbers, got '<\"'",
            "csv": "{annotation}, line 1: write the header filename,xmin,",
        },
        change=lambda written: written.annotation.write_text('<"'),
    ),
    Row(
        "an annotation that is not UTF-8",
        [A, B],
        {
            "voc": "{annotation} is not valid XML: not well-formed",
            "coco": "{annotation} is not valid JSON: 'utf-8' codec can't decode byte 0xff",
            "all": "{annotation} cannot be read: 'utf-8' codec can't decode byte 0xff",
        },
        change=lambda written: written.annotation.write_bytes(b"\xff\xff"),
    ),
    Row(
        "a file whose name is not UTF-8",
        [A, B],
        {
            "flat": r"caf\udce9.xml cannot be read: No such file",
            "yolo": {"a.jpg": [DOG], "b.jpg": [CAT], os.fsdecode(b"caf\xe9.jpg"): []},
            "yolo list": {"a.jpg": [DOG], "b.jpg": [CAT]},
        },
        change=add_image(b"caf\xe9.jpg"),
    ),
    Row(
        "a path that leads elsewhere",
        [A, dataclasses.replace(B, spelled="../../secret.jpg")],
        {
            "devkit": "1 has no annotation: ../../secret",
            "coco": "{annotation}: file_name '../../secret.jpg' is no file within {root}",
            "yolo list": "{root}/train.txt, line 2: 'images/../../secret.jpg' leads out of data.root",
            "csv": "{annotation}: '../../secret.jpg' leads out of data.root",
        },
    ),
    Row("no image", [], {"all": "data.train ({part} in {root}) holds no image"}),
    Row(
        "an unknown class",
        [B, A],
        {"all": '{annotation}: class "cat" is not in data.classes; there are dog'},
        classes=("dog",),
    ),
    Row(
        "a class name with a line break",
        [A, Photo("b.jpg", (("traffic\nlight", CAT[1]),))],
        {"all": "the class name 'traffic\\nlight' must be one line of text"},
    ),
    with_box("a box without area", (5, 5, 5, 9), NO_AREA),
    with_box("a box with swapped corners", (20, 12, 10, 4), NO_AREA),
    with_box("a box outside", (45, 2, 50, 9), OUTSIDE),
    with_box("a box partly outside", (30, 4, 50, 12), CLIPPED, kept=(30, 4, 40, 12)),
    with_box("a box half a pixel outside", (30, -0.5, 40, 12), ROUNDED, kept=(30, 0, 40, 12)),
    with_box("a box that is no number", (10, float("nan"), 20, 12), NOT_FINITE),
    with_box(
        "an infinite box",
        (10, 4, float("inf"), 12),
        NOT_FINITE,
        yolos="{annotation}, line 2: coordinates are fractions of the image's sides, 0..1, got inf: pixels?",
    ),
    Row(
        "all boxes in the other unit",
        [dataclasses.replace(A, other_unit=True), IN_OTHER_UNIT],
        {
            "all": "{annotation}: the box [0.25, 0.2, 0.5, 0.6] (dog) of image a " + ARE_FRACTIONS,
            "coco": "{annotation}: the box [0.25, 0.2, 0.25, 0.4] (dog) of image 1 " + ARE_FRACTIONS,
            "yolos": ARE_PIXELS + "15: pixels?",
        },
    ),
    Row(
        "one image in the other unit",
        [A, B, IN_OTHER_UNIT],
        {"all": {"a.jpg": [DOG], "b.jpg": [CAT], "c.jpg": []}, "yolos": "{root}/labels/c.txt, line 1: coord"},
        {FRACTIONS: 1},
    ),
    with_size("missing"),
    with_size("0", 0, 0),
    with_size("with one side of 0", 40, 0),
    with_size("empty", "", ""),
    with_size("in words", "Unspecified", "unspecified"),
    with_size("as text", "40", "20.0"),
    with_size("negative", 40, -20, message=IS_NO_SIDE),
    with_size("of half a pixel", 40, 20.5, message=IS_NO_SIDE),
    with_size("too large", 40, 2**31, message=IS_NO_SIDE),
    *map(with_difficult, (0, 1, "", "Unspecified", "none")),
    with_difficult(
        "maybe",
        voc="{annotation}: object 1 (dog): <difficult> must be a number, got 'maybe'",
        coco="{annotation}: annotations[0]: iscrowd must be 0 or 1, got 'maybe'",
    ),
]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_table(tmp_path, kind, row):
    written = write_set(kind, tmp_path, row.photos)
    row.change(written)
    cell = row.cells.get(kind, row.cells.get(GROUPS.get(kind, ""), row.cells.get("all")))
    format_name = {"devkit": "voc", "flat": "voc", "yolo list": "yolo"}.get(kind, kind)
    config = DataConfig(format=format_name, root=str(tmp_path), train=(PARTS[kind],), classes=row.classes)
    if isinstance(cell, str):
        message = message_of(read_dataset, config, "train")
        assert cell.format(part=PARTS[kind], format=format_name, **written._asdict()) in message
        assert len(message) < 600
        return

    dataset = read_dataset(config, "train")
    expected = cell or {photo.file: list(photo.objects) for photo in row.photos}
    files = [Path(path).relative_to(written.images).as_posix() for path in dataset.image_paths]
    assert sorted(files) == sorted(expected)
    np.testing.assert_array_equal(dataset.image_sizes, [[HEIGHT, WIDTH]] * len(files))
    for index, file in enumerate(files):
        boxes, labels, difficult = dataset.image_annotations(index)
        assert [row.classes[label - 1] for label in labels] == [name for name, _ in expected[file]]
        corners = (boxes * [HEIGHT, WIDTH, HEIGHT, WIDTH])[:, [1, 0, 3, 2]]
        np.testing.assert_allclose(corners, [box for _, box in expected[file]] or np.empty((0, 4)), atol=1e-5)
        has_flag = row.photos[0].difficult == 1 and file == "a.jpg" and format_name in ("voc", "coco")
        assert difficult.tolist() == [has_flag] * len(boxes)
    assert dataset.defects.counts == row.counts
