import numpy as np
import pytest
from PIL import Image
from refusals import message_of
from yolo_layout import write_yolo

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.yolo import YoloPart
from refinedet_tf.errors import InputError

DOG = "1 0.5 0.25 0.25 0.5\n"
CAT = "0 0.125 0.5 0.25 1\n"


def yolo_config(root, **changes):
    return DataConfig(**{"format": "yolo", "root": str(root), "train": ("train",), **changes})


def ids(root, part="train"):
    return [image.image_id for image in YoloPart(root, part)]


def refusal(root, part="train"):
    return message_of(lambda: list(YoloPart(root, part)))


def test_arrays(tmp_path):
    write_yolo(tmp_path, b=DOG + "\n" + CAT, a=DOG, c=None)
    dataset = read_dataset(yolo_config(tmp_path), "train")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_ids == ("a", "b", "c")
    assert dataset.image_paths[0] == str(tmp_path / "images" / "a.jpg")
    np.testing.assert_array_equal(dataset.image_sizes, [[20, 40]] * 3)
    np.testing.assert_array_equal(dataset.labels, [2, 2, 1])
    # ymin, xmin, ymax, xmax
    np.testing.assert_allclose(
        dataset.boxes, [[0, 0.375, 0.5, 0.625], [0, 0.375, 0.5, 0.625], [0, 0, 1, 0.25]], atol=1e-7
    )
    np.testing.assert_array_equal(dataset.offsets, [0, 1, 3, 3])
    assert not dataset.difficult.any() and dataset.coco is None and dataset.labelled
    assert dataset.defects.num_boxes == 3 and not dataset.defects.issues


def test_a_polygon_gives_the_box_around_it(tmp_path):
    write_yolo(tmp_path, a="0 0.1 0.2 0.5 0.3 0.4 0.6\n", b="1 0.2 0.2 0.4 0.2 0.4 0.8 0.2 0.8\n")
    dataset = read_dataset(yolo_config(tmp_path), "train")
    np.testing.assert_allclose(dataset.boxes, [[0.2, 0.1, 0.6, 0.5], [0.2, 0.2, 0.8, 0.4]], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [cat, dog]", ["cat", "dog"]),
        ("names: {0: cat, 1: dog}", ["cat", "dog"]),
        ("names:\n  1: dog\n  0: cat", ["cat", "dog"]),
        ("names: {'0': cat, '1': dog}\nnc: 2", ["cat", "dog"]),
        ("nc: 2\nnames:\n- cat\n- dog", ["cat", "dog"]),
        ("names: [7, 8]", ["7", "8"]),
        ("names: {3: dog, 0: cat, 1: 'yes'}", ["cat", "yes", "dog"]),
    ],
)
def test_variants_of_names(tmp_path, names, expected):
    write_yolo(tmp_path, f"train: images\n{names}\n", a=CAT + DOG)
    part = YoloPart(tmp_path, "train")
    assert part.class_names == expected
    (image,) = part
    assert image.class_names == expected[:2]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, yes]", r"names[1] must be text, got True; write it between quotes"),
        ("names: [cat, 1.5]", "names[1] must be text, got 1.5"),
        ("names: [cat, cat]", "names repeats the index 1 or the name 'cat'"),
        ("names: {a: cat}", "an index in names must be a whole number, got 'a'"),
        ("names: {-1: cat}", "an index in names must be a whole number, got -1"),
        ("names: []", "names is empty"),
        ("names: cat", 'must hold "names"'),
        ("nc: 3\nnames: [cat, dog]", "nc is 3, but names has 2 entries"),
        ("names: [cat\ntrain: x", "data.yaml is not valid YAML: while parsing a flow sequence"),
        ("- cat", 'must hold the keys "names" and "train"'),
        ("names: [cat]\nkpt_shape: [17, 3]", "describes key points (kpt_shape)"),
        ("a: &x [cat]\nnames: *x", "is not valid YAML: an alias (*name) has no place in it"),
        ('names: ["a\\0b"]', "names[0] holds a null character"),
        ("names: [cat]\npath: [a]", "path must be a folder, got ['a']"),
        ("names: [cat]\ntrain: 7", "train must be a folder, a .txt file or several, got 7"),
        ("names: [cat]\ntest: images", 'has no "train"; the splits there are test'),
        ("names: [cat]\ntrain: [images, nowhere]", "train: {root}/nowhere does not exist"),
        ("names: [cat]\ntrain: /etc", "train: '/etc' leads out of data.root ({root})"),
        ("names: [cat]\ntrain: ../../etc", "train: '../../etc' leads out of data.root ({root})"),
        ("names: [cat]\ntrain: data.yaml", "train must be a folder or a .txt file, got 'data.yaml'"),
    ],
)
def test_mistakes_in_data_yaml(tmp_path, yaml, message):
    write_yolo(tmp_path, yaml, a=CAT)
    line = refusal(tmp_path)
    assert line.startswith(f"{tmp_path / 'data.yaml'}") and message.replace("{root}", str(tmp_path)) in line


def test_missing_data_yaml(tmp_path):
    write_yolo(tmp_path, a=CAT)
    (tmp_path / "data.yaml").rename(tmp_path / "cards.yaml")
    assert refusal(tmp_path).endswith('data.yaml does not exist; write "cards.yaml:train"')
    assert ids(tmp_path, "cards.yaml:train") == ["a"]
    assert "does not exist" in refusal(tmp_path, "../cards.yaml:train")


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("train: images/train", ["train/a", "train/b"]),
        ("train: ./images/train/", ["train/a", "train/b"]),
        ("train: images", ["train/a", "train/b", "val/c"]),
        ("train: [images/val, images/train]", ["val/c", "train/a", "train/b"]),
        ("train: ../images/train", ["train/a", "train/b"]),  # Written for another place, as by Roboflow.
        ("path: .\ntrain: images/train", ["train/a", "train/b"]),
        ("path: /content/elsewhere\ntrain: images/train", ["train/a", "train/b"]),
        ("path: ../datasets/mine\ntrain: images/train", ["train/a", "train/b"]),
        ("path: images\ntrain: train", ["train/a", "train/b"]),
        ("train: {root}/images/train", ["train/a", "train/b"]),
        ("path: .\\images\ntrain: .\\train", ["train/a", "train/b"]),
        ("train: lists/train.txt", ["train/b", "val/c"]),
        ("train: [lists/train.txt, images/train/more]", None),
    ],
)
def test_variants_of_paths(tmp_path, yaml, expected):
    write_yolo(tmp_path, images="images/train", labels="labels/train", a=CAT, b=None)
    write_yolo(tmp_path, images="images/val", labels="labels/val", c=DOG)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("./images/train/b.jpg\n\nimages/val/c.jpg\n")
    (tmp_path / "data.yaml").write_text(f"names: [cat, dog]\n{yaml.replace('{root}', str(tmp_path))}\n")
    if expected is None:
        assert "images/train/more does not exist" in refusal(tmp_path)
        return
    images = list(YoloPart(tmp_path, "train"))
    assert [image.image_id for image in images] == expected
    objects = {"train/a": ["cat"], "train/b": [], "val/c": ["dog"]}
    for image in images:
        assert image.class_names == objects[image.image_id]
        assert image.path == f"{tmp_path}/images/{image.image_id}.jpg"


def test_folders_of_splits_outside_and_labels_beside_the_images(tmp_path):
    yaml = "train: ../train/images\nval: valid/images\ntest: flat\nnames: [cat, dog]\n"
    write_yolo(tmp_path, yaml, "train/images", "train/labels", a=CAT)
    write_yolo(tmp_path, yaml, "valid/images", "valid/labels", a=DOG)
    write_yolo(tmp_path, yaml, "flat", "flat", b=DOG)
    assert [ids(tmp_path, part) for part in ("train", "val", "test")] == [
        ["train/a"],
        ["valid/a"],
        ["flat/b"],
    ]
    (image,) = YoloPart(tmp_path, "test")
    assert image.class_names == ["dog"]


def test_only_the_last_folder_of_that_name_is_replaced(tmp_path):
    root = tmp_path / "images" / "set"
    write_yolo(root, "train: images/images\nnames: [cat, dog]\n", "images/images", "images/labels", a=CAT)
    (image,) = YoloPart(root, "train")
    assert image.class_names == ["cat"]
    assert YoloPart(root, "train").annotation_file("images/a") == root / "images" / "labels" / "a.txt"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is none of the 2 names in {root}/data.yaml (0..1)"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is none of"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is none of"),
        ("nan 0.5 0.5 0.1 0.1", "class nan is none of"),
        ("cat 0.5 0.5 0.1 0.1", "write numbers, got 'cat 0.5 0.5 0.1 0.1'"),
        ("0 0.5 0.5 0.1", "write cx, cy, w, h or at least 3 corners x, y after the class, got 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 5 numbers; five may be a detection with its confidence"),
        ("0 1 2 3 4 5 6 7", "got 7 numbers"),
    ],
)
def test_mistakes_in_labels(tmp_path, line, message):
    write_yolo(tmp_path, a=DOG + line)
    expected = f"{tmp_path / 'labels' / 'a.txt'}, line 2: "
    assert refusal(tmp_path).startswith(expected)
    assert message.replace("{root}", str(tmp_path)) in refusal(tmp_path)


def test_a_set_without_any_label_file(tmp_path):
    write_yolo(tmp_path, a=None, b=None)
    assert refusal(tmp_path) == (
        f"{tmp_path / 'labels' / 'a.txt'} does not exist, nor does the label file of any other of the 2 "
        "images of train"
    )
    dataset = read_dataset(yolo_config(tmp_path, test=("train",), classes=("cat", "dog")), "test")
    assert not dataset.labelled and len(dataset) == 2


def test_a_list_of_classes_is_no_label_file(tmp_path):
    write_yolo(tmp_path, a=CAT, b=CAT)
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert ids(tmp_path) == ["a", "b"]


def test_other_endings_and_links(tmp_path):
    write_yolo(tmp_path / "real", a=CAT)
    write_yolo(tmp_path / "links", b=DOG)
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "images" / "c.PNG")
    (tmp_path / "links" / "images" / "more").symlink_to(tmp_path / "real" / "images")
    (tmp_path / "links" / "labels" / "more").symlink_to(tmp_path / "real" / "labels")
    (tmp_path / "links" / "images" / "again").symlink_to(tmp_path / "links" / "images")
    images = {image.image_id: image.class_names for image in YoloPart(tmp_path / "links", "train")}
    assert images == {"b": ["dog"], "more/a": ["cat"], "more/c": []}


def test_classes_of_the_config(tmp_path):
    write_yolo(tmp_path, a=CAT + DOG)
    np.testing.assert_array_equal(
        read_dataset(yolo_config(tmp_path, classes=("dog", "cat")), "train").labels, [2, 1]
    )
    with pytest.raises(InputError, match=r'"cow" is no category of .*data\.yaml; there are cat, dog'):
        read_dataset(yolo_config(tmp_path, classes=("dog", "cat", "cow")), "train")
