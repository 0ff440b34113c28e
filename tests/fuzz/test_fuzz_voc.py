"""VOC devkits with damaged XML, splits and names: a data set that keeps its promises, or one line."""

import json

from data_set import check_dataset
from mutation import EXTREME_NUMBERS, EXTREME_TEXTS, LENGTH, NESTING, mutate_bytes
from PIL import Image
from voc_layout import voc_object

from refinedet_tf.config import DataConfig
from refinedet_tf.data.box_checks import write_defects
from refinedet_tf.data.dataset import read_dataset

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"
OBJECTS = voc_object("cat", (3, 2, 8, 10)) + voc_object("dog", (1.5, 1, 20, 9.75), "<difficult>1</difficult>")
XML = f"<?xml version='1.0'?><annotation><filename>a.jpg</filename>{SIZE}{OBJECTS}</annotation>"
SPLIT = "a  1\nb -1\n"

TEXTS = (
    *(
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "9" * 5_000,
        "x" * LENGTH,
        "<a>" * NESTING,
        "</annotation>",
        "&lol;",
        "&#0;",
    ),
    *(
        "<object>",
        "<bndbox/>",
        "<size/>",
        "<!DOCTYPE a>",
        "<![CDATA[",
        "<!--",
        "<?x?>",
        "<name>b</name>",
        "]]>",
    ),
)


def devkit(root):
    folder = root / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for image_id in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{image_id}.jpg")
        (folder / "Annotations" / f"{image_id}.xml").write_text(XML)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(SPLIT)
    return folder


def pick(rng, items):
    return items[rng.integers(len(items))]


def hostile_xml(rng):
    """Returns the XML with damaged bytes, or with hostile texts between its tags or in their places."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, XML.encode())
    parts = XML.replace("<", "\n<").replace(">", ">\n").split("\n")
    for _ in range(rng.integers(1, 3)):
        place = rng.integers(1, len(parts))
        new = pick(rng, (*TEXTS, *EXTREME_TEXTS, *map(repr, EXTREME_NUMBERS)))
        parts[place : place + rng.integers(2)] = [new]
    encoding = pick(rng, ("utf-8", "utf-8", "utf-16", "utf-32", "cp037"))
    return "".join(parts).encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def test_annotations(fuzz, tmp_path):
    folder = devkit(tmp_path)

    def case(rng):
        (folder / "Annotations" / "a.xml").write_bytes(hostile_xml(rng))
        classes = pick(rng, (None, ("cat", "dog", "b")))
        config = DataConfig(root=str(tmp_path), train=("2007/train",), classes=classes)
        dataset = read_dataset(config, "train", strict=bool(rng.random() < 0.1))
        check_dataset(dataset, tmp_path)
        write_defects(dataset.defects, tmp_path / "defects.json")
        json.loads((tmp_path / "defects.json").read_text())

    fuzz(case)


def test_splits_and_parts(fuzz, tmp_path):
    folder = devkit(tmp_path)
    names = (
        *EXTREME_TEXTS,
        "x" * 300,
        "x" * LENGTH,
        "a",
        "b",
        " ",
        "\n",
        "-1",
        "2007",
        "train",
        "../",
        " " * 999,
    )

    def case(rng):
        split, part = SPLIT.encode(), "2007/train"
        if rng.random() < 0.3:
            split = mutate_bytes(rng, split)
        elif rng.random() < 0.6:
            split = "".join(pick(rng, names) for _ in range(rng.integers(1, 5))).encode(
                "utf-8", "surrogatepass"
            )
        else:
            part = "".join(pick(rng, (*names, "/", "2007/")) for _ in range(rng.integers(1, 5)))
        (folder / "ImageSets" / "Main" / "train.txt").write_bytes(split)
        test, part = rng.random() < 0.5, part.encode("utf-8", "replace").decode()
        config = DataConfig(root=str(tmp_path), train=(part,), test=(part,), classes=("cat", "dog"))
        check_dataset(read_dataset(config, "test" if test else "train"), tmp_path)

    fuzz(case)
