"""A data set with a known number of everything that a report on data speaks of, as VOC and as COCO."""

import json

from image_files import exif_with, noise
from PIL import Image
from voc_layout import voc_object, write_voc

WIDTH, HEIGHT = 80, 64

CLASSES = ("cat", "dog", "bird")
"""No object is a bird."""

OBJECTS = {
    # name -> [(class, xmin, ymin, xmax, ymax, difficult)] in continuous pixels
    "plain": [("cat", 8, 8, 40, 40, 0)],
    "both": [("cat", 0, 0, 40, 32, 0), ("dog", 40, 32, 44, 36, 0)],
    "empty": [],
    "broken": [("cat", 10, 10, 30, 30, 0)],
    "clipped": [("cat", 60, 40, 100, 60, 0), ("cat", 10, 10, 10, 30, 0)],
    "twice": [("dog", 10, 10, 50, 50, 0), ("dog", 10, 10, 50, 49, 0), ("dog", 30, 10, 70, 50, 1)],
    "copied": [("cat", 20, 20, 60, 50, 0)],
    "first": [("dog", 20, 20, 60, 50, 0)],
    "second": [("dog", 0, 0, 80, 64, 0)],
}

TRAIN = ("plain", "both", "empty", "broken", "clipped", "twice", "copied", "first")
TEST = ("second", "first-test")
"""The image of first-test equals that of "first", but is another file in another format."""


UPSIDE_DOWN = 3
"""The EXIF orientation of "second"."""


def _image(name):
    seed = sum(map(ord, name.removesuffix("-test")))
    if name == "copied":
        return _image("plain")
    return Image.fromarray(noise(HEIGHT, WIDTH, seed=seed))


def _objects(name):
    return OBJECTS[name.removesuffix("-test")]


def _save(name, path):
    # The reader tells the format by the bytes, so that every file can be called .jpg.
    exif = exif_with(UPSIDE_DOWN) if name == "second" else Image.Exif()
    _image(name).save(path, "BMP" if name.endswith("-test") else "PNG", exif=exif)
    if name == "broken":
        path.write_bytes(path.read_bytes()[:200])


def write_voc_set(root):
    """Writes the set as VOC2007/train and VOC2007/test."""
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    for split, names in (("train", TRAIN), ("test", TEST)):
        contents = {
            name: "".join(
                # VOC counts from 1 and includes both ends; a box without area has xmin = xmax there.
                voc_object(cls, (x0 + 1, y0 + 1, max(x1, x0 + 1), y1), f"<difficult>{hard}</difficult>")
                for cls, x0, y0, x1, y1, hard in _objects(name)
            )
            for name in names
        }
        folder = write_voc(root, split=split, size=size, **contents)
        for name in names:
            _save(name, folder / "JPEGImages" / f"{name}.jpg")
    return {"format": "voc", "root": str(root), "train": ["2007/train"], "test": ["2007/test"]}


def write_coco_set(root):
    """Writes the set as train.json with train/ and test.json with test/."""
    for split, names in (("train", TRAIN), ("test", TEST)):
        (root / split).mkdir(parents=True)
        for name in names:
            _save(name, root / split / f"{name}.jpg")
        annotations = [
            {
                "id": 1,
                "image_id": number,
                "category_id": CLASSES.index(cls) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": hard,
            }
            for number, name in enumerate(names)
            for cls, x0, y0, x1, y1, hard in _objects(name)
        ]
        tree = {
            "images": [
                {"id": number, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
                for number, name in enumerate(names)
            ],
            "categories": [{"id": number, "name": cls} for number, cls in enumerate(CLASSES, 1)],
            "annotations": annotations,
        }
        (root / f"{split}.json").write_text(json.dumps(tree))
    return {"format": "coco", "root": str(root), "train": ["train.json:train"], "test": ["test.json:test"]}


def write_config(file, data, **sections):
    """Writes a config of these data for a network of 128 x 128 pixels."""
    tree = {"model": {"image_size": [128, 128]}, "data": {"classes": list(CLASSES), **data}, **sections}
    file.write_text(json.dumps(tree))
    return file
