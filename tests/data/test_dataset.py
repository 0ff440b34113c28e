import numpy as np
import pytest
from voc_layout import voc_object, write_unlabelled, write_voc

from refinedet_tf.config import DataConfig
from refinedet_tf.data import dataset as dataset_module
from refinedet_tf.data import upright
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError

DOG = voc_object("dog", (3, 2, 8, 10))
CAT = voc_object("cat", (1, 1, 20, 5), "<difficult>1</difficult>")
POINT = voc_object("cat", (4, 4, 4, 4))
WIDE = voc_object("dog", (11, 6, 40, 10))


def data_config(root, *train, **changes):
    return DataConfig(root=str(root), train=train or ("2007/train",), **changes)


def test_arrays_of_two_parts(tmp_path):
    write_voc(tmp_path, a=DOG + CAT, empty="")
    write_voc(tmp_path, "2012", size="<size><width>40</width><height>20</height></size>", b=POINT + DOG)
    dataset = read_dataset(data_config(tmp_path, "2007/train", "2012/train"), "train")
    assert len(dataset) == 3
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_ids == ("a", "empty", "b")
    assert dataset.image_paths[2] == str(tmp_path / "VOC2012" / "JPEGImages" / "b.jpg")
    np.testing.assert_array_equal(dataset.image_sizes, [[10, 20], [10, 20], [20, 40]])
    np.testing.assert_allclose(
        dataset.boxes, [[0.1, 0.1, 1, 0.4], [0, 0, 0.5, 1], [0.05, 0.05, 0.5, 0.2]], atol=1e-7
    )
    np.testing.assert_array_equal(dataset.labels, [2, 1, 2])
    np.testing.assert_array_equal(dataset.difficult, [False, True, False])
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 2, 3])
    assert dataset.max_boxes == 2
    assert dataset.coco is None
    assert dataset.defects.summary() == "1 box dropped: 1 without area, e.g. b cat [4, 4, 4, 4]"
    assert dataset.defects.num_boxes == 4
    assert dataset.image_sizes.dtype == dataset.labels.dtype == np.int32
    assert (dataset.boxes.dtype, dataset.difficult.dtype, dataset.offsets.dtype) == (
        np.float32,
        bool,
        np.int64,
    )


def test_image_annotations(tmp_path):
    write_voc(tmp_path, a=DOG + CAT, empty="", b=CAT)
    dataset = read_dataset(data_config(tmp_path), "train")
    boxes, labels, difficult = dataset.image_annotations(0)
    np.testing.assert_array_equal(boxes, dataset.boxes[:2])
    np.testing.assert_array_equal(labels, [2, 1])
    np.testing.assert_array_equal(difficult, [False, True])
    assert dataset.image_annotations(1)[0].shape == (0, 4)
    np.testing.assert_array_equal(dataset.image_annotations(-1)[1], [1])
    with pytest.raises(IndexError):
        dataset.image_annotations(3)


def test_images_without_any_object(tmp_path):
    write_voc(tmp_path, a="", b="")
    dataset = read_dataset(data_config(tmp_path, classes=("cat",)), "train")
    assert len(dataset) == 2
    assert dataset.boxes.shape == (0, 4)
    assert dataset.max_boxes == 0
    np.testing.assert_array_equal(dataset.offsets, [0, 0, 0])
    with pytest.raises(InputError, match=r"no object in data\.train \(2007/train\), so there are no classes"):
        read_dataset(data_config(tmp_path), "train")


def test_labels(tmp_path):
    """They are those of the training split, or follow the config."""
    write_voc(tmp_path, a=CAT + DOG)
    write_voc(tmp_path, split="test", t=DOG)
    dataset = read_dataset(data_config(tmp_path, test=("2007/test",)), "test")
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.labels, [2])
    dataset = read_dataset(data_config(tmp_path, classes=("dog", "cow", "cat")), "train")
    assert dataset.class_names == ("dog", "cow", "cat")
    np.testing.assert_array_equal(dataset.labels, [3, 1])


def test_unknown_class(tmp_path):
    write_voc(tmp_path, a=DOG, b=CAT)
    with pytest.raises(
        InputError, match=r'b\.xml: class "cat" is not in data\.classes; the nearest is "Cats"'
    ):
        read_dataset(data_config(tmp_path, classes=("dog", "Cats")), "train")


@pytest.mark.parametrize("letter", ["\n", "\r", "\t", "\x7f", "\x85", "\u2028"])
def test_class_names_of_more_than_a_line(letter):
    """`test_formats.py` shows that the files of each format may not have them either."""
    with pytest.raises(ValueError, match="must be one line of text, without control characters"):
        DataConfig(classes=("dog", f"big{letter}cat"))


def test_an_id_of_two_parts_gets_the_part_in_front(tmp_path):
    write_voc(tmp_path, "2007", a=DOG, b=DOG)
    write_voc(tmp_path, "2012", a=POINT, c=DOG)
    dataset = read_dataset(data_config(tmp_path, "2007/train", "2012/train"), "train")
    assert dataset.image_ids == ("2007/a", "b", "2012/a", "c")
    assert dataset.defects.issues[0].image_id == "2012/a"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            POINT,
            r"VOC2012.Annotations.b\.xml: the box \[4, 4, 4, 4\] \(cat\) of image b is without area; remove",
        ),
        (WIDE, r"b\.xml: the box \[11, 6, 40, 10\] \(dog\) of image b is partly outside; correct it"),
    ],
)
def test_strict_refuses_the_first_bad_box(tmp_path, bad, message):
    write_voc(tmp_path, a=DOG)
    write_voc(tmp_path, "2012", b=DOG + bad + POINT, c=POINT)
    both = data_config(tmp_path, "2007/train", "2012/train")
    assert sum(read_dataset(both, "train").defects.counts.values()) == 3
    with pytest.raises(InputError, match=message):
        read_dataset(both, "train", strict=True)


def test_strict_lets_rounding_pass(tmp_path):
    write_voc(tmp_path, a=voc_object("dog", (0, 0, 20, 10)))
    dataset = read_dataset(data_config(tmp_path), "train", strict=True)
    assert dataset.defects.counts == {"at most a pixel outside, clipped": 1}
    np.testing.assert_array_equal(dataset.boxes, [[0, 0, 1, 1]])


def test_empty_splits(tmp_path):
    write_voc(tmp_path, a=DOG)
    with pytest.raises(InputError, match=r"data\.test is empty: name at least one part"):
        read_dataset(data_config(tmp_path), "test")
    with pytest.raises(InputError, match=r"data\.train is empty: .* as data\.classes is null"):
        read_dataset(DataConfig(root=str(tmp_path), test=("2007/train",)), "test")
    with pytest.raises(InputError, match=r"data\.root: folder .*nowhere does not exist"):
        read_dataset(data_config(tmp_path / "nowhere"), "train")


def test_test_split_without_annotations(tmp_path):
    write_voc(tmp_path, a=CAT + DOG)
    write_unlabelled(tmp_path, b=(17, 9), c=(5, 8))
    data = data_config(tmp_path, validation=("2012/test",), test=("2012/test",))
    dataset = read_dataset(data, "test", strict=True)
    assert not dataset.labelled
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_ids == ("b", "c")
    np.testing.assert_array_equal(dataset.image_sizes, [[9, 17], [8, 5]])
    np.testing.assert_array_equal(dataset.offsets, [0, 0, 0])
    assert (dataset.boxes.shape, dataset.max_boxes, dataset.defects.num_boxes) == ((0, 4), 0, 0)
    assert dataset.image_annotations(1)[0].shape == (0, 4)
    assert read_dataset(data, "train").labelled
    with pytest.raises(InputError, match=r"b\.xml cannot be read: No such file"):
        read_dataset(data, "validation")


def test_parts_with_and_without_annotations(tmp_path):
    write_voc(tmp_path, split="test", a=DOG)
    write_unlabelled(tmp_path, b=(17, 9))
    both = data_config(tmp_path, test=("2007/test", "2012/test"), classes=("dog",))
    with pytest.raises(InputError, match=r"data\.test joins parts .* without \(2012/test\); name one kind"):
        read_dataset(both, "test")


def test_only_slow_reading_shows_its_progress(tmp_path, capsys, monkeypatch):
    write_voc(tmp_path, a=DOG)
    read_dataset(data_config(tmp_path), "train")
    assert capsys.readouterr().err == ""
    for module in (dataset_module, upright):
        monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    read_dataset(data_config(tmp_path), "train")
    assert capsys.readouterr().err.startswith("reading 2007/train: 1/1 images, ")
