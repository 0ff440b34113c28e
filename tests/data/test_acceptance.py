"""Defects of a whole set stop a training or a measurement unless the config accepts them."""

import pytest
from refusals import message_of
from voc_layout import voc_object, write_voc

from refinedet_tf.config import DataConfig
from refinedet_tf.data.acceptance import check_empty_classes, check_share_of_bad_boxes, empty_classes
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError

GOOD = voc_object("dog", (3, 2, 8, 10))
OUT = voc_object("dog", (11, 6, 40, 10))
POINT = voc_object("cat", (4, 4, 4, 4))


def config_and_set(root, **changes):
    data_config = DataConfig(root=str(root), train=("2007/train",), **changes)
    return data_config, read_dataset(data_config, "train")


def test_a_tenth_may_be_bad(tmp_path):
    write_voc(tmp_path, a=9 * GOOD + OUT)
    data_config, dataset = config_and_set(tmp_path)
    check_share_of_bad_boxes(dataset, data_config, "train")
    write_voc(tmp_path, a=8 * GOOD + POINT, b=OUT)
    data_config, dataset = config_and_set(tmp_path)
    assert message_of(check_share_of_bad_boxes, dataset, data_config, "validation") == (
        "data.validation: of 10 boxes 2 are clipped or dropped (1 box dropped: 1 without area, "
        "e.g. a cat [4, 4, 4, 4]; 1 box clipped, e.g. b dog [11, 6, 40, 10]); correct the files, or accept "
        "this by --set data.max_bad_boxes=0.2"
    )
    accepting, dataset = config_and_set(tmp_path, max_bad_boxes=0.2)
    check_share_of_bad_boxes(dataset, accepting, "validation")


def test_swapped_coordinates_are_recognised(tmp_path):
    size = "<size><width>40</width><height>10</height></size>"
    write_voc(tmp_path, size=size, a=voc_object("dog", (2, 15, 9, 36)) + voc_object("dog", (1, 20, 8, 30)))
    data_config, dataset = config_and_set(tmp_path)
    assert (dataset.defects.num_bad, dataset.defects.num_bad_if_swapped) == (2, 0)
    with pytest.raises(
        InputError, match=r"; with x and y swapped it would be 0, so they may be in the wrong order;"
    ):
        check_share_of_bad_boxes(dataset, data_config, "train")


def test_no_box_at_all(tmp_path):
    write_voc(tmp_path, a="")
    data_config, dataset = config_and_set(tmp_path, classes=("dog",))
    check_share_of_bad_boxes(dataset, data_config, "train")
    assert dataset.defects.num_bad_if_swapped is None


def test_classes_without_objects(tmp_path):
    write_voc(tmp_path, a=GOOD)
    data_config, dataset = config_and_set(tmp_path, classes=("cat", "dog", "cow"))
    assert empty_classes(dataset) == ["cat", "cow"]
    assert message_of(check_empty_classes, dataset, data_config) == (
        'data.classes names "cat", "cow", of which data.train (2007/train) has no object; leave it out, or '
        "accept this by --set data.accept_empty_classes=true"
    )
    accepting, dataset = config_and_set(tmp_path, classes=("cat", "dog", "cow"), accept_empty_classes=True)
    assert check_empty_classes(dataset, accepting) == (
        'note: the training set has no object of "cat", "cow", which the network cannot learn then'
    )


def test_a_class_whose_objects_were_dropped(tmp_path):
    write_voc(tmp_path, a=GOOD + POINT)
    data_config, dataset = config_and_set(tmp_path)
    assert check_empty_classes(dataset, data_config).startswith(
        'note: the training set has no object of "cat"'
    )
    write_voc(tmp_path, a=GOOD)
    data_config, dataset = config_and_set(tmp_path)
    assert check_empty_classes(dataset, data_config) is None
