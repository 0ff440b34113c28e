"""Shares of a part divide a data set without lists of files, whatever its format."""

import contextlib
import json

import numpy as np
import pytest
from coco_layout import write_coco
from voc_layout import voc_object, write_voc

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


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["all[0.8:]", "all[:80]", "all[80%]", "all[-20%:]", "all[80%:90%:100%]"],
            r"write a share as \[:80%\], \[80%:90%\] or \[90%:\]",
        ),
        (
            ["all[80%:80%]", "all[90%:80%]", "all[:101%]", "all[:0%]", "all[999%:]"],
            r"a share must start before its end, within 0%\.\.100%",
        ),
    ],
    ids=["none", "empty"],
)
def test_shares_that_are_none_or_empty(parts, message):
    for part in parts:
        with pytest.raises(InputError, match=message):
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
    ("sets", "overlap"),
    [
        ({"train": ("all[:80%]",), "test": ("all[70%:]",)}, True),
        ({"train": ("all[:80%]",), "test": ("all",)}, True),
        ({"train": ("all",), "validation": ("all[:1%]",)}, True),
        ({"validation": ("other", "all[80%:]"), "test": ("all[80%:]",)}, True),
        ({"train": ("all[:80%]",), "validation": ("all[80%:90%]",), "test": ("all[90%:]",)}, False),
        ({"train": ("all",), "validation": ("all",)}, False),
        ({"train": ("all[:80%]",), "test": ("other[70%:]",)}, False),
        ({"train": (), "test": ("all[:80%]",)}, False),
    ],
)
def test_sets_that_overlap(sets, overlap):
    message = "which overlap; they must have no image in common"
    with pytest.raises(InputError, match=message) if overlap else contextlib.nullcontext():
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
