"""One identity of an image in every format: its file, whatever the spelling of its path."""

import dataclasses
import json
from pathlib import Path

import pytest
from annotated_sets import FORMATS, PARTS, Photo, write_set
from refusals import message_of
from voc_layout import voc_object, write_voc
from yolo_layout import write_yolo

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.identity import distinct_ids, file_keys, image_name
from refinedet_tf.errors import InputError

DOG = ("dog", (10, 4, 20, 12))
CAT = ("cat", (0, 0, 40, 20))
FORMAT_NAMES = {"devkit": "voc", "flat": "voc", "yolo list": "yolo"}

LISTING = ("devkit", "coco", "yolo list", "csv")
"""The formats whose files list the paths of the images; in the others, a folder is the list."""


def config_of(kind, root, **parts):
    return DataConfig(format=FORMAT_NAMES.get(kind, kind), root=str(root), classes=("cat", "dog"), **parts)


def read(kind, root, *parts):
    return read_dataset(config_of(kind, root, train=parts or (PARTS[kind],)), "train")


def files_of(dataset):
    return sorted(path.rpartition("/")[2] for path in dataset.image_paths)


SPELLINGS = ("street/a.jpg", "./street/a.jpg", "street//a.jpg", "street/../street/a.jpg", r"street\a.jpg")


@pytest.mark.parametrize("kind", LISTING)
@pytest.mark.parametrize("spelled", SPELLINGS)
def test_a_file_that_is_listed_twice(tmp_path, kind, spelled):
    """A table has a row per object, so that it joins them; elsewhere both entries are named."""
    photos = [Photo("street/a.jpg", (DOG,)), Photo("b.jpg", (CAT,))]
    photos.append(dataclasses.replace(photos[0], spelled=spelled))
    written = write_set(kind, tmp_path, photos)
    if kind == "csv":
        dataset = read(kind, tmp_path)
        assert dataset.image_ids == ("street/a", "b")
        assert dataset.labels.tolist() == [2, 2, 1]
        return
    entries = {
        "devkit": "image street/a of 2007/train",
        "coco": "image 1 of set.json:images and image 3 of set.json:images",
        "yolo list": "image images/street/a.jpg of train",
    }
    expected = (
        f"{written.images}/street/a.jpg is listed twice ({entries[kind]}); list each file once, with all"
    )
    assert message_of(read, kind, tmp_path).startswith(expected)


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_an_absolute_path_is_that_of_the_same_file(tmp_path, kind):
    photo = Photo("a.jpg", (DOG,), spelled=str(tmp_path / "images" / "a.jpg"))
    write_set(kind, tmp_path, [Photo("a.jpg", (CAT,)), photo])
    if kind == "csv":
        assert read(kind, tmp_path).image_ids == ("a",)
    else:
        assert "a.jpg is listed twice (image 1 of" in message_of(read, kind, tmp_path)


def test_many_files_that_are_listed_twice(tmp_path):
    photos = [Photo(f"{number}.jpg") for number in range(24)]
    write_set("coco", tmp_path, photos * 2)
    expected = "(image 1 of set.json:images and image 25 of set.json:images), and so are 23 more files; list"
    assert expected in message_of(read, "coco", tmp_path)


def test_two_parts_that_list_the_same_file(tmp_path):
    write_voc(tmp_path, split="val", b="")
    write_voc(tmp_path, a="", b="")
    expected = "/b.jpg is listed twice (image b of 2007/train and image b of 2007/val)"
    assert expected in message_of(read, "devkit", tmp_path, "2007/train", "2007/val")
    (tmp_path / "link").symlink_to(tmp_path / "VOC2007" / "JPEGImages")
    (tmp_path / "xml").symlink_to(tmp_path / "VOC2007" / "Annotations")
    assert "and image a of xml:link)" in message_of(read, "flat", tmp_path, "2007/train", "xml:link")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("endings", [("jpg", "png"), ("jpg", "JPG")])
def test_files_whose_endings_alone_differ(tmp_path, kind, endings):
    first, second = (f"a.{ending}" for ending in endings)
    photos = [Photo(first, (DOG,)), Photo(second, (DOG,)), Photo("b.jpg", (CAT,))]
    written = write_set(kind, tmp_path, photos)
    if kind in ("coco", "csv"):
        dataset = read(kind, tmp_path)
        assert dataset.image_ids == {"coco": ("1", "2", "3"), "csv": (first, second, "b")}[kind]
        assert files_of(dataset) == sorted([first, second, "b.jpg"])
        assert dataset.labels.tolist() == [2, 2, 1]
        return
    if kind == "devkit":
        photos_of = tmp_path / "VOC2007" / "ImageSets" / "Main" / "train.txt"
        photos_of.write_text("a\nb\n")
    message = message_of(read, kind, tmp_path)
    assert f"{written.images}/{first}" in message and f"{written.images}/{second}" in message
    assert f"have the same {'label file' if 'yolo' in kind else 'annotation'} {written.annotation}" in message


def test_the_filename_of_an_xml_tells_files_apart_whose_endings_alone_differ(tmp_path):
    folder = write_voc(tmp_path, a="<filename>old/a.png</filename>" + voc_object("dog", (3, 2, 8, 10)))
    (folder / "JPEGImages" / "a.png").touch()
    assert files_of(read("devkit", tmp_path)) == ["a.png"]


def test_images_without_labels_may_have_the_same_name_in_yolo(tmp_path):
    write_yolo(tmp_path, a="0 0.5 0.5 0.5 0.5\n", b=None)
    write_yolo(tmp_path, images="images/b", labels="labels/b", a="1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "images" / "b.png").write_bytes((tmp_path / "images" / "b.jpg").read_bytes())
    dataset = read("yolo", tmp_path)
    assert dataset.image_ids == ("a", "images/b.jpg", "images/b.png", "b/a")


def test_names_in_yolo_that_differ_only_in_the_folder_that_is_left_out(tmp_path):
    write_yolo(tmp_path, images="images/b", labels="labels/b", a="0 0.5 0.5 0.5 0.5\n")
    yaml = "train: [images/b, b/images]\nnames: [cat, dog]\n"
    write_yolo(tmp_path, yaml, images="b/images", labels="b/labels", a="1 0.5 0.5 0.5 0.5\n", c=None)
    dataset = read("yolo", tmp_path)
    assert dataset.image_ids == ("images/b/a.jpg", "b/images/a.jpg", "b/c")
    assert dataset.labels.tolist() == [1, 2]


def test_ids_of_parts_whose_folders_have_the_same_name(tmp_path):
    """Two COCO files number their images from 1, and both folders are called images."""
    for name in ("day", "night"):
        write_set("coco", tmp_path / name, [Photo("a.jpg", (DOG,)), Photo("b.jpg", (CAT,))])
    parts = [f"{name}/set.json:{name}/images" for name in ("day", "night")]
    dataset = read("coco", tmp_path, *parts)
    assert dataset.image_ids == tuple(f"{part}/{number}" for part in parts for number in (1, 2))
    assert len(set(dataset.image_paths)) == 4 and dataset.labels.tolist() == [2, 1, 2, 1]


def test_distinct_ids():
    def ids(names, *longer):
        return distinct_ids(names, *(candidates.__getitem__ for candidates in longer))

    assert ids(["a", "b"], ["x", "y"]) == ["a", "b"]
    assert ids(["a", "b", "a"], ["x", "y", "z"]) == ["x", "b", "z"]
    # The longer id is one that another image has.
    assert ids(["a", "a", "x"], ["x", "y", "z"], ["1", "2", "3"]) == ["1", "y", "3"]


def test_keys_of_spellings_and_links(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    spelled = ["real/a.jpg", "./real//a.jpg", f"{tmp_path}/link/a.jpg", "link/../real/a.jpg", "real/b.jpg"]
    assert len(set(file_keys(spelled))) == 2


@pytest.mark.parametrize("root", ["", "./", "../{name}/", "{path}/"])
def test_names_of_images(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    start = root.format(name=tmp_path.name, path=tmp_path)
    for image in ("photos/a/b.jpg", "photos//a/b.png", "photos/./a/../a/b"):
        assert image_name(f"{start}photos", f"{start}{image}") == "a/b"
    assert image_name(f"{start}photos", f"{start}other/c.x.jpg") == "../other/c.x"


# Shares.

NAMES = [f"{number}.jpg" for number in range(40)]


def shares_of(kind, root, part=None, **data):
    """The files of [:60%] and of [60%:], each sorted."""
    part = part or PARTS[kind]
    config = config_of(kind, root, train=(f"{part}[:60%]",), test=(f"{part}[60%:]",), **data)
    return [files_of(read_dataset(config, split)) for split in ("train", "test")]


@pytest.fixture(scope="module")
def expected_shares(tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    write_set("flat", root, [Photo(name) for name in NAMES])
    shares = shares_of("flat", root)
    assert sorted(sum(shares, [])) == sorted(NAMES) and min(map(len, shares)) > 5
    return shares


@pytest.mark.parametrize(
    ("kind", "spelling"),
    [
        *((kind, "{name}") for kind in FORMATS),
        *((kind, spelling) for kind in LISTING for spelling in ("./{name}", ".//{name}", "x/../{name}")),
        *((kind, ".\\{name}") for kind in LISTING),
        *(
            (kind, spelling)
            for kind in ("coco", "csv")
            for spelling in ("{folder}/{name}", "../images/{name}")
        ),
    ],
)
def test_every_format_and_spelling_gives_the_same_shares(tmp_path, kind, spelling, expected_shares):
    photos = [Photo(name, spelled=spelling.format(folder=tmp_path / "images", name=name)) for name in NAMES]
    write_set(kind, tmp_path, photos)
    # The root may be spelled in another way than the paths.
    for root in (tmp_path, f"{tmp_path}/../{tmp_path.name}/."):
        assert shares_of(kind, root) == expected_shares


@pytest.mark.parametrize(
    ("named", "folder"),
    [
        ("images/train", "images/train"),
        ("train/images", "train/images"),
        ("train", "train/images"),
        (".", "images"),
        ("photos", "photos"),
    ],
)
def test_the_folder_of_yolo_does_not_matter(tmp_path, named, folder, expected_shares):
    yaml = f"train: {named}\nnames: [cat, dog]\n"
    labels = folder.replace("images", "labels")
    objects = dict.fromkeys((name.removesuffix(".jpg") for name in NAMES), "0 0.5 0.5 0.5 0.5\n")
    write_yolo(tmp_path, yaml, images=folder, labels=labels, **objects)
    assert shares_of("yolo", tmp_path) == expected_shares


OTHER_NAMES = {
    "devkit": "VOC2007/Annotations:VOC2007/JPEGImages",
    "flat": "annotations/:./images",
    "coco": "./set.json:images//",
    "yolo": "data.yaml:train",
    "yolo list": "./data.yaml:train",
    "csv": "./set.csv:./images",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_overlaps_are_noticed_whatever_the_part_is_called(tmp_path, kind):
    write_set(kind, tmp_path, [Photo(name) for name in NAMES])
    part, other = PARTS[kind], OTHER_NAMES[kind]
    for train, test in (
        (f"{part}[:80%]", f"{other}[50%:]"),
        (part, f"{other}[:10%]"),
        (f"{other}[:10%]", part),
    ):
        config = config_of(kind, tmp_path, train=(train,), test=(test,))
        for split in ("train", "test"):
            message = message_of(read_dataset, config, split)
            assert f'"{train}"' in message and f'"{test}"' in message
            assert "which overlap; they" in message or "in common, e.g. /" in message
    for train, test in ((f"{part}[:80%]", f"{other}[80%:]"), (part, other)):
        config = config_of(kind, tmp_path, train=(train,), test=(test,))
        assert len(read_dataset(config, "train")) + len(read_dataset(config, "test")) in (40, 80)


def test_other_lists_of_the_same_images_are_compared_by_their_files(tmp_path):
    write_set("coco", tmp_path, [Photo(name) for name in NAMES])
    tree = json.loads((tmp_path / "set.json").read_text())
    config = config_of("coco", tmp_path, train=("set.json:images[:50%]",), test=("other.json:images",))
    in_train = files_of(read_dataset(config, "train"))  # There is no other.json.
    tree["images"] = [image for image in tree["images"] if image["file_name"] not in in_train]
    kept = {image["id"] for image in tree["images"]}
    tree["annotations"] = [entry for entry in tree["annotations"] if entry["image_id"] in kept]
    (tmp_path / "other.json").write_text(json.dumps(tree))
    assert files_of(read_dataset(config, "train")) == in_train
    tree["images"].append({"id": 99, "file_name": f"./{in_train[0]}", "width": 40, "height": 20})
    (tmp_path / "other.json").write_text(json.dumps(tree))
    expected = rf'"set\.json:images\[:50%\]" .* have 1 image in common, e\.g\. .*/{in_train[0]}; they must'
    with pytest.raises(InputError, match=expected):
        read_dataset(config, "train")


def test_the_files_of_a_set_of_links(tmp_path):
    """Every format reads a set whose images are links to files elsewhere; the names count."""
    photos = [Photo(name) for name in NAMES[:3]]
    for kind in ("coco", "flat"):
        written = write_set(kind, tmp_path / kind, photos)
        pool = tmp_path / kind / "pool"
        pool.mkdir()
        for name in NAMES[:3]:
            Path(written.images / name).rename(pool / name)
            Path(written.images / name).symlink_to(pool / name)
        assert files_of(read(kind, tmp_path / kind)) == NAMES[:3]
