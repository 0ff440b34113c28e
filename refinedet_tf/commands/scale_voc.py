"""Writes the data of voc2007_test_photos.json from VOC 2007 test.

refinedet scale-voc data/VOCdevkit --output data/voc2007_test_photos
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.config.files import CONFIG_FOLDER
from refinedet_tf.data.readers.reader import AnnotatedImage, FolderListings
from refinedet_tf.data.readers.voc import VocPart
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import check_unused, explain_os_errors, write_text
from refinedet_tf.progress import ProgressPrinter, with_progress

LONGER_SIDE = 352
"""The longer side of every written photograph in pixels; smaller photographs are enlarged."""

JPEG_QUALITY = 88

ID_FOLDER = CONFIG_FOLDER / "voc2007_test_photos"
"""The folder of the files train.txt and test.txt, which list the ids of the photographs."""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line and writes the set."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Divides photographs of VOC 2007 test into a set for training and one for testing, and "
        f"scales their longer side to {LONGER_SIDE} pixels: the data of voc2007_test_photos.json.",
    )
    parser.add_argument("devkit", type=Path, metavar="VOCDEVKIT", help="folder that holds VOC2007")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="new folder for the set")
    options = parser.parse_args(arguments)
    splits = {
        name: (ID_FOLDER / f"{name}.txt").read_text(encoding="utf-8").split() for name in ("train", "test")
    }
    scale_voc(options.devkit, options.output, splits)
    train, test = len(splits["train"]), len(splits["test"])
    print(
        f"{options.output}: {train:,} images for train, {test:,} images for test\n"
        f"Figures on these {test:,} photographs are comparable with no published figure, and weights that "
        f"were trained on the {train:,} must never be measured on VOC 2007 test."
    )


def scale_voc(devkit: Path, output: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Writes scaled photographs of VOC 2007 test, with their annotations, as output/VOC2007.

    The lists of the splits are written last, so that no reader takes an unfinished set for a whole one.

    `splits` are the ids of the photographs by the name of the written split.

    Raises:
        InputError: files are missing or broken, `output` holds something, or it cannot be written.
    """
    check_unused(output)
    ids = [image_id for split in splits.values() for image_id in split]
    photographs = _read_annotations(devkit, ids)
    import_tensorflow()
    from refinedet_tf.data.images import read_image

    folder = output / "VOC2007"
    with explain_os_errors(folder):
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        for image_id in with_progress(ids, len(ids), ProgressPrinter("scaling")):
            photograph = photographs[image_id]
            pixels = read_image(photograph.path, photograph.size)
            size = scaled_size(*pixels.shape[:2])
            image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS)
            image.save(folder / "JPEGImages" / f"{image_id}.jpg", quality=JPEG_QUALITY)
            xml = scaled_annotation(photograph, pixels.shape[:2], size)
            (folder / "Annotations" / f"{image_id}.xml").write_text(xml, encoding="utf-8")
        for name, split in splits.items():
            write_text(folder / "ImageSets" / "Main" / f"{name}.txt", (f"{image_id}\n" for image_id in split))


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """Returns the height and width in pixels of the photograph whose longer side is `LONGER_SIDE`."""
    longer = max(height, width)
    return max(1, round(height * LONGER_SIDE / longer)), max(1, round(width * LONGER_SIDE / longer))


def scaled_annotation(photograph: AnnotatedImage, size: tuple[int, int], new_size: tuple[int, int]) -> str:
    """Returns the XML of a scaled photograph, with two decimals for each side of a box.

    VOC's pixels count from 1 and include both ends: a box covers xmin - 1 to xmax in continuous pixels, and
    these are scaled. A box of the whole photograph stays one.

    Args:
        photograph: its boxes are xmin, ymin, xmax, ymax as VOC writes them.
        size: height and width of the photograph in pixels.
        new_size: those of the scaled one, whose ratio differs a little, because they are whole numbers.
    """
    (height, width), (new_height, new_width) = size, new_size
    objects = "".join(
        f"<object><name>{escape(name)}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{(xmin - 1) * new_width / width + 1:.2f}</xmin>"
        f"<ymin>{(ymin - 1) * new_height / height + 1:.2f}</ymin>"
        f"<xmax>{xmax * new_width / width:.2f}</xmax>"
        f"<ymax>{ymax * new_height / height:.2f}</ymax></bndbox></object>\n"
        for name, difficult, (xmin, ymin, xmax, ymax) in zip(
            photograph.class_names, photograph.difficult, photograph.boxes, strict=True
        )
    )
    stated = f"<size><width>{new_width}</width><height>{new_height}</height><depth>3</depth></size>"
    return f"<annotation>\n{stated}\n{objects}</annotation>\n"


def _read_annotations(devkit: Path, ids: Sequence[str]) -> dict[str, AnnotatedImage]:
    """Returns {id: photograph} for all of VOC 2007 test, after checking that no file of `ids` is missing."""
    folder = devkit / "VOC2007"
    split_file = folder / "ImageSets" / "Main" / "test.txt"
    needed = [split_file]
    for image_id in ids:
        needed += [folder / "JPEGImages" / f"{image_id}.jpg", folder / "Annotations" / f"{image_id}.xml"]
    listings = FolderListings()
    missing = [file for file in needed if file not in listings]
    if missing:
        raise InputError(
            f"{shortened_text(missing[0])} does not exist; {len(missing):,} of {len(needed):,} needed files "
            "are missing; name the folder into which VOC 2007 test was unpacked, e.g. data/VOCdevkit"
        )
    photographs = {photograph.image_id: photograph for photograph in VocPart(devkit, "2007/test")}
    unlisted = [image_id for image_id in ids if image_id not in photographs]
    if unlisted:
        raise InputError(
            f"{shortened_text(split_file)} does not list {unlisted[0]}; {len(unlisted):,} of {len(ids):,} "
            "needed photographs are not in it; it must be the file of VOC 2007 test"
        )
    return photographs
