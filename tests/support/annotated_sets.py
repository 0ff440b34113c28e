"""Writes the same annotated photographs in every format that is read, right or with a defect."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from voc_layout import voc_object

WIDTH, HEIGHT = 40, 20

FORMATS = ("devkit", "flat", "coco", "yolo", "yolo list", "csv")
"""VOC's devkit with a list of images, VOC's flat folders, COCO, YOLO with a folder or a list, and CSV."""

PARTS = {"devkit": "2007/train", "flat": "annotations:images", "coco": "set.json:images"}
PARTS |= {"yolo": "train", "yolo list": "train", "csv": "set.csv:images"}


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image file of 40 x 20 pixels and what the annotation says of it."""

    file: str = "a.jpg"
    """The path within the folder of images."""
    objects: tuple[tuple[str, tuple[float, ...]], ...] = (("dog", (10, 4, 20, 12)),)
    """Class and box: xmin, ymin, xmax, ymax in continuous pixels."""
    spelled: str | None = None
    """The path as the annotation writes it; None: as it is."""
    stated: tuple[Any, Any] | None = (WIDTH, HEIGHT)
    """Width and height as the annotation states them; None: it does not."""
    difficult: Any = None
    """VOC's difficult and COCO's iscrowd; None: they are missing."""
    contents: bytes | None = None
    """The bytes of the image file; None: those of an image."""
    other_unit: bool = False
    """Whether the boxes are in fractions in a format of pixels, and in pixels in one of fractions."""


class WrittenSet(NamedTuple):
    """Where the files lie."""

    root: Path
    images: Path
    """The folder of images."""
    annotations: Path
    """The folder of annotations."""
    annotation: Path
    """The annotation of the first photograph."""


def write_set(kind: str, root: Path, photos: list[Photo]) -> WrittenSet:
    """Writes the images and the annotations of a kind of `FORMATS`."""
    images = root / "VOC2007" / "JPEGImages" if kind == "devkit" else root / "images"
    images.mkdir(parents=True)
    for photo in photos:
        _write_image(images / photo.file, photo.contents)
    writers = {"devkit": _write_voc, "flat": _write_voc, "coco": _write_coco, "csv": _write_csv}
    annotations = writers.get(kind, _write_yolo)(kind, root, photos)
    endings = {"devkit": ".xml", "flat": ".xml", "yolo": ".txt", "yolo list": ".txt"}
    file = f"{_stem(photos[0].file)}{endings[kind]}" if photos and kind in endings else f"set.{kind[:4]}"
    annotation = root / "set.json" if kind == "coco" else annotations / file
    return WrittenSet(root, images, annotations, annotation)


def _write_image(path: Path, contents: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if contents is not None:
        path.write_bytes(contents)
        return
    ending = path.suffix.lower().lstrip(".")
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, {"jpg": "JPEG", "jfif": "JPEG"}.get(ending, ending))


def _write_voc(kind: str, root: Path, photos: list[Photo]) -> Path:
    folder = root / "VOC2007" / "Annotations" if kind == "devkit" else root / "annotations"
    folder.mkdir(exist_ok=True)
    for photo in photos:
        size = objects = ""
        if photo.stated is not None:
            size = "<size><width>{}</width><height>{}</height></size>".format(*photo.stated)
        for name, box in photo.objects:
            xmin, ymin, xmax, ymax = _fractions(box) if photo.other_unit else box
            start = 0 if photo.other_unit else 1
            difficult = "" if photo.difficult is None else f"<difficult>{photo.difficult}</difficult>"
            objects += voc_object(name, (xmin + start, ymin + start, xmax, ymax), difficult)
        file = folder / f"{_stem(photo.file)}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation>{size}{objects}</annotation>")
    if kind == "devkit":
        list_file = root / "VOC2007" / "ImageSets" / "Main" / "train.txt"
        list_file.parent.mkdir(parents=True)
        list_file.write_text("".join(f"{_stem(photo.spelled or photo.file)}\n" for photo in photos))
    return folder


def _write_coco(kind: str, root: Path, photos: list[Photo]) -> Path:
    names = _class_names(photos)
    images, annotations = [], []
    for number, photo in enumerate(photos, 1):
        images.append({"id": number, "file_name": photo.spelled or photo.file})
        if photo.stated is not None:
            images[-1] |= dict(zip(("width", "height"), photo.stated, strict=True))
        for name, box in photo.objects:
            xmin, ymin, xmax, ymax = _fractions(box) if photo.other_unit else box
            entry = {"image_id": number, "category_id": names.index(name)}
            entry["bbox"] = [xmin, ymin, xmax - xmin, ymax - ymin]
            annotations.append(entry if photo.difficult is None else entry | {"iscrowd": photo.difficult})
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (root / "set.json").write_text(json.dumps(tree))
    return root


def _write_yolo(kind: str, root: Path, photos: list[Photo]) -> Path:
    names = _class_names(photos)
    for photo in photos:
        lines = ""
        for name, box in photo.objects:
            xmin, ymin, xmax, ymax = box if photo.other_unit else _fractions(box)
            numbers = ((xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin)
            lines += f"{names.index(name)} {' '.join(map(str, numbers))}\n"
        file = root / "labels" / f"{_stem(photo.file)}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(lines)
    listed = "".join(f"images/{photo.spelled or photo.file}\n" for photo in photos)
    (root / "train.txt").write_text(listed)
    train = "images" if kind == "yolo" else "train.txt"
    (root / "data.yaml").write_text(f"train: {train}\nnames: {json.dumps(names)}\n")
    return root / "labels"


def _write_csv(kind: str, root: Path, photos: list[Photo]) -> Path:
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for photo in photos:
        start = [photo.spelled or photo.file, *(photo.stated or ("", ""))]
        for name, box in photo.objects or [("", ("", "", "", ""))]:
            numbers = _fractions(box) if photo.other_unit else box
            rows.append(",".join(map(str, [*start, f'"{name}"', *numbers])))
    (root / "set.csv").write_text("\n".join(rows) + "\n")
    return root


def _class_names(photos: list[Photo]) -> list[str]:
    return sorted({"cat", "dog", *(name for photo in photos for name, _ in photo.objects)})


def _fractions(box: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value / side for value, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True))


def _stem(file: str) -> str:
    return file.rpartition(".")[0]
