import functools
import json
import operator
import re

import numpy as np
import pytest
from coco_layout import write_coco
from pycocotools_program import pycocotools_summary
from refusals import message_of

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.coco import CocoPart
from refinedet_tf.errors import InputError


@pytest.fixture
def tree():
    """Two images (one without objects) and sparse, unordered category ids."""
    return {
        "images": [
            {"id": 73, "file_name": "b.jpg", "height": 100, "width": 200},
            {"id": 9, "file_name": "a.jpg", "height": 50, "width": 50},
            {"id": 11, "file_name": "c.jpg", "height": 50, "width": 100},
        ],
        "annotations": [
            {
                "id": 0,
                "image_id": 11,
                "category_id": 90,
                "bbox": [10.5, 5, 20, 40],
                "area": 300,
                "iscrowd": 0,
            },
            {"id": 8, "image_id": 73, "category_id": 17, "bbox": [0, 0, 200, 100], "segmentation": [[1, 2]]},
            {"id": 9, "image_id": 11, "category_id": 90, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 1},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 17, "name": "cat"},
        ],
    }


def rewrite(root, tree):
    """Replaces the annotations of a data set that is written already, and leaves its images."""
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(tree))


def coco_config(root, **changes):
    return DataConfig(**{"format": "coco", "root": str(root), "train": ("train2017",), **changes})


def test_images_objects_and_classes(tmp_path, tree):
    """The classes are in the order of the category ids, unless the config names some of them."""
    write_coco(tmp_path, tree)
    images = list(CocoPart(tmp_path, "train2017"))
    assert images[2].boxes == [(10.5, 5, 20, 40), (0, 0, 50, 50)]
    dataset = read_dataset(coco_config(tmp_path), "train")
    assert dataset.image_ids == tuple(image.image_id for image in images) == ("73", "9", "11")
    assert dataset.image_paths[0] == images[0].path == str(tmp_path / "train2017" / "b.jpg")
    np.testing.assert_array_equal(dataset.image_sizes, [[100, 200], [50, 50], [50, 100]])
    assert dataset.class_names == ("person", "cat", "toothbrush")
    np.testing.assert_array_equal(dataset.labels, [2, 3, 3])
    np.testing.assert_array_equal(dataset.difficult, [False, False, True])
    np.testing.assert_array_equal(dataset.offsets, [0, 1, 1, 3])
    np.testing.assert_allclose(dataset.boxes[1], [0.1, 0.105, 0.9, 0.305], atol=1e-7)
    assert dataset.coco is None
    classes = ("toothbrush", "cat")
    dataset = read_dataset(coco_config(tmp_path, classes=classes), "train")
    np.testing.assert_array_equal(dataset.labels, [2, 1, 1])
    message = r'"persons" is no category of .*2017\.json; the nearest is "person"'
    with pytest.raises(InputError, match=message):
        read_dataset(coco_config(tmp_path, classes=(*classes, "persons")), "train")


def test_part_with_file_and_folder(tmp_path, tree):
    write_coco(tmp_path, tree, "mine.json", "photos")
    assert len(CocoPart(tmp_path, "mine.json:photos")) == 3
    (tmp_path / "mine.json").rename(tmp_path / "annotations" / "mine.json")
    assert len(list(CocoPart(tmp_path, "mine.json:photos"))) == 3
    for image in tree["images"]:
        image["file_name"] = f"photos/{image['file_name']}"
    (tmp_path / "mine.json").write_text(json.dumps(tree))
    assert next(iter(CocoPart(tmp_path, "mine.json:."))).path == str(tmp_path / "photos" / "b.jpg")


def test_ground_truth_gives_full_ap_to_itself(tmp_path, tree, capsys):
    tree["annotations"].append(
        {"id": 10, "image_id": 9, "category_id": 1, "bbox": [3, 3, 0, 4], "iscrowd": 0}
    )
    write_coco(tmp_path, tree)
    dataset = read_dataset(coco_config(tmp_path, test=("train2017",)), "test")
    assert capsys.readouterr().out == ""
    assert dataset.defects.counts == {"without area": 1}
    annotations = dataset.coco.loadAnns(dataset.coco.getAnnIds())
    assert len(annotations) == 3
    assert [entry["area"] for entry in annotations] == [300, 20000, 2500]
    assert [entry["iscrowd"] for entry in annotations] == [0, 0, 1]
    assert dataset.coco.getCatIds() == [1, 17, 90]

    detections = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for entry in annotations
        if not entry["iscrowd"]
    ]
    summary = pycocotools_summary(dataset.coco, detections)
    assert summary["AP"] == pytest.approx(1.0)
    assert summary["APsmall"] == pytest.approx(1.0)  # The object of mask area 300 counts as small.


@pytest.mark.parametrize("area", [0, "", None])
def test_an_area_that_is_not_given_is_that_of_the_box(tmp_path, tree, area):
    tree["annotations"][0]["area"] = area
    write_coco(tmp_path, tree)
    dataset = read_dataset(coco_config(tmp_path, test=("train2017",)), "test")
    assert [entry["area"] for entry in dataset.coco.loadAnns(dataset.coco.getAnnIds())] == [800, 20000, 2500]


def test_several_parts(tmp_path, tree):
    write_coco(tmp_path, tree)
    write_coco(tmp_path, tree, "annotations/instances_val2017.json", "val2017")
    dataset = read_dataset(coco_config(tmp_path, test=("train2017", "val2017")), "test")
    assert [entry["dataset_id"] for entry in dataset.coco.loadImgs(range(6))] == list(dataset.image_ids)
    assert dataset.image_ids == tuple(f"{part}2017/{i}" for part in ("train", "val") for i in (73, 9, 11))
    assert len(dataset.boxes) == 6


def test_images_without_annotations(tmp_path, tree):
    del tree["annotations"]
    write_coco(tmp_path, tree, "annotations/image_info_test-dev2017.json", "test2017")
    name = "image_info_test-dev2017.json:test2017"
    dataset = read_dataset(coco_config(tmp_path, train=(), test=(name,), classes=("cat", "person")), "test")
    assert not dataset.labelled
    assert dataset.image_ids == ("73", "9", "11")
    assert dataset.image_paths[0] == str(tmp_path / "test2017" / "b.jpg")
    np.testing.assert_array_equal(dataset.image_sizes, [[100, 200], [50, 50], [50, 100]])
    np.testing.assert_array_equal(dataset.offsets, [0, 0, 0, 0])
    assert (dataset.boxes.shape, dataset.labels.shape) == ((0, 4), (0,))
    assert dataset.coco.getCatIds() == [1, 17, 90]
    for split in ("train", "validation"):
        data = coco_config(tmp_path, **{"train": (), split: (name,)}, classes=("cat",))
        with pytest.raises(InputError, match=r'image_info_test-dev2017\.json must hold a list "annotations"'):
            read_dataset(data, split)
    with pytest.raises(InputError, match='without annotations: write "image_info_test-dev2017.json:image_fo'):
        CocoPart(tmp_path, "test-dev2017", may_be_unlabelled=True)


def test_empty_annotations_are_annotations(tmp_path, tree):
    tree["annotations"] = []
    write_coco(tmp_path, tree)
    assert CocoPart(tmp_path, "train2017", may_be_unlabelled=True).labelled
    tree["annotations"] = None
    write_coco(tmp_path, tree)
    with pytest.raises(InputError, match='must hold a list "annotations"'):
        CocoPart(tmp_path, "train2017", may_be_unlabelled=True)


def test_the_papers_split_of_2014(tmp_path, tree):
    """trainval35k is train2014 and val2014 without minival: three files over two image folders."""
    lists = {"train2014": [73], "valminusminival2014": [9], "minival2014": [11]}
    for name, ids in lists.items():
        images = [image for image in tree["images"] if image["id"] in ids]
        annotations = [entry for entry in tree["annotations"] if entry["image_id"] in ids]
        part = tree | {"images": images, "annotations": annotations}
        folder = "train2014" if name == "train2014" else "val2014"
        write_coco(tmp_path, part, f"annotations/instances_{name}.json", folder)
    data = coco_config(
        tmp_path,
        train=("train2014", "instances_valminusminival2014.json:val2014"),
        test=("instances_minival2014.json:val2014",),
    )
    assert read_dataset(data, "train").image_ids == ("73", "9")
    minival = read_dataset(data, "test")
    assert minival.image_paths == (str(tmp_path / "val2014" / "c.jpg"),)
    assert minival.labelled and len(minival.coco.getAnnIds()) == 2


MISSING = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["images"], MISSING, 'must hold a list "images"'),
        (["annotations"], MISSING, 'must hold a list "annotations"'),
        (["categories"], {}, 'must hold a list "categories"'),
        (["images", 1, "file_name"], MISSING, r'images\[1\] has no "file_name"'),
        (["images", 1, "file_name"], "a\0.jpg", "holds a null character: a.x00.jpg"),
        (["images", 1, "id"], "9", r"images\[1\]: id must be a whole number, got '9'"),
        (["images", 1, "id"], 73, r"images\[1\] repeats the image id 73"),
        (["images", 1, "id"], 2**63, r"\[1\]: id must be .* 64 bits, got 9223372036854775808"),
        (["images", 1, "id"], 1e308, r"images\[1\]: id must be a whole number, got 1e\+308"),
        (["images", 1, "id"], "9" * 10**6, "id must be a whole number, got '999"),
        (["images", 1, "width"], -(10**400), r"images\[1\]: width must be a whole .*, got -1000"),
        (["images", 1, "width"], [40], r"images\[1\]: width must be a whole .*, got \[40\]"),
        (["annotations", 2], 7, r'annotations\[2\] has no "image_id"'),
        (["annotations", 2, "bbox"], MISSING, r'annotations\[2\] has no "bbox"'),
        (["annotations", 2, "bbox"], [1, 2, 3], r"annotations\[2\]: bbox must be \[x, y, width"),
        (["annotations", 2, "bbox", 0], "1", r"bbox must be .*, got \['1', 0, 50, 50\]"),
        (["annotations", 2, "bbox", 2], 10**400, "bbox must be .*, got .*1000"),
        (["annotations", 2, "bbox"], [1] * 10**5, r"bbox must be .*, got \[1, 1"),
        (["annotations", 2, "image_id"], 5, r'annotations\[2\]: image_id 5 is not in "images"'),
        (["annotations", 2, "image_id"], 10**308, "image_id must be .* of at most 64 bits"),
        (["annotations", 2, "category_id"], 2, r'category_id 2 is not in "categories"'),
        (["annotations", 2, "category_id"], -(2**63) - 1, "category_id must be .* at most 64 bits"),
        (["annotations", 2, "area"], -1, r"annotations\[2\]: area must lie in 0\.\..*, got -1$"),
        (["annotations", 2, "area"], 1e308, r"must lie in 0\.\.2\^62 square pixels, got 1e\+308"),
        (["annotations", 2, "area"], float("nan"), "area must lie in .*, got nan"),
        (["annotations", 2, "area"], float("inf"), "area must lie in .*, got inf"),
        (["annotations", 2, "area"], 10**400, "area must be a number, got 1000.*000"),
        (["annotations", 2, "iscrowd"], [0] * 10**6, r"iscrowd must be 0 or 1, got \[0"),
        (["categories", 1, "id"], 2**64, r"categories\[1\]: id must be .* at most 64 bits"),
        (["categories", 2, "id"], MISSING, r'categories\[2\] has no "id"'),
        (["categories", 2, "name"], "person", r"categories\[2\] repeats .* name 'person'"),
        (["categories", 2, "name"], {"x" * 10**6: [1] * 10**6}, "name must be text, got {"),
    ],
    ids=range(32),
)
def test_broken_files(tmp_path, tree, path, value, message):
    write_coco(tmp_path, tree)
    container = functools.reduce(operator.getitem, path[:-1], tree)
    container[path[-1]] = value
    if value is MISSING:
        del container[path[-1]]
    rewrite(tmp_path, tree)
    line = message_of(CocoPart, tmp_path, "train2017")
    assert re.search(message, line) and len(line) < 600
    assert line.startswith(str(tmp_path / "annotations" / "instances_train2017.json"))


@pytest.mark.parametrize(
    "name",
    ["../../secret.jpg", "/etc/passwd", "../train2017/../../secret.jpg", "link/../../../secret.jpg"]
    + ["", ".", "..", "../train2017", "b/../..", "/"],
)
def test_images_outside_the_root_are_refused(tmp_path, tree, name):
    (tmp_path / "secret.jpg").touch()
    root = tmp_path / "root"
    root.mkdir()
    write_coco(root, tree)
    tree["images"][1]["file_name"] = name
    rewrite(root, tree)
    for changed in (root, tmp_path / "root" / ".." / "root"):
        with pytest.raises(InputError, match=r"2017\.json: file_name '.*' is no file within .*root$"):
            list(CocoPart(changed, "train2017"))


def test_images_in_other_folders_of_the_root_are_read(tmp_path, tree, monkeypatch):
    write_coco(tmp_path, tree, folder="val2017")
    write_coco(tmp_path, tree)
    tree["images"][0]["file_name"] = "../val2017/b.jpg"
    tree["images"][1]["file_name"] = str(tmp_path / "val2017" / "a.jpg")
    tree["images"][2]["file_name"] = "a..b.jpg"
    (tmp_path / "train2017" / "a..b.jpg").touch()
    rewrite(tmp_path, tree)
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, ".", "train2017/.."):
        paths = [image.path for image in CocoPart(root, "train2017")]
        assert paths[:2] == [str(tmp_path / "val2017" / name) for name in ("b.jpg", "a.jpg")]
        assert paths[2].endswith("train2017/a..b.jpg")


def test_a_link_on_the_way_does_not_lead_elsewhere(tmp_path, tree):
    """The system would take "link/.." for the folder that holds the target of the link."""
    (tmp_path / "elsewhere" / "folder").mkdir(parents=True)
    (tmp_path / "elsewhere" / "a.jpg").touch()
    root = tmp_path / "root"
    root.mkdir()
    write_coco(root, tree)
    (root / "train2017" / "link").symlink_to(tmp_path / "elsewhere" / "folder")
    tree["images"][1]["file_name"] = "link/../a.jpg"
    rewrite(root, tree)
    assert list(CocoPart(root, "train2017"))[1].path == str(root / "train2017" / "a.jpg")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 5_000 + "a.jpg", "x" * 300 + "/a.jpg", "b.jpg/a.jpg"])
def test_names_that_no_image_can_have(tmp_path, tree, name):
    write_coco(tmp_path, tree)
    tree["images"][1]["file_name"] = name
    rewrite(tmp_path, tree)
    line = message_of(lambda: list(CocoPart(tmp_path, "train2017")))
    assert ("does not exist" in line or "cannot be read: " in line) and len(line) < 1_000


@pytest.mark.parametrize("part", ["x" * 300, "x" * 5_000 + ".json", "x" * 300 + ":a", "a\0b", "\ud800:a"])
def test_names_that_no_part_can_have(tmp_path, tree, part):
    write_coco(tmp_path, tree)
    assert len(message_of(CocoPart, tmp_path, part)) < 1_500


def test_enormous_boxes(tmp_path, tree, recwarn):
    """A corner that overflows is not finite; the area of a finite box stays one that the metric can hold."""
    for entry, box in zip(
        tree["annotations"], ([1, 1, 1e308, 1e308], [1e308, 1, 1e308, 5], [1, 1, 5, 5]), strict=True
    ):
        entry["bbox"] = box
        entry.pop("area", None)
    write_coco(tmp_path, tree)
    dataset = read_dataset(coco_config(tmp_path, test=("train2017",)), "test")
    assert dataset.defects.counts == {"not finite": 1, "partly outside, clipped": 1}
    assert [entry["area"] for entry in dataset.coco.loadAnns(dataset.coco.getAnnIds())] == [2.0**62, 25]
    assert not list(recwarn)


def test_very_many_categories_and_long_names(tmp_path, tree):
    tree["categories"] = [{"id": number, "name": f"class {number}"} for number in range(20_000)]
    tree["categories"][17]["name"], tree["categories"][90]["name"] = "x" * 10**6, "y" * 10**6
    write_coco(tmp_path, tree)
    dataset = read_dataset(coco_config(tmp_path), "train")
    assert len(dataset.class_names) == 20_000
    np.testing.assert_array_equal(dataset.labels, [18, 91, 91])
    for classes, message in (
        (("y" * 10**6, "class 7"), '"xxx.*xxx" is not in data.classes; there are yyy.*, class 7$'),
        (("x" * 10**6 + "y",), '"xxx.*xxy" is no category of .*the nearest is "xxx'),
    ):
        line = message_of(read_dataset, coco_config(tmp_path, classes=classes), "train")
        assert re.search(message, line) and len(line) < 1_000


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"instances_train2017\.json cannot be read: No such file"):
        CocoPart(tmp_path, "train2017")
    (tmp_path / "mine.json").write_text("5")
    with pytest.raises(InputError, match=r'mine\.json must hold an object with the list "images"'):
        CocoPart(tmp_path, "mine.json:images")
    with pytest.raises(InputError, match='write "mine.json:image_folder"'):
        CocoPart(tmp_path, "mine.json")
    with pytest.raises(InputError, match='write "train2017" or "file.json:image_folder"'):
        CocoPart(tmp_path, "mine.json:")
