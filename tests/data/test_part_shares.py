"""Shares of a part divide a data set without lists of files, whatever its format."""

import json

import numpy as np
import pytest
from coco_layout import write_coco
from voc_layout import voc_object, write_voc
from yolo_layout import write_yolo

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.shares import Share, check_disjoint, split_share
from refinedet_tf.errors import InputError

EXPECTED = (
    [False, False, True, False, False, True, True, False],
    [False, False, False, True, False, True, False, True],
)
"""Whether the first eight images of `NAMES` lie in [:50%], for the seeds 0 and 1."""

NAMES = [f"image_{number:04}" for number in range(2_000)]


@pytest.mark.parametrize(
    ("part", "name", "start", "end"),
    [
        ("all[:80%]", "all", 0, 80),
        ("2007/all[80%:]", "2007/all", 80, 100),
        ("a.json:photos[ 12.5 % : 20% ]", "a.json:photos", 12.5, 20),
        ("all[:]", "all", 0, 100),
        ("photos [old]", "photos [old]", 0, 100),
        ("photos [old][:50%]", "photos [old]", 0, 50),
        ("train", "train", 0, 100),
    ],
)
def test_parts_and_their_shares(part, name, start, end):
    assert split_share(part, 7) == (name, Share(start, end, 7))


@pytest.mark.parametrize("part", ["all[0.8:]", "all[:80]", "all[80%]", "all[-20%:]", "all[80%:90%:100%]"])
def test_shares_that_are_none(part):
    with pytest.raises(InputError, match=r"write a share as \[:80%\], \[80%:90%\] or \[90%:\]"):
        split_share(part, 0)


@pytest.mark.parametrize("part", ["all[80%:80%]", "all[90%:80%]", "all[:101%]", "all[:0%]", "all[999%:]"])
def test_shares_that_are_empty(part):
    with pytest.raises(InputError, match=r"a share must start before its end, within 0%\.\.100%"):
        split_share(part, 0)


@pytest.mark.parametrize("share", [Share(0, 80), Share(80, 90), Share(12.5, 100), Share()])
def test_text_of_a_share(share):
    assert split_share(f"x{share}", 0) == ("x", share)


def test_every_image_is_in_exactly_one_share():
    shares = [Share(0, 80), Share(80, 90), Share(90, 100)]
    held = np.array([[share.holds(name) for share in shares] for name in NAMES])
    assert (held.sum(axis=1) == 1).all()
    np.testing.assert_allclose(held.mean(axis=0), [0.8, 0.1, 0.1], atol=0.02)


def test_a_share_is_a_function_of_name_and_seed():
    """These values must never change, or an image of the test set would become one of the training set."""
    assert [Share(0, 50).holds(name) for name in NAMES[:8]] == EXPECTED[0]
    assert [Share(0, 50, seed=1).holds(name) for name in NAMES[:8]] == EXPECTED[1]


@pytest.mark.parametrize(
    "sets",
    [
        {"train": ("all[:80%]",), "test": ("all[70%:]",)},
        {"train": ("all[:80%]",), "test": ("all",)},
        {"train": ("all",), "validation": ("all[:1%]",)},
        {"validation": ("other", "all[80%:]"), "test": ("all[80%:]",)},
    ],
)
def test_sets_that_overlap(sets):
    with pytest.raises(InputError, match=r"which overlap; they must have no image in common"):
        check_disjoint(DataConfig(**sets))


@pytest.mark.parametrize(
    "sets",
    [
        {"train": ("all[:80%]",), "validation": ("all[80%:90%]",), "test": ("all[90%:]",)},
        {"train": ("all",), "validation": ("all",)},
        {"train": ("all[:80%]",), "test": ("other[70%:]",)},
        {"train": (), "test": ("all[:80%]",)},
    ],
)
def test_sets_that_do_not_overlap(sets):
    check_disjoint(DataConfig(**sets))


IMAGES = [f"photo_{number}" for number in range(40)]


def coco_tree(order):
    images = [
        {"id": number, "file_name": f"{IMAGES[number]}.jpg", "height": 10, "width": 20} for number in order
    ]
    annotations = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [2, 1, 6, 9]} for number in order
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}


def write_all(root):
    """The same images and boxes in the layouts of VOC (devkit and flat), COCO, YOLO and CSV."""
    dog = voc_object("dog", (3, 2, 8, 10))
    folder = write_voc(root / "voc", **dict.fromkeys(IMAGES, dog))
    (root / "flat").mkdir()
    (root / "flat" / "annotations").symlink_to(folder / "Annotations")
    (root / "flat" / "images").symlink_to(folder / "JPEGImages")
    (root / "coco").mkdir()
    write_coco(root / "coco", coco_tree(range(40)), "mine.json", "images")
    write_yolo(root / "yolo", size=(20, 10), **dict.fromkeys(IMAGES, "1 0.25 0.55 0.3 0.9\n"))
    (root / "csv").mkdir()
    (root / "csv" / "images").symlink_to(folder / "JPEGImages")
    rows = "".join(f"{name}.jpg,20,10,dog,2,1,8,10\n" for name in IMAGES)
    (root / "csv" / "mine.csv").write_text(f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}")
    return {
        "voc": ("voc", "2007/all"),
        "flat": ("voc", "annotations:images"),
        "coco": ("coco", "mine.json:images"),
        "yolo": ("yolo", "train"),
        "csv": ("csv", "mine.csv:images"),
    }


def test_all_formats_give_the_same_sets_and_boxes(tmp_path):
    parts = write_all(tmp_path)
    found = {}
    for folder, (data_format, part) in parts.items():
        data_config = DataConfig(
            format=data_format,
            root=str(tmp_path / folder),
            train=(f"{part}[:70%]",),
            validation=(f"{part}[70%:80%]",),
            test=(f"{part}[80%:]",),
            classes=("dog",),
            split_seed=3,
        )
        sets = [read_dataset(data_config, split) for split in ("train", "validation", "test")]
        names = [sorted(path.rpartition("/")[2] for path in dataset.image_paths) for dataset in sets]
        assert sorted(sum(names, [])) == sorted(f"{name}.jpg" for name in IMAGES)
        for dataset in sets:
            expected = np.tile(np.float32([0.1, 0.1, 1, 0.4]), (len(dataset), 1))
            np.testing.assert_allclose(dataset.boxes, expected, atol=1e-7)
        found[folder] = names
    assert 20 < len(found["voc"][0]) < 36 and found["voc"][1] and found["voc"][2]
    assert all(names == found["voc"] for names in found.values())


def test_the_order_of_a_file_and_new_images_change_no_share(tmp_path):
    write_coco(tmp_path, coco_tree(range(30)), "mine.json", "images")
    data_config = DataConfig(
        format="coco", root=str(tmp_path), train=("mine.json:images[:60%]",), test=("mine.json:images[60%:]",)
    )
    before = set(read_dataset(data_config, "train").image_ids)
    write_coco(tmp_path, coco_tree(range(39, -1, -1)), "mine.json", "images")
    after = set(read_dataset(data_config, "train").image_ids)
    assert after & set(map(str, range(30))) == before
    test = read_dataset(data_config, "test")
    assert set(test.image_ids).isdisjoint(after) and len(test) + len(after) == 40
    # The ground truth of the metric is that of the share.
    assert sorted(map(str, test.coco.getImgIds())) == sorted(test.image_ids)
    assert len(test.coco.getAnnIds()) == len(test)


def test_an_empty_share_and_shares_of_a_list(tmp_path):
    write_voc(tmp_path, a=voc_object("dog", (3, 2, 8, 10)), b="", c="")
    data_config = DataConfig(root=str(tmp_path), train=("2007/train[:0.001%]",))
    with pytest.raises(InputError, match=r"data\.train \(2007/train\[:0\.001%\] in .*\) holds no image"):
        read_dataset(data_config, "train")
    twice = DataConfig(root=str(tmp_path), train=("2007/train[:99%]", "2007/train"))
    with pytest.raises(InputError, match="is listed twice"):
        read_dataset(twice, "train")


def test_the_categories_of_a_share_are_those_of_its_file(tmp_path):
    tree = coco_tree(range(20))
    tree["categories"].append({"id": 2, "name": "cat"})
    write_coco(tmp_path, tree, "mine.json", "images")
    data_config = DataConfig(format="coco", root=str(tmp_path), train=("mine.json:images[:50%]",))
    assert read_dataset(data_config, "train").class_names == ("dog", "cat")
    tree["annotations"][0]["bbox"] = [1]
    (tmp_path / "mine.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"annotations\[0\]: bbox"):
        read_dataset(data_config, "train")


def test_labels_of_a_share_without_some_class(tmp_path):
    """The classes of a test share are those of the training share, or of the config."""
    dog, cat = voc_object("dog", (3, 2, 8, 10)), voc_object("cat", (3, 2, 8, 10))
    held = [name for name in IMAGES if Share(0, 50).holds(name)]
    write_voc(tmp_path, **{name: cat + dog if name in held else dog for name in IMAGES})
    shares = {"train": ("2007/all[:50%]",), "test": ("2007/all[50%:]",)}
    test = read_dataset(DataConfig(root=str(tmp_path), **shares), "test")
    assert test.class_names == ("cat", "dog") and (test.labels == 2).all()
    assert len(test) == len(IMAGES) - len(held)
