"""The training step against independent computations, and over two replicas against one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import finish, start_program
from small_network import BACKBONE, assert_same_state, make_trainer, random_batch, small_backbone, state_of
from stand_in_model import stand_in_model
from training_config import CLASSES_OVERRIDE

import refinedet_tf as rd
from refinedet_tf.config.files import load_config
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.losses import TERMS


def plain_gradients(network, batch, config):
    """Loss terms and gradients, computed without `refinedet_tf.training`."""
    anchors = rd.tile_anchors(config.model.image_size)
    with tf.GradientTape() as tape:
        terms = rd.refinedet_loss(network(batch["images"], training=True), batch, anchors, config)
        total = sum(terms[name] for name in TERMS)
    gradients = tape.gradient(total, network.trainable_variables)
    return {name: float(value) for name, value in terms.items()}, [g.numpy() for g in gradients]


@pytest.fixture(scope="module")
def traced(config_file):
    """A trainer and its step as a graph, with a warm-up over three steps to the rate 0.003."""
    overrides = ["learning_rate=0.003", "warmup=3", "milestones=[1000]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        config = load_config(config_file, [CLASSES_OVERRIDE, *(f"training.{text}" for text in overrides)])
        keras.utils.set_random_seed(0)
        trainer = make_trainer(config)
    step = tf.function(lambda batch: tf.distribute.get_strategy().run(trainer.train_step, args=(batch,)))
    return config, trainer, step, [v.numpy() for v in trainer.variables + trainer.optimizer.variables]


@pytest.fixture
def graph(traced, small_network):
    """The fixture `traced` with the values of its beginning."""
    config, trainer, step, start = traced
    for variable, value in zip(trainer.variables + trainer.optimizer.variables, start, strict=True):
        variable.assign(value)
    return config, trainer, step


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenet_v2"])
def test_no_two_kernels_start_equal(config_file, backbone):
    """An initialiser that layers share gives all kernels of one shape the same values."""
    keras.utils.set_random_seed(0)
    network = rd.build_model(load_config(config_file, [CLASSES_OVERRIDE, f"model.backbone={backbone}"]))
    kernels = [v.numpy() for v in network.variables if v.path.endswith("/kernel")]
    assert len(kernels) > 40
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


def test_steps_equal_the_solver_by_hand(tf_test, graph):
    """There are two steps, so that the momentum and the warm-up matter."""
    config, trainer, step = graph
    other = rd.build_model(config)
    other.set_weights(trainer.network.get_weights())
    start = state_of(trainer)
    velocity = [0.0] * len(other.trainable_variables)
    for number, rate in enumerate((0.001, 0.002)):
        batch = random_batch(config, seed=number)
        expected, gradients = plain_gradients(other, batch, config)
        result = step(batch)
        for name, value in expected.items():
            tf_test.assertAllClose(result[name], value, rtol=1e-4, atol=0, msg=name)
        for place, (variable, gradient) in enumerate(zip(other.trainable_variables, gradients, strict=True)):
            value = variable.numpy()
            is_bias = variable.path.endswith("/bias")
            gradient = 2 * gradient if is_bias else gradient + 5e-4 * value
            velocity[place] = 0.9 * velocity[place] - rate * gradient
            variable.assign(value + velocity[place])
    assert sum(variable.path.endswith("/bias") for variable in other.trainable_variables) == 16
    for ours, theirs in zip(trainer.network.variables, other.variables, strict=True):
        tf_test.assertAllClose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=5e-6, msg=ours.path)
    for ours, theirs in zip(trainer.optimizer.momentums, velocity, strict=True):
        tf_test.assertAllClose(ours.numpy(), theirs, rtol=1e-3, atol=5e-6, msg=ours.path)
    end = state_of(trainer)
    backbone = [path for path in end if path.startswith("level")]
    assert len(backbone) == 25 and all(np.abs(end[path] - start[path]).max() > 1e-5 for path in backbone)


def test_total_decreases_on_one_batch(graph):
    config, _, step = graph
    batch = random_batch(config)
    results = [step(batch) for _ in range(40)]
    totals = [sum(float(result[name]) for name in TERMS) for result in results]
    assert max(totals[-3:]) < 0.6 * totals[0]


@pytest.mark.slow
def test_jit_compile_gives_the_same_losses(tf_test, config):
    """The network has four convolutions, since XLA compiles slowly, and might refuse only the loss."""
    config = config("training.ema_decay=0.5")
    plain, jitted = (make_trainer(config, network=stand_in_model(config)) for _ in range(2))
    jitted.network.set_weights(plain.network.get_weights())
    step = tf.function(jitted.train_step, jit_compile=True)
    run = tf.function(lambda batch: tf.distribute.get_strategy().run(step, args=(batch,)))
    for number in range(2):
        batch = random_batch(config, seed=number)
        expected, result = plain.train_step(batch), run(batch)
        for name in (*TERMS, "num_arm_positives", "num_odm_positives"):
            tf_test.assertAllClose(result[name], expected[name], rtol=1e-3, atol=0, msg=name)
    for value, expected in zip(jitted.average.values, plain.average.values, strict=True):
        tf_test.assertAllClose(value, expected, rtol=1e-3, atol=1e-5)


def norm(gradients):
    return np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in gradients))


@pytest.mark.parametrize(("largest", "tolerance"), [(1.5, 1e-5), (1e6, 1e-4)])
def test_gradient_clipping_bounds_the_norm(tf_test, config, monkeypatch, largest, tolerance):
    config = config(f"training.gradient_clip_norm={largest}")
    trainer, batch, applied = make_trainer(config), random_batch(config), []
    start = trainer.network.get_weights()
    _, plain = plain_gradients(trainer.network, batch, config)
    trainer.network.set_weights(start)
    monkeypatch.setattr(trainer.optimizer, "update_if", lambda _, gradients, __: applied.extend(gradients))
    trainer.train_step(batch)
    assert norm(plain) > 3
    tf_test.assertAllClose(norm(applied), min(largest, norm(plain)), rtol=1e-5, atol=0)
    for ours, theirs in zip(applied, plain, strict=True):
        expected = theirs * min(1, largest / norm(plain))
        tf_test.assertAllClose(ours, expected, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("poisoned", ["odm_conf3/kernel", "level4/kernel"])
def test_step_that_is_not_finite_changes_nothing(graph, poisoned):
    """A NaN in a head reaches some loss terms; a NaN in the backbone also reaches the moving statistics."""
    config, trainer, step = graph
    batch = random_batch(config)
    step(batch)  # Gives the momentum a value.
    variable = next(v for v in trainer.network.variables if v.path.endswith(poisoned))
    value = variable.numpy()
    value[0, 0, 0, 0] = np.nan
    variable.assign(value)
    before = state_of(trainer)
    result = step(batch)
    assert np.isnan(float(result["odm_conf"]))
    assert result["bad_gradients"].numpy().max() == 1
    if poisoned.startswith("odm"):
        assert np.isfinite(float(result["arm_loc"])) and float(result["arm_loc"]) > 0
    changed = [path for path, v in state_of(trainer).items() if v.tobytes() != before[path].tobytes()]
    assert changed and all("/moving_" in path for path in changed)
    trainer.restore_statistics(result["statistics"])
    assert_same_state(state_of(trainer), before)


@pytest.fixture(scope="module")
def replicas(config_file):
    """What two replicas and one found, in a process that sets up two logical devices before it starts."""
    return compare_replicas(config_file, 2)


def compare_replicas(config_file, num_replicas, *words):
    program = start_program("replicas_program.py", str(config_file), str(num_replicas), *words)
    ((code, out, err),) = finish(program, seconds=900)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenet_v2"])
def test_two_replicas_equal_one(replicas, backbone):
    """VGG-16 has no BatchNorm; MobileNetV2's is synchronised, and its gradients are clipped here.

    The first step differs by 1e-8; ReLU's kinks and BatchNorm of few pixels amplify that from step to
    step, the more the larger the rate. A wrong normalisation would be half of the terms and, where
    nothing is clipped, of the movement.
    """
    assert replicas[backbone]["replicas"] == 2
    assert_equal_training(replicas[backbone], has_batch_norm=backbone == "mobilenet_v2")


def test_every_replica_has_the_same_average(replicas):
    """The average of weights and statistics is that of one replica, and each replica has a copy of it."""
    difference, movement = replicas["mobilenet_v2"]["average"]
    assert movement > 1e-6 and difference <= 2e-5 * movement
    assert replicas["mobilenet_v2"]["copies_of_the_average"] == [[2, 1]]
    assert "average" not in replicas["vgg16"]


def test_two_replicas_with_micro_batches_equal_one(replicas):
    """The single replica has the whole batch at once, as the statistics of BatchNorm are frozen."""
    assert_equal_accumulation(replicas["accumulation, frozen"], "weights", "momentum")


def assert_equal_accumulation(found, *kinds):
    """With moving statistics, the single replica has micro-batches as well."""
    assert found["terms"] <= 1e-6
    for kind in kinds:
        difference, movement = found[kind]
        assert movement > 1e-2, kind
        assert difference <= 1e-6 * max(movement, 1), kind
    assert found["bad"]["bad_replicas"] and found["bad"]["changed"] == []


@pytest.mark.slow
def test_four_replicas_equal_one(config_file):
    found = compare_replicas(config_file, 4, "whole")
    for backbone in ("vgg16", "mobilenet_v2"):
        assert found[backbone]["replicas"] == 4
        assert_equal_training(found[backbone], has_batch_norm=backbone == "mobilenet_v2")
        assert found[backbone]["bad"]["changed"] == []
    for statistics in ("frozen", "moving"):
        kinds = ("weights", "momentum", *(["statistics"] if statistics == "moving" else []))
        assert_equal_accumulation(found[f"accumulation, {statistics}"], *kinds)


def assert_equal_training(found, has_batch_norm):
    assert found["terms"] <= 1e-4
    for kind in ("weights", "momentum", *(["statistics"] if has_batch_norm else [])):
        difference, movement = found[kind]
        assert movement > 1e-6, kind
        # Moving statistics are of the size of the last steps' squared activations, and so is their rounding.
        assert difference <= (2e-5 * movement if kind == "statistics" else min(1e-5, 0.2 * movement)), kind


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenet_v2"])
def test_one_bad_replica_of_two_changes_nothing(replicas, backbone):
    found = replicas[backbone]["bad"]
    assert not all(found["terms_are_finite"])
    assert found["bad_replicas"] == [1 if backbone == "vgg16" else 2]
    assert found["changed"] == []


def test_batch_must_fit_the_replicas(replicas):
    assert "training.batch_size 5 must be a multiple of 2, the 2 replicas" in replicas["odd batch"]
    expected = (
        "training.batch_size 6 must be a multiple of 4, the 2 replicas times training.accumulation_steps 2"
    )
    assert expected in replicas["odd micro-batches"]
    assert "training.jit_compile works with one replica, here are 2" in replicas["jit"]
