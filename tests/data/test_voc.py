import re

import numpy as np
import pytest
from refusals import message_of
from voc_layout import voc_object, write_unlabelled, write_voc

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.voc import VocPart
from refinedet_tf.errors import InputError

SIZE = "<size><width>20</width><height>10</height></size>"


def read_one(root):
    (image,) = VocPart(root, "2007/train")
    return image


def test_reads_objects_as_they_stand_in_the_file(tmp_path):
    objects = voc_object(" cat ", (3, 2, 8, 10)) + voc_object(
        "dog", (1.5, 1, 20, "9.75"), "<difficult>1</difficult>"
    )
    folder = write_voc(tmp_path, a=objects + voc_object("cow", (1, 1, 2, 2), ""))
    image = read_one(tmp_path)
    assert image.image_id == "a"
    assert image.path == str(folder / "JPEGImages" / "a.jpg")
    assert image.size == (10, 20)
    assert image.boxes == [(3, 2, 8, 10), (1.5, 1, 20, 9.75), (1, 1, 2, 2)]
    assert image.class_names == ["cat", "dog", "cow"]
    assert image.difficult == [False, True, False]


@pytest.mark.parametrize(
    "around",
    ["<part><name>head</name><bndbox><xmin>4</xmin></bndbox></part>", "<a>" * 200_000 + "</a>" * 200_000],
    ids=["body part", "elements within each other"],
)
def test_other_elements_are_no_objects(tmp_path, around):
    person = voc_object("person", (1, 2, 3, 4), around)
    write_voc(tmp_path, a=around + person)
    assert read_one(tmp_path).boxes == [(1, 2, 3, 4)]
    assert read_one(tmp_path).class_names == ["person"]


def test_split_lines(tmp_path):
    folder = write_voc(tmp_path, a="", b="", c="", d="")
    (folder / "JPEGImages" / "photo 1.jpg").touch()
    (folder / "Annotations" / "photo 1.xml").write_bytes((folder / "Annotations" / "a.xml").read_bytes())
    lines = "\ufeffb  -1\r\na   \r\n\r\n  c\t1\nphoto 1\nd  0"
    (folder / "ImageSets" / "Main" / "cat_train.txt").write_text(lines, encoding="utf-8")
    part = VocPart(tmp_path, "2007/cat_train")
    assert [image.image_id for image in part] == ["b", "a", "c", "photo 1", "d"]
    assert len(part) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<object><bndbox/></object>", r"a\.xml: object 1 has no <name>"),
        ("<object><name>cat</name></object>", r"a\.xml: object 1 \(cat\) has no <bndbox>"),
        ("<object><name>cat</name><bndbox/></object>", r"a\.xml: object 1 \(cat\) has no <xmin>"),
        (voc_object("cat", (1, 2, "x", 3)), r"object 1 \(cat\): <xmax> must be a number, got 'x'"),
        ("<object>", r"a\.xml is not valid XML: mismatched tag"),
        ("</annotation><annotation>", r"a\.xml is not valid XML: junk"),
        ("<a>" * 100_000, r"a\.xml is not valid XML: mismatched tag"),
        (voc_object("cat", (1, 2, "9" * 10**6 + "x", 3)), "<xmax> must be a number, got '999.*x'$"),
        (
            voc_object("cat", (1, 2, 3, 4), "<difficult>inf</difficult>"),
            "<difficult> must be 0 or 1, got inf",
        ),
        (f"<object><name>{'x' * 10**6}</name></object>", r"object 1 \(xxx.*xxx\) has no <bndbox>"),
        ("&lol;", r"a\.xml is not valid XML: undefined entity"),
        ("&#0;", r"a\.xml is not valid XML: reference to invalid character"),
    ],
)
def test_broken_annotations(tmp_path, content, message):
    write_voc(tmp_path, a=voc_object("dog", (1, 1, 2, 2)).replace("object", "thing") + content)
    line = message_of(read_one, tmp_path)
    assert re.search(message, line) and len(line) < 600


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10))


@pytest.mark.parametrize(
    "doctype",
    [f"<!DOCTYPE a [{ENTITIES}]>", '<!DOCTYPE a [<!ENTITY e9 SYSTEM "file:///etc/passwd">]>']
    + ['<!DOCTYPE a SYSTEM "http://localhost/a.dtd">'],
    ids=["bomb", "file", "network"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path, doctype, encoding):
    """Entities of entities stand for gigabytes of text in a file of a kilobyte."""
    folder = write_voc(tmp_path, a="")
    text = f"{doctype}<annotation><object><name>&e9;</name></object></annotation>"
    (folder / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"a\.xml is not valid XML: a document type \(<!DOCTYPE"):
        read_one(tmp_path)


def test_annotation_that_is_too_large(tmp_path):
    folder = write_voc(tmp_path, a="")
    with (folder / "Annotations" / "a.xml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"a\.xml is larger than 16,777,216 bytes"):
        read_one(tmp_path)


@pytest.mark.parametrize(
    ("name", "encoding", "declared", "is_read"),
    [
        ("käse", "utf-8", "utf-8", True),
        ("käse", "iso-8859-1", "iso-8859-1", True),
        ("käse", "utf-16", "utf-16", True),
        ("кот", "windows-1251", "windows-1251", True),
        ("ü", "latin-1", "utf-8", False),
        ("ü", "utf-8", "rot13", False),
        ("ü", "utf-8", "idna", False),
        ("ü", "gbk", "gbk", False),
        ("ü", "utf-8", "x" * 100_000, False),
    ],
    ids=range(9),
)
def test_encodings(tmp_path, name, encoding, declared, is_read):
    folder = write_voc(tmp_path, a="")
    content = f"<annotation>{SIZE}{voc_object(name, (1, 1, 2, 2))}</annotation>"
    text = f"<?xml version='1.0' encoding='{declared}'?>{content}"
    (folder / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    if is_read:
        assert read_one(tmp_path).class_names == [name]
        return
    line = message_of(read_one, tmp_path)
    assert "a.xml is not valid XML: " in line and len(line) < 800


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ((1, 1, "9" * 1000, 3), {"not finite": 1}),
        ((1, 1, "1e308", 3), {"partly outside, clipped": 1}),
        (("-1e308", 1, "1e308", 3), {"partly outside, clipped": 1}),
    ],
)
def test_coordinates_out_of_range(tmp_path, box, counts, recwarn):
    write_voc(tmp_path, a=voc_object("cat", box))
    dataset = read_dataset(DataConfig(root=str(tmp_path), train=("2007/train",)), "train")
    assert dataset.defects.counts == counts
    assert dataset.boxes.tolist() in ([], [[0, 0, np.float32(0.3), 1]])
    assert not list(recwarn)


@pytest.mark.parametrize(
    "name", ["../../../secret", "/etc/passwd", "a/../../secret", "x" * 10**6, "a\0b", ".."]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_names_of_images_lead_nowhere_else(tmp_path, name, labelled):
    """Every name is looked up in the listings of the two folders."""
    folder = write_voc(tmp_path, a="")
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "secret.xml").write_text("<annotation/>")
    (folder / "ImageSets" / "Main" / "train.txt").write_text(f"{'a' if labelled else ''}\n{name}\n")
    line = message_of(lambda: list(VocPart(tmp_path, "2007/train", may_be_unlabelled=not labelled)))
    assert re.search("no annotation|does not exist", line) and len(line) < 1_500


def test_flags_of_a_class_split_take_linear_time(tmp_path):
    folder = write_voc(tmp_path, a="")
    (folder / "ImageSets" / "Main" / "train.txt").write_text(f"a -1\na{' ' * 300_000}x\n")
    with pytest.raises(InputError, match="1 has no annotation"):
        read_one(tmp_path)


def test_annotation_of_another_kind(tmp_path):
    folder = write_voc(tmp_path, a="")
    (folder / "Annotations" / "a.xml").write_text("<html/>")
    with pytest.raises(InputError, match=r"a\.xml: the outermost element must be <annotation>, not <html>"):
        read_one(tmp_path)


@pytest.mark.parametrize("annotations", ["of other images", "none", "no folder"])
def test_split_without_annotations(tmp_path, annotations):
    folder = write_unlabelled(tmp_path, b=(17, 9), a=(5, 8))
    if annotations == "of other images":
        write_voc(tmp_path, "2012", c=voc_object("cat", (1, 1, 5, 5)))
    elif annotations == "no folder":
        (folder / "Annotations").rmdir()
    part = VocPart(tmp_path, "2012/test", may_be_unlabelled=True)
    assert not part.labelled
    assert list(part) == [
        ("b", str(folder / "JPEGImages" / "b.jpg"), None, [], [], []),
        ("a", str(folder / "JPEGImages" / "a.jpg"), None, [], [], []),
    ]
    with pytest.raises(InputError, match=r"b\.xml cannot be read: .*the 2 images of 2012/test, 2 have no"):
        VocPart(tmp_path, "2012/test")


def test_split_without_some_annotations(tmp_path):
    folder = write_voc(tmp_path, "2012", "test", **{f"image{i:02d}": "" for i in range(20)})
    assert VocPart(tmp_path, "2012/test", may_be_unlabelled=True).labelled
    for i in (3, 17):
        (folder / "Annotations" / f"image{i:02d}.xml").unlink()
    message = r"image03\.xml cannot be read: .*; of the 20 images of 2012/test, 2 have no annotation: "
    with pytest.raises(
        InputError,
        match=message + "image03, image17; an image that shows no object needs an XML file without objects$",
    ):
        VocPart(tmp_path, "2012/test", may_be_unlabelled=True)
    for i in range(4, 17):
        (folder / "Annotations" / f"image{i:02d}.xml").unlink()
    with pytest.raises(InputError, match="15 have no annotation: image03, .*, image12, ...;"):
        VocPart(tmp_path, "2012/test", may_be_unlabelled=True)


def test_missing_folders(tmp_path):
    for split in ("val", "test", "train"):
        folder = write_voc(tmp_path, split=split, a="")
    (folder / "ImageSets" / "Main" / "train.txt").rename(tmp_path / "train.txt")
    with pytest.raises(InputError, match=r"train\.txt does not exist; the splits there are test, val$"):
        VocPart(tmp_path, "2007/train")
    (tmp_path / "train.txt").rename(folder / "ImageSets" / "Main" / "train.txt")
    with pytest.raises(InputError, match=r"VOC2012 does not exist; .* holds VOC2007$"):
        VocPart(tmp_path, "2012/train")
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "JPEGImages").rmdir()
    with pytest.raises(InputError, match="folder .*JPEGImages cannot be read: No such file"):
        VocPart(tmp_path, "2007/train")


@pytest.mark.parametrize(
    "part",
    ["x" * 300 + "/train", "2007/" + "x" * 300, "x" * 10**5 + "/" + "x" * 10**5, "20\0/train", "2007/a\0b"]
    + ["\ud800/train", "2007/\ud800", "2007/../train", "x" * 10**5],
    ids=range(9),
)
def test_names_that_no_part_can_have(tmp_path, part):
    write_voc(tmp_path, a="")
    assert len(message_of(VocPart, tmp_path, part)) < 1_500


def flat(root, annotations="annotations", images="images", **objects):
    """Flat folders with an image and an XML file for each keyword."""
    folder = write_voc(root / "devkit", **objects)
    (folder / "Annotations").rename(root / annotations)
    if images == annotations:
        for file in (folder / "JPEGImages").iterdir():
            file.rename(root / images / file.name)
    else:
        (folder / "JPEGImages").rename(root / images)
    return root


@pytest.mark.parametrize("part", ["photos", "photos:photos"])
def test_one_folder_for_xml_files_and_images(tmp_path, part):
    flat(tmp_path, "photos", "photos", b="", a="")
    found = [image.path for image in VocPart(tmp_path, part)]
    assert found == [str(tmp_path / "photos" / f"{name}.jpg") for name in "ab"]


def test_root_as_the_folder(tmp_path):
    flat(tmp_path, "photos", "photos", b="", a="")
    assert [image.image_id for image in VocPart(tmp_path / "photos", ".")] == ["a", "b"]


def test_flat_folders_without_annotations(tmp_path):
    flat(tmp_path, a="", b="")
    (tmp_path / "annotations" / "a.xml").unlink()
    with pytest.raises(InputError, match=r"of the 2 images .*, 1 has no annotation: a;"):
        VocPart(tmp_path, "annotations:images", may_be_unlabelled=True)
    (tmp_path / "annotations" / "b.xml").unlink()
    assert not VocPart(tmp_path, "annotations:images", may_be_unlabelled=True).labelled


@pytest.mark.parametrize(
    "part",
    ["annotations:nowhere", "nowhere:images", "..:images", ":", "images:", "/etc:images"]
    + ["2007", "2007/", "/train", ""],
)
def test_parts_that_are_none(tmp_path, part):
    flat(tmp_path, a="")
    with pytest.raises(
        InputError, match=r'write year/split, .* or the names of folders in .*, e\.g\. "annotations'
    ):
        VocPart(tmp_path, part)


def test_all_images_of_a_year_without_lists(tmp_path):
    folder = write_voc(tmp_path, b="", a="")
    assert [image.image_id for image in VocPart(tmp_path, "2007/all")] == ["a", "b"]
    (folder / "ImageSets" / "Main" / "all.txt").write_text("b\n")
    assert [image.image_id for image in VocPart(tmp_path, "2007/all")] == ["b"]
    for file in (folder / "ImageSets" / "Main").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r'val\.txt does not exist; write e\.g\. "2007/all\[:80%\]"'):
        VocPart(tmp_path, "2007/val")
