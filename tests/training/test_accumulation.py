"""Gradient accumulation: a step of several micro-batches against one of the whole batch."""

import numpy as np
import pytest
import tensorflow as tf
from run_files import log_entries
from small_network import assert_same_state, make_trainer, random_batch, state_of
from tiers import slow
from training_config import sets
from trunk_model import trunk_model

import refinedet_tf as rd
import train
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.losses import COUNTS, TERMS, loss_sums
from refinedet_tf.training import trainer as trainer_module
from refinedet_tf.training.trainer import sum_over_micro_batches

OBJECTS = (3, 2, 0, 1, 0, 3, 3, 2)
"""The objects of the eight images of a batch, of which no two micro-batches have equally many."""


@pytest.fixture
def config(config):
    return lambda *overrides: config("training.batch_size=8", "training.warmup=0", *overrides)


def micro_batches(number):
    return f"training.accumulation_steps={number}"


FROZEN = "model.batch_norm_statistics=frozen"


def trainers(configs, network=None):
    """A trainer for each config, all of which start with the same weights."""
    made = [make_trainer(config, network=network and network(config)) for config in configs]
    for trainer in made[1:]:
        trainer.network.set_weights(made[0].network.get_weights())
    return made


def in_graph(trainer, **options):
    return tf.function(trainer.train_step, **options)


def assert_equal_steps(tf_test, made, functions, batches, tolerance=1e-6):
    """Asserts that steps of several trainers give the same losses, weights and momentum.

    The tolerance is relative for the losses, and for variables relative to the largest movement; their
    own rounding adds to it.
    """
    start = state_of(made[0])
    for batch in batches:
        expected, *results = (function(batch) for function in functions)
        for result in results:
            for name in (*TERMS, *COUNTS):
                tf_test.assertAllClose(result[name], expected[name], rtol=tolerance, atol=0, msg=name)
            assert not result["bad_gradients"].numpy().any()
    expected, *states = (state_of(trainer) for trainer in made)
    movement = max(np.abs(expected[path] - start[path]).max() for path in start)
    assert movement > 1e-3
    for state in states:
        for path, value in expected.items():
            tf_test.assertAllClose(state[path], value, rtol=2e-7, atol=tolerance * movement, msg=path)


VGG16 = ("model.backbone=vgg16", "model.tcb_batch_norm=false")


@pytest.mark.parametrize(
    ("overrides", "numbers", "network", "steps"),
    [
        # Both modules' gradients reach the trunk.
        ((FROZEN,), (1, 2, 8), trunk_model, 2),
        ((FROZEN, "training.gradient_clip_norm=1.5"), (1, 4), None, 1),
        ((FROZEN, "loss.background_negatives=30"), (1, 2), None, 1),
        slow((FROZEN,), (1, 4), None, 1),
        slow((FROZEN, "model.design=tiled_anchors"), (1, 2), None, 1),
        slow((FROZEN, "model.design=single_stage"), (1, 2), None, 1),
        slow((FROZEN, "loss.classification=focal"), (1, 2), None, 1),
        slow(VGG16, (1, 2, 8), None, 1),
    ],
)
def test_micro_batches_equal_the_batch(tf_test, config, overrides, numbers, network, steps):
    """In graphs where there are more than two of them."""
    made = trainers([config(*overrides, micro_batches(number)) for number in numbers], network)
    batches = [random_batch(config(), seed, OBJECTS) for seed in range(steps)]
    functions = [in_graph(trainer) if 8 in numbers else trainer.train_step for trainer in made]
    assert_equal_steps(tf_test, made, functions, batches)


@pytest.mark.slow
def test_xla_compiles_the_loop(tf_test, config):
    made = trainers([config(FROZEN, micro_batches(number)) for number in (1, 2)], trunk_model)
    functions = [made[0].train_step, in_graph(made[1], jit_compile=True)]
    batches = [random_batch(config(), 0, OBJECTS)]
    assert_equal_steps(tf_test, made, functions, batches, tolerance=1e-4)


@pytest.mark.slow
def test_bfloat16(bfloat16, tf_test, config):
    """The gradients of micro-batches are rounded to bfloat16 and added in float32."""
    bfloat16 = "training.precision=bfloat16"
    made = trainers([config(FROZEN, bfloat16, micro_batches(number)) for number in (1, 2)])
    assert made[1].network.get_layer("level4").compute_dtype == "bfloat16"
    batches = [random_batch(config(), 0, OBJECTS)]
    assert_equal_steps(tf_test, made, [trainer.train_step for trainer in made], batches, tolerance=0.02)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in state_of(made[1]).values())


def test_without_accumulation_every_bit_is_that_of_the_plain_step(config, monkeypatch):
    """The gradients are those of `refinedet_loss` and one tape, and nothing is accumulated."""
    config = config()
    plain, trainer = trainers([config, config])
    batch = random_batch(config, 0, OBJECTS)
    anchors = rd.tile_anchors(config.model.image_size)
    with tf.GradientTape() as tape:
        terms = rd.refinedet_loss(plain.network(batch["images"], training=True), batch, anchors, config)
        total = tf.add_n([terms[name] for name in TERMS])
    gradients = tape.gradient(total, plain.network.trainable_variables)
    plain.optimizer.apply(gradients, plain.network.trainable_variables)
    monkeypatch.setattr(trainer_module, "sum_over_micro_batches", None)
    result = trainer.train_step(batch)
    for name in (*TERMS, *COUNTS):
        assert result[name].numpy().tobytes() == terms[name].numpy().tobytes(), name
    assert_same_state(state_of(trainer), state_of(plain))


@pytest.mark.slow
def test_moving_statistics_are_those_of_the_micro_batches_in_their_order(tf_test, config):
    """Micro-batch i of n holds the rows i, i + n, ...; its BatchNorm normalises with its own statistics."""
    config = config(micro_batches(2))
    trainer, plain = trainers([config, config], trunk_model)
    batch = random_batch(config, 0, OBJECTS)
    parts = [{name: values[first::2] for name, values in batch.items()} for first in (0, 1)]
    anchors = rd.tile_anchors(config.model.image_size)
    sums, gradients = [], {"arm": [], "odm": []}
    for part in parts:
        with tf.GradientTape(persistent=True) as tape:
            heads = plain.network(part["images"], training=True)
            sums.append(loss_sums(heads, part, anchors, config))
            module_sums = {name: sums[-1][f"{name}_loc"] + sums[-1][f"{name}_conf"] for name in gradients}
        for name, value in module_sums.items():
            # The ARM's loss has no gradient with respect to the ODM's heads, and the reverse.
            found = tape.gradient(value, plain.network.trainable_variables)
            gradients[name].append([0.0 if gradient is None else gradient for gradient in found])
    counts = {name: sum(float(part[f"num_{name}_positives"]) for part in sums) for name in gradients}
    assert counts["arm"] != counts["odm"]
    assert sums[0]["num_arm_positives"] != sums[1]["num_arm_positives"]
    total = [
        sum(arm) / counts["arm"] + sum(odm) / counts["odm"]
        for arm, odm in zip(
            zip(*gradients["arm"], strict=True), zip(*gradients["odm"], strict=True), strict=True
        )
    ]
    plain.optimizer.apply(total, plain.network.trainable_variables)

    result = in_graph(trainer)(batch)
    for name in TERMS:
        value = sum(float(part[name]) for part in sums) / counts[name[:3]]
        tf_test.assertAllClose(result[name], value, rtol=1e-6, atol=0, msg=name)
    state, expected = state_of(trainer), state_of(plain)
    assert expected["trunk_norm/moving_weight"] == pytest.approx(1.9)
    for path, value in expected.items():
        tf_test.assertAllClose(state[path], value, rtol=1e-6, atol=1e-6, msg=path)


@pytest.mark.parametrize("statistics", ["moving", slow("frozen")])
def test_one_bad_micro_batch_changes_nothing(config, statistics):
    config = config(f"model.batch_norm_statistics={statistics}", micro_batches(4))
    trainer = make_trainer(config, network=trunk_model(config))
    step = in_graph(trainer)
    batch = random_batch(config, 0, OBJECTS)
    batch["images"] = batch["images"].astype(np.float32)
    step(batch)  # Gives the momentum a value.
    before = state_of(trainer)
    batch["images"][1] = np.nan
    result = step(batch)
    assert not all(np.isfinite(float(result[name])) for name in TERMS)
    assert result["bad_gradients"].numpy().max() == 1
    trainer.restore_statistics(result["statistics"])
    assert_same_state(state_of(trainer), before)


def test_micro_batches_are_computed_one_after_the_other():
    """Each holds every n-th row, and the graph of a loop calls the function once."""
    batch = {"images": np.arange(6, dtype=np.float32), "labels": np.arange(6, dtype=np.int32)}
    for unrolled, traced in ((False, 1), (True, 3)):
        seen, calls = tf.Variable(tf.zeros([3, 2])), []

        def function(micro_batch, seen=seen, calls=calls):
            calls.append(micro_batch)
            row = micro_batch["labels"][0]
            seen.scatter_nd_update([[row]], [micro_batch["images"]])
            return {"sum": tf.reduce_sum(micro_batch["images"]), "count": [tf.size(micro_batch["labels"])]}

        zeros = {"sum": tf.zeros(()), "count": [tf.zeros((), tf.int32)]}
        sums = tf.function(sum_over_micro_batches, autograph=False)(function, batch, 3, zeros, unrolled)
        assert float(sums["sum"]) == 15 and int(sums["count"][0]) == 6
        assert seen.numpy().tolist() == [[0, 3], [1, 4], [2, 5]]
        assert len(calls) == traced


def test_batch_must_be_a_multiple(config):
    with pytest.raises(InputError, match="batch_size 8 must be a multiple of accumulation_steps 3"):
        config(micro_batches(3))


@pytest.mark.slow
def test_run_has_the_losses_and_the_data_of_a_run_without_accumulation(
    tf_test, config_file, done, eagerly, tmp_path
):
    """The run with accumulation is resumed after its first step."""
    whole, accumulated = tmp_path / "whole", tmp_path / "accumulated"
    arguments = ["--config", config_file]
    arguments += sets(FROZEN, "data.validation=[]", "training.learning_rate=1e-4")
    for folder, number, steps in ((whole, 1, 2), (accumulated, 2, 1), (accumulated, 2, 2)):
        settings = ("--set", micro_batches(number), "--set", f"training.length={steps}")
        done(train, *arguments, *settings, "--resume", "--output", folder)
    entries = [log_entries(folder) for folder in (whole, accumulated)]
    assert [[entry["step"] for entry in run] for run in entries] == [[1, 2], [1, 2]]
    for expected, entry in zip(*entries, strict=True):
        assert expected.keys() == entry.keys()
        for name in (*TERMS, *COUNTS, "loss", "learning_rate"):
            tf_test.assertAllClose(entry[name], expected[name], rtol=1e-5, atol=0, msg=name)
