"""VOC devkits with damaged XML, splits and names: a data set that keeps its promises, or one line."""

from data_set import hostile_text, read
from mutation import EXTREME_TEXTS, LENGTH, NESTING, mutate_bytes, pick
from PIL import Image
from voc_layout import voc_object

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"
OBJECTS = voc_object("cat", (3, 2, 8, 10)) + voc_object("dog", (1.5, 1, 20, 9.75), "<difficult>1</difficult>")
XML = f"<?xml version='1.0'?><annotation><filename>a.jpg</filename>{SIZE}{OBJECTS}</annotation>"
SPLIT = "a  1\nb -1\n"

TEXTS = (
    *("1e400", "-1e400", "nan", "inf", "9" * 5_000, "x" * LENGTH, "<a>" * NESTING, "</annotation>"),
    *("&lol;", "&#0;", "<object>", "<bndbox/>", "<size/>", "<!DOCTYPE a>", "<![CDATA[", "<!--", "<?x?>"),
    *("<name>b</name>", "]]>"),
)
ENCODINGS = ("utf-8", "utf-8", "utf-16", "utf-32", "cp037")


def devkit(root):
    folder = root / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for image_id in ("a", "b"):
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{image_id}.jpg")
        (folder / "Annotations" / f"{image_id}.xml").write_text(XML)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(SPLIT)
    return folder


def test_annotations(fuzz, tmp_path):
    folder = devkit(tmp_path)

    def case(rng):
        xml = hostile_text(rng, XML, "(<[^>]*>)", TEXTS, ENCODINGS, damaged=0.3)
        (folder / "Annotations" / "a.xml").write_bytes(xml)
        read(rng, "voc", tmp_path, "2007/train", ("cat", "dog", "b"), split="train")

    fuzz(case)


def test_splits_and_parts(fuzz, tmp_path):
    folder = devkit(tmp_path)
    names = (*EXTREME_TEXTS, "x" * 300, "x" * LENGTH, "a", "b", " ", "\n", "-1", "2007", "train", "../")
    names += (" " * 999,)

    def some(rng, pieces):
        return "".join(pick(rng, pieces) for _ in range(rng.integers(1, 5)))

    def case(rng):
        split, part = SPLIT.encode(), "2007/train"
        if rng.random() < 0.3:
            split = mutate_bytes(rng, split)
        elif rng.random() < 0.6:
            split = some(rng, names).encode("utf-8", "surrogatepass")
        else:
            part = some(rng, (*names, "/", "2007/")).encode("utf-8", "replace").decode()
        (folder / "ImageSets" / "Main" / "train.txt").write_bytes(split)
        read(rng, "voc", tmp_path, part, strict=0)

    fuzz(case)
