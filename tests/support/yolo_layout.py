"""Writes data sets in YOLO's layout: data.yaml, images/ and labels/."""

from PIL import Image

YAML = "train: images\nnames: [cat, dog]\n"


def write_yolo(root, yaml=YAML, images="images", labels="labels", size=(40, 20), **lines):
    """A data.yaml, and an image per keyword; its value is the text of its label file, or None for none."""
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / labels).mkdir(parents=True, exist_ok=True)
    for name, text in lines.items():
        Image.new("RGB", size).save(root / images / f"{name}.jpg")
        if text is not None:
            (root / labels / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text(yaml)
    return root
