"""The command that scales VOC 2007 test, on a few synthetic photographs."""

import re

import numpy as np
import pytest
from PIL import Image
from voc_layout import voc_object, write_voc

from refinedet_tf.commands import scale_voc
from refinedet_tf.data.readers.voc import VocPart
from refinedet_tf.errors import InputError

DIFFICULT = "<difficult>1</difficult>"

PHOTOGRAPHS = {
    # id: width, height, objects
    "000001": (
        353,
        500,
        voc_object("dog", (48, 240, 195, 371)) + voc_object("person", (8, 12, 352, 498), ""),
    ),
    "000002": (320, 240, voc_object("cat", (11, 21, 110, 220), DIFFICULT)),
    "000003": (500, 375, voc_object("sofa", (1, 1, 500, 375)) + voc_object("cow", (251, 126, 375, 250))),
    "000004": (320, 225, ""),
}

SPLITS = {"train": ["000001", "000003"], "test": ["000002", "000004"]}

SCALED = {
    # id: height, width, boxes. Of 000001: 47 * 249/353 + 1, 239 * 352/500 + 1, 195 * 249/353, 371 * 352/500.
    "000001": ((352, 249), [(34.15, 169.26, 137.55, 261.18), (5.94, 8.74, 248.29, 350.59)]),
    "000003": ((264, 352), [(1, 1, 352, 264), (177, 89, 264, 176)]),
    "000002": ((264, 352), [(12, 23, 121, 242)]),
    "000004": ((248, 352), []),
}


@pytest.fixture
def devkit(tmp_path):
    """A devkit with the photographs, whose left half is red and whose right half is blue."""
    contents = {
        name: f"<size><width>{width}</width><height>{height}</height></size>{objects}"
        for name, (width, height, objects) in PHOTOGRAPHS.items()
    }
    # The fifth photograph is in no written split.
    unused = "<size><width>20</width><height>10</height></size>"
    folder = write_voc(tmp_path / "devkit", split="test", size="", **contents, **{"000005": unused})
    for name, (width, height, _) in PHOTOGRAPHS.items():
        pixels = np.zeros([height, width, 3], np.uint8)
        pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    return folder.parent


def test_sizes_boxes_and_pixels(devkit, tmp_path, capsys):
    output = tmp_path / "data" / "scaled"
    scale_voc.scale_voc(devkit, output, SPLITS)
    photographs = [*VocPart(output, "2007/train"), *VocPart(output, "2007/test")]
    assert {photo.image_id: (photo.size, photo.boxes) for photo in photographs} == SCALED
    assert [photo.class_names for photo in photographs] == [["dog", "person"], ["sofa", "cow"], ["cat"], []]
    assert [photo.difficult for photo in photographs] == [[False, False], [False, False], [True], []]
    reference = tmp_path / "reference.jpg"
    Image.new("RGB", (8, 8)).save(reference, quality=88)
    for photo in photographs:
        with Image.open(photo.path) as image, Image.open(reference) as expected:
            assert image.quantization == expected.quantization
            assert image.size == photo.size[::-1]
            row = np.asarray(image)[100].astype(int)
        edge = photo.size[1] * (PHOTOGRAPHS[photo.image_id][0] // 2) / PHOTOGRAPHS[photo.image_id][0]
        centres = np.arange(photo.size[1]) + 0.5
        for half, colour in [(centres < edge - 8, (255, 0, 0)), (centres > edge + 8, (0, 0, 255))]:
            np.testing.assert_allclose(row[half], np.broadcast_to(colour, row[half].shape), atol=12)
    assert sorted(path.name for path in (output / "VOC2007").glob("*/*.*")) == sorted(
        f"{name}{ending}" for name in SCALED for ending in (".jpg", ".xml")
    )
    assert "scaling: 4/4 images" in capsys.readouterr().err


def test_layout_of_an_annotation(devkit):
    (photo,) = [photo for photo in VocPart(devkit, "2007/test") if photo.image_id == "000002"]
    photo = photo._replace(class_names=["cat & dog"])
    assert scale_voc.scaled_annotation(photo, (240, 320), (264, 352)) == (
        "<annotation>\n<size><width>352</width><height>264</height><depth>3</depth></size>\n"
        "<object><name>cat &amp; dog</name><difficult>1</difficult><bndbox><xmin>12.00</xmin>"
        "<ymin>23.00</ymin><xmax>121.00</xmax><ymax>242.00</ymax></bndbox></object>\n</annotation>\n"
    )


TEST_LIST = "VOC2007/ImageSets/Main/test.txt"


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            ["VOC2007/Annotations/000001.xml", "VOC2007/JPEGImages/000002.jpg"],
            "VOC2007/Annotations/000001.xml does not exist; 2 of 9 needed files are missing; name",
        ),
        ([TEST_LIST], f"{TEST_LIST} does not exist; 1 of 9 needed files are missing"),
        (["VOC2007"], f"{TEST_LIST} does not exist; 9 of 9 needed files are missing"),
        ([], "test.txt does not list 000003; 3 of 4 needed photographs are not in it"),
    ],
)
def test_nothing_is_written_where_files_are_missing(devkit, tmp_path, lost, message):
    (devkit / TEST_LIST).write_text("000001\n000005\n")
    for name in lost:
        (devkit / name).rename(tmp_path / "lost")
    with pytest.raises(InputError, match=re.escape(message)):
        scale_voc.scale_voc(devkit, tmp_path / "scaled", SPLITS)
    assert not (tmp_path / "scaled").exists()


@pytest.mark.parametrize(
    ("file", "replacement", "message"),
    [
        ("JPEGImages/000004.jpg", "Annotations/000004.xml", "000004.jpg cannot be decoded"),
        (
            "Annotations/000004.xml",
            "Annotations/000005.xml",
            "the annotation says 20x10 (width x height), the file is 320x225",
        ),
    ],
)
def test_an_unfinished_set_has_no_split_and_is_refused(devkit, tmp_path, file, replacement, message):
    # The first three photographs are written before the defect is met.
    (devkit / "VOC2007" / file).write_bytes((devkit / "VOC2007" / replacement).read_bytes())
    output = tmp_path / "scaled"
    with pytest.raises(InputError, match=re.escape(message)):
        scale_voc.scale_voc(devkit, output, SPLITS)
    assert (output / "VOC2007" / "JPEGImages" / "000002.jpg").exists()
    for split in SPLITS:
        with pytest.raises(InputError, match=rf"ImageSets/Main/{split}.txt does not exist"):
            VocPart(output, f"2007/{split}")
    with pytest.raises(InputError, match="is not empty: name a new folder, or remove what is in it"):
        scale_voc.scale_voc(devkit, output, SPLITS)


def test_command(devkit, done, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(scale_voc, "ID_FOLDER", tmp_path)
    for name, ids in SPLITS.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(ids) + "\n")
    output = tmp_path / "scaled"
    output.mkdir()
    assert done(scale_voc, devkit, "--output", output).out.splitlines() == [
        f"{output}: 2 images for train, 2 images for test",
        "Figures on these 2 photographs are comparable with no published figure, and weights that were "
        "trained on the 2 must never be measured on VOC 2007 test.",
    ]
    for name, message in [("scaled", "is not empty"), ("train.txt", "is not a folder")]:
        line = refused(scale_voc, devkit, "--output", tmp_path / name)
        assert line.startswith(f"error: --output {tmp_path / name} {message}")


def test_ids_of_the_project():
    train, test = (
        (scale_voc.ID_FOLDER / f"{name}.txt").read_text().splitlines() for name in ("train", "test")
    )
    assert (len(train), len(test), len({*train, *test})) == (3513, 929, 4442)
    assert all(re.fullmatch(r"00\d{4}", image_id) and 1 <= int(image_id) <= 9963 for image_id in train + test)
    assert (train, test) == (sorted(train), sorted(test))
    assert (train[:3], test[:3]) == (["000001", "000003", "000004"], ["000002", "000010", "000011"])
