"""Classes that are picked from a trained network, by the function and by the command."""

import numpy as np
import pytest
from image_files import noise
from network_values import filled
from thin_vgg import thin_vgg

from refinedet_tf.commands import subset_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.weights import load_weights, save_weights
from refinedet_tf.weights.class_names import matching_labels
from refinedet_tf.weights.transfer import copy_classes

VOC = load_config("voc320.json").data.classes
COCO = load_config("coco320.json").data.classes


def test_every_voc_class_has_its_coco_class():
    labels = matching_labels(VOC, COCO, {})
    # COCO's own numbers of the 80 categories, counted without gaps.
    expected = {"aeroplane": 5, "bicycle": 2, "diningtable": 61, "person": 1, "sofa": 58, "tvmonitor": 63}
    assert {name: labels[VOC.index(name)] for name in expected} == expected
    assert len(set(labels)) == 20


def test_scores_and_boxes_of_the_picked_classes_stay(tf_test):
    trained, target = filled(thin_vgg(5), scale=0.1), filled(thin_vgg(2), seed=2, scale=0.1)
    copy_classes(trained, target, [4, 2])
    images = noise(1, 64, 128)
    before, after = trained(images), target(images)
    for name in ("arm_loc", "arm_conf", "odm_loc"):
        tf_test.assertAllEqual(after[name], before[name])
    tf_test.assertAllClose(
        after["odm_conf"], np.asarray(before["odm_conf"])[..., [0, 4, 2]], rtol=1e-5, atol=1e-6
    )


def test_other_network_is_refused():
    trained, target = thin_vgg(5), thin_vgg(2, tcb_channels=12)
    with pytest.raises(
        InputError, match=r"--target is another network: tcb\d/TL\d_1/kernel is .*12\], trained"
    ):
        copy_classes(trained, target, [4, 2])


def test_class_without_counterpart():
    with pytest.raises(InputError, match="the class rat has no counterpart 'rat' among the trained"):
        matching_labels(["person", "rat"], COCO, {})
    with pytest.raises(InputError, match="the class airoplane .*is it airplane\\? Then --map"):
        matching_labels(["airoplane"], COCO, {})
    with pytest.raises(InputError, match="--map: chair is none of the target's classes"):
        matching_labels(["person"], COCO, {"chair": "couch"})


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A trained file and two configs that differ in their classes; thin networks stand in."""
    from refinedet_tf.refinedet import network as model_module

    def thin(config):
        return thin_vgg(config.num_classes)

    monkeypatch.setattr(model_module, "build_model", thin)
    save_weights(filled(thin_vgg(3)), tmp_path / "trained.weights.h5")
    (tmp_path / "trained.json").write_text('{"data": {"classes": ["cat", "couch", "dog"]}}')
    (tmp_path / "target.json").write_text('{"data": {"classes": ["dog", "sofa"]}}')
    return tmp_path


def arguments(folder, *more, output="new.weights.h5"):
    named = {"config": "trained.json", "weights": "trained.weights.h5", "target": "target.json"}
    named["output"] = output
    return [part for name, file in named.items() for part in (f"--{name}", folder / file)] + list(more)


@pytest.mark.parametrize(
    ("options", "pairs", "rows"),
    [
        ([], [["dog", "<-", "dog"], ["sofa", "<-", "couch"]], [0, 3, 2]),
        (["--map", "sofa=cat"], [["dog", "<-", "dog"], ["sofa", "<-", "cat"]], [0, 3, 1]),
    ],
)
def test_command(tf_test, files, command, options, pairs, rows):
    result = command(subset_classes, *arguments(files, *options))
    assert result.code == 0, result.err
    assert [line.split() for line in result.out.splitlines()[:2]] == pairs
    model, trained = thin_vgg(2), filled(thin_vgg(3))
    load_weights(model, files / "new.weights.h5")
    bias = np.asarray(trained.get_layer("odm_conf4").bias).reshape(3, 4)
    tf_test.assertAllEqual(np.asarray(model.get_layer("odm_conf4").bias).reshape(3, 3), bias[:, rows])


def test_mistakes_on_the_command_line(files, refused):
    assert "must end in .weights.h5" in refused(subset_classes, *arguments(files, output="new.h5"))
    assert "does not exist" in refused(subset_classes, *arguments(files, output="no/new.weights.h5"))
    assert "write TARGET=TRAINED" in refused(subset_classes, *arguments(files, "--map", "sofa"))
    assert not (files / "new.weights.h5").exists()
