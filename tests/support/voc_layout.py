"""Writes VOC devkits: folders as the data sets of PASCAL VOC have them."""

from PIL import Image


def voc_object(name, box, difficult="<difficult>0</difficult>"):
    tags = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{difficult}<bndbox>{tags}</bndbox></object>"


def write_voc(
    root, year="2007", split="train", size="<size><width>20</width><height>10</height></size>", **objects
):
    """A devkit with one empty image file for each keyword; its value is the inside of the XML."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for image_id, content in objects.items():
        (folder / "JPEGImages" / f"{image_id}.jpg").touch()
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size}{content}</annotation>")
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in objects))
    return folder


def write_unlabelled(root, **image_sizes):
    """A devkit whose images (id -> width and height) have no XML files."""
    folder = write_voc(root, "2012", "test", **dict.fromkeys(image_sizes, ""))
    for image_id, size in image_sizes.items():
        (folder / "Annotations" / f"{image_id}.xml").unlink()
        Image.new("RGB", size).save(folder / "JPEGImages" / f"{image_id}.jpg")
    return folder
