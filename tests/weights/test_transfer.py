"""Weights of a detector as the start of one with other classes."""

import dataclasses
import functools
import json
import re
import shutil
from types import SimpleNamespace

import h5py
import network_values
import numpy as np
import pytest
import tensorflow as tf
from caffe_writer import write_caffemodel
from config_of import config_of
from network_values import filled, values
from random_layers import random_layers
from thin_vgg import thin_vgg

from refinedet_tf.config.files import config_to_json, load_config
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_initial_weights, load_weights, save_weights, sources, transfer_weights
from refinedet_tf.weights.class_names import known_set, pair_classes
from refinedet_tf.weights.description import ATTRIBUTE, describe
from refinedet_tf.weights.transfer import _fitting

VOC = load_config("voc320.json").class_names
COCO = load_config("coco320.json").class_names
HEADS = [f"odm_conf{level}/{kind}" for level in (3, 4, 5, 6) for kind in ("kernel", "bias")]


@pytest.fixture
def build(small_network):
    """build(classes, **fields of the model's config): the small network."""

    def build(classes, **model):
        defaults = {"backbone": "mobilenet_v2", "tcb_channels": 8, "image_size": (64, 64)}
        return build_model(config_of(classes, model={**defaults, **model}))

    return build


def rows(array, num_classes):
    """[..., 3 anchors, C + 1]"""
    return array.reshape(*array.shape[:-1], 3, num_classes + 1)


def checked_transfer(model, file, source, pairs, new=None, load=transfer_weights):
    """Transfers the file of a detector and asserts that every variable is its own but for rows of classes.

    Args:
        pairs: the source's label of each label, or None for a class that is new.
        new: a pattern of the beginnings of paths whose variables must stay as they are.
        load: the function that transfers.

    Returns:
        what `load` returns.
    """
    before, source = values(model), values(source)
    result = load(model, file)
    found = values(model)
    assert found.keys() == before.keys()
    untouched = [path for path in found if new and re.match(new, path)]
    for path, value in found.items():
        if path in untouched:
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        elif path not in HEADS:
            np.testing.assert_array_equal(value, source[path], err_msg=path)
    bias = "odm_conf3/bias"
    counts = [len(array[bias]) // 3 - 1 for array in (found, source)]
    for path in (path for path in HEADS if path not in untouched):
        ours, initial = rows(found[path], counts[0]), rows(before[path], counts[0])
        theirs = rows(source[path], counts[1])
        for row, origin in enumerate([0, *pairs]):
            expected = initial[..., row] if origin is None else theirs[..., origin]
            np.testing.assert_array_equal(ours[..., row], expected, err_msg=f"{path} row {row}")
    return result


def test_twenty_classes_to_three(build, tmp_path):
    source = filled(build(VOC))
    save_weights(source, tmp_path / "voc.weights.h5")
    model = build(("cat", "drone", "tv"))
    pairs = [VOC.index("cat") + 1, None, VOC.index("tvmonitor") + 1]
    report = checked_transfer(model, tmp_path / "voc.weights.h5", source, pairs)
    assert len(report.layers) == sum(bool(layer.weights) for layer in model.layers)
    total = len(model.weights)
    head, *lines = report.summary
    assert head.startswith(f"initial weights: {total - 8} of {total} variables are those of {tmp_path}")
    assert head.endswith("; trained at 64 x 64 pixels")
    assert lines[0] == "  classes taken over: (background), cat, tv (from tvmonitor)"
    assert lines[1] == "  new classes, not in the file: drone"
    assert lines[2].startswith("  classes of the file that are not used: aeroplane, bicycle, ")
    assert len(lines) == 3
    assert report.details[:3] == [
        "cat: taken from label 8, cat",
        "drone: new class",
        "tv: taken from label 20, tvmonitor",
    ]
    assert "odm_conf3/kernel: some rows" in report.details and "level3/kernel: taken" in report.details


def test_three_classes_to_twenty(build, tmp_path):
    """As many channels as the offsets have; and the library's own name of it."""
    source = filled(build(("drone", "person", "tv")))
    save_weights(source, tmp_path / "three.weights.h5")
    pairs = {VOC.index("person"): 2, VOC.index("tvmonitor"): 3}
    layers = checked_transfer(
        build(VOC),
        tmp_path / "three.weights.h5",
        source,
        [pairs.get(place) for place in range(20)],
        load=functools.partial(load_weights, transfer=True),
    )
    assert "odm_conf6" in layers


def test_caffe_coco_to_own_classes(tmp_path):
    source = thin_vgg(80)
    file = tmp_path / "coco.caffemodel"
    write_caffemodel(file, [*random_layers(source), ("mbox_extra", "Scale", [np.ones(3)])])
    write_caffemodel(tmp_path / "whole.caffemodel", random_layers(source))
    load_weights(source, tmp_path / "whole.caffemodel")
    model = thin_vgg(("tree", "tvmonitor", "person", "COCO"))
    pairs = [None, COCO.index("tv") + 1, COCO.index("person") + 1, None]
    report = checked_transfer(model, file, source, pairs)
    text = "\n".join(report.summary)
    assert "the file names no classes; its 80 are taken for those of COCO" in text
    assert "classes taken over: (background), tvmonitor (from tv), person" in text
    assert "new classes, not in the file: tree, COCO" in text
    assert "arrays of the file that are not used: mbox_extra blob 0" in text


def test_caffe_weights_into_another_design(tmp_path):
    """Transfer blocks with BatchNorm take the kernels; wider ones and blocks before the heads are new."""
    source = thin_vgg(20)
    file = tmp_path / "voc.caffemodel"
    write_caffemodel(file, random_layers(source))
    load_weights(source, file)
    model = thin_vgg(VOC, tcb_batch_norm=True)
    assert len([path for path in values(model) if "_bn/" in path]) == 5 * 15
    report = checked_transfer(model, file, source, range(1, 21), new=".*_bn/")
    assert any(line.startswith("  new layers, not in the file: tcb") for line in report.summary)

    report = checked_transfer(thin_vgg(VOC, tcb_channels=12), file, source, range(1, 21), new="tcb|odm")
    assert any("new layers, of another shape in the file: tcb" in line for line in report.summary)

    report = checked_transfer(thin_vgg(VOC, head_blocks=True), file, source, range(1, 21), new="arm|odm")
    assert any("without a block of model.head_blocks in the file: arm" in line for line in report.summary)


def test_another_design_has_other_heads(build, tmp_path):
    """The heads would have the same shapes, but they see the backbone and not the transfer blocks."""
    source = filled(build(VOC, design="single_stage"))
    save_weights(source, tmp_path / "ssd.weights.h5")
    model = build(VOC, tcb_channels=16)
    file = tmp_path / "ssd.weights.h5"
    report = checked_transfer(model, file, source, range(1, 21), new="arm|odm|tcb")
    assert report.layers and not [name for name in report.layers if name.startswith(("arm", "odm", "tcb"))]


def test_file_without_names(build, tmp_path):
    """A file of earlier times: only the background is known, or all classes if there are as many."""
    source = filled(build(("a", "b")))
    file = tmp_path / "old.weights.h5"
    source.save_weights(file)
    report = checked_transfer(build(("a", "b", "c", "d", "e")), file, source, [None] * 5)
    assert "2 are neither those of VOC (20) nor of COCO (80)" in report.summary[0]
    assert "  new classes, the file names no classes: a, b, c, d, e" in report.summary
    report = checked_transfer(build(("c", "d")), file, source, [1, 2])
    assert "its 2 are taken for those of the config" in report.summary[0]


def test_run_folder(build, tmp_path):
    """The best weights; config.json tells the classes of a run of earlier times."""
    source = filled(build(("a", "b"), tcb_channels=12))
    (tmp_path / "config.json").write_text(config_to_json(source.config))
    source.save_weights(tmp_path / "best.weights.h5")
    model = build(("b", "c", "a"), tcb_channels=12, weights=str(tmp_path))
    report = checked_transfer(model, model.config.model, source, [2, None, 1], load=load_initial_weights)
    assert f"classes and network are those of {tmp_path / 'config.json'}" in report.summary[0]
    shutil.copy(tmp_path / "best.weights.h5", tmp_path / "elsewhere.weights.h5")
    report = transfer_weights(model, tmp_path / "elsewhere.weights.h5")
    assert "the file names no classes, and 2 are neither those of VOC (20) nor of COCO" in report.summary[0]


def refusal(model, path):
    return network_values.refusal(model, path, load=transfer_weights)


def test_refusals(build, tmp_path):
    vgg, small = thin_vgg(2), build(("a", "b", "c"))
    save_weights(vgg, tmp_path / "vgg.weights.h5")
    write_caffemodel(tmp_path / "vgg.caffemodel", random_layers(vgg))
    for name in ("vgg.weights.h5", "vgg.caffemodel"):
        expected = f"{name} holds a detector with another backbone: vgg16, but model.backbone is mobilenet_v2"
        assert refusal(small, tmp_path / name).endswith(expected)
    vgg.save_weights(tmp_path / "old.weights.h5")
    assert "does not say what network it belongs to" in refusal(small, tmp_path / "old.weights.h5")
    message = refusal(thin_vgg(3, channel_order="rgb"), tmp_path / "vgg.weights.h5")
    assert message.endswith("was trained on BGR images, the model sees RGB: set model.channel_order to bgr")
    cut = [layer for layer in random_layers(vgg) if layer[0] != "conv2_1"]
    write_caffemodel(tmp_path / "cut.caffemodel", cut)
    message = refusal(vgg, tmp_path / "cut.caffemodel")
    assert message.endswith("another backbone than the config: conv2_1/kernel is not in the file")
    assert "weights not found" in refusal(vgg, tmp_path / "gone.weights.h5")


@pytest.mark.parametrize("arrays", ["those of a small network", "without values"])
def test_a_description_of_a_giant_network_takes_no_memory(build, tmp_path, monkeypatch, arrays):
    target, trained = build(("a",)), build(("a", "b"))
    file = tmp_path / "small.weights.h5"
    save_weights(trained, file)
    giant = config_of(("a", "b"), model={"backbone": "mobilenet_v2", "tcb_channels": 10_000})
    with h5py.File(file, "r+") as opened:
        opened.attrs[ATTRIBUTE] = json.dumps(dataclasses.asdict(describe(giant)))
        if arrays == "without values":
            del opened["layers"]
            with tf.Graph().as_default():
                shapes = [variable.shape for variable in build_model(giant).weights]
            for number, shape in enumerate(shapes):
                opened.create_dataset(f"layers/{number}/vars/0", shape, "f4")
    assert file.stat().st_size < 2e6

    def planned(config):
        assert not tf.executing_eagerly()
        return build_model(config)

    monkeypatch.setattr(sources, "build_model", planned)
    expected = {
        "those of a small network": "small.weights.h5 holds weights of another model: ",
        "without values": "/vars/0 is compressed, or its values are missing",
    }
    assert expected[arrays] in refusal(target, file)


def test_values_that_no_network_has(build, tmp_path):
    source = filled(build(VOC))
    kernel = source.get_layer("arm_loc3").kernel
    kernel.assign(np.where(np.arange(12) == 3, np.nan, np.array(kernel)))
    source.save_weights(tmp_path / "bad.weights.h5")
    for classes in (VOC, ("a",)):
        message = refusal(build(classes), tmp_path / "bad.weights.h5")
        assert "arm_loc3/kernel holds nan at place 3" in message


def test_another_number_of_anchors_does_not_fit_even_where_the_shapes_do():
    """Six anchors of three rows have as many channels as three anchors of six rows."""
    old = {"odm_conf3/bias": np.zeros(18), "odm_loc3/bias": np.zeros(24)}
    found = {"odm_conf3/bias": np.ones(18), "odm_loc3/bias": np.ones(12)}
    model = SimpleNamespace(classifiers={"odm_conf3": 6})
    new, reasons = _fitting(model, old, found, {"odm_conf3": 3}, {0: 0, 1: 4, 2: 2}, {})
    assert new == {} and reasons.keys() == old.keys()


def test_pairs_of_names():
    assert pair_classes(("tv", "sofa", "rat"), ("couch", "tvmonitor", "tv")) == {1: 3, 2: 1}
    assert known_set(20) == ("VOC", VOC) and known_set(80) == ("COCO", COCO) and known_set(3) is None
