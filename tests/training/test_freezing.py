"""Frozen layers do not move; the others do."""

import numpy as np
import pytest
import tensorflow as tf
from small_network import make_trainer, random_batch, state_of
from thin_vgg import thin_vgg
from tiers import slow

from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.losses import COUNTS
from refinedet_tf.training.freezing import freeze_layers


@pytest.fixture
def vgg():
    return thin_vgg()


def test_parts_of_vgg(vgg):
    backbone = [f"conv{stage}_{i}" for stage in range(1, 6) for i in range(1, 4 - (stage < 3))]
    heads = {
        f"{head}{level}" for head in ("arm_loc", "arm_conf", "odm_loc", "odm_conf") for level in range(3, 7)
    }

    def trained():
        return {variable.path.split("/")[0] for variable in vgg.trainable_variables}

    assert freeze_layers(vgg, "none") == [] and all(variable.trainable for variable in vgg.weights)
    assert freeze_layers(vgg, "backbone") == [*backbone, "fc6", "fc7"]
    added = {"conv6_1", "conv6_2", "conv5_3_norm", "conv4_3_norm"}
    assert trained() == heads | added | {f"tcb{level}" for level in range(3, 7)}
    freeze_layers(vgg, "all_but_heads")
    assert trained() == heads


def test_patterns(vgg):
    assert freeze_layers(vgg, ["conv[12]_1", "tcb6", "tcb5/TL5_1", "TL4_?"]) == [
        "conv1_1",
        "conv2_1",
        "tcb6/TL6_1",
        "tcb6/TL6_2",
        "tcb6/P6",
        "tcb5/TL5_1",
        "tcb4/TL4_1",
        "tcb4/TL4_2",
    ]
    assert len([v for v in vgg.weights if not v.trainable]) == 16


def test_patterns_that_match_nothing(vgg):
    with pytest.raises(
        InputError, match=r"no layer has the name 'block\*'; some of 50 layers: conv1_1, conv4_2, "
    ) as error:
        freeze_layers(vgg, ["conv1_*", "block*"])
    assert "\n" not in str(error.value) and vgg.get_layer("conv1_1").trainable
    with pytest.raises(
        InputError, match=r"'backbone'; as a part, it stands alone: training.freeze=\"backbone\";"
    ):
        freeze_layers(vgg, ["backbone"])
    with pytest.raises(InputError, match="leaves no layer to be trained"):
        freeze_layers(vgg, ["*"])


@pytest.mark.parametrize(
    ("freeze", "extra"),
    [
        ("backbone", ["training.gradient_clip_norm=1.5"]),
        slow("all_but_heads", []),
        slow('["level[34]*", "tcb3"]', ["training.accumulation_steps=2"]),
    ],
)
def test_frozen_layers_do_not_move(config, freeze, extra):
    """Neither the gradient nor weight decay, momentum or BatchNorm's average changes them."""
    config = config(f"training.freeze={freeze}", "training.weight_decay=0.1", *extra)
    trainer = make_trainer(config)
    # The last level and the L2 normalisation are no part of a backbone.
    beginnings = {
        "backbone": ("level3/", "level3_norm/", "level4", "level5"),
        "all_but_heads": ("level", "tcb"),
    }
    beginnings = beginnings.get(freeze, ("level3", "level4", "tcb3"))
    before = state_of(trainer)
    for seed in range(2):
        assert np.isfinite(float(trainer.train_step(random_batch(config, seed))["odm_conf"]))
    after = state_of(trainer)
    momentums = [variable.path for variable in trainer.optimizer.momentums]
    assert not [path for path in momentums if "level3_norm" in path or "level4" in path]
    frozen = [path for path in before if path.startswith(beginnings)]
    assert len(frozen) > 15 and any("moving_mean" in path for path in frozen)
    for path, value in after.items():
        if path in frozen:
            assert value.tobytes() == before[path].tobytes(), path
        elif "/kernel" in path:
            assert not np.array_equal(value, before[path]), path
    assert sum("odm" in path and path.endswith("/kernel") for path in after) == 8


def test_norm_of_the_gradient_is_that_of_the_trained_layers(config, monkeypatch):
    config = config("training.freeze=all_but_heads", "training.gradient_clip_norm=1.5")
    trainer, applied = make_trainer(config), []
    monkeypatch.setattr(trainer.optimizer, "update_if", lambda _, gradients, __: applied.extend(gradients))
    trainer.train_step(random_batch(config))
    assert len(applied) == 32
    norm = np.sqrt(sum(np.square(gradient.numpy(), dtype=np.float64).sum() for gradient in applied))
    np.testing.assert_allclose(norm, 1.5, rtol=1e-5)


def test_frozen_layers_have_no_backward_pass(config):
    """The graph has the gradients of the heads only.

    Those with respect to the input of the heads are there, but nothing uses them, so that TensorFlow does
    not compute them.
    """
    config = config("training.freeze=all_but_heads")
    trainer = make_trainer(config)
    batch = {name: tf.constant(value) for name, value in random_batch(config).items()}
    step = tf.function(lambda batch: trainer._gradients(batch, dict.fromkeys(COUNTS, 1.0))[0])
    kinds = [operation.type for operation in step.get_concrete_function(batch).graph.get_operations()]
    assert kinds.count("Conv2DBackpropFilter") == 16
    # The three deconvolutions of the transfer blocks are of this kind, too.
    assert kinds.count("Conv2DBackpropInput") == 16 + 3
