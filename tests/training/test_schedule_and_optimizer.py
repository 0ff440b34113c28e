import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_arrays import GOLDEN_FOLDER

from refinedet_tf.config import TrainingConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.refinedet.layers import L2Normalize
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.schedule import MultiStepSchedule, schedule_of

GOLDEN = np.load(GOLDEN_FOLDER / "sgd.npz")
STEPS = "after each of 12 steps, two drops of the rate"


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (
            schedule_of(load_config("voc320.json").training),
            {0: 1e-3, 79_999: 1e-3, 80_000: 1e-4, 99_999: 1e-4, 100_000: 1e-5, 119_999: 1e-5},
        ),
        (MultiStepSchedule(5e-5, (80, 120), decay_factor=0.2), {79: 5e-5, 80: 1e-5, 119: 1e-5, 120: 2e-6}),
        (MultiStepSchedule(0.5), {0: 0.5, 10**6: 0.5}),
        (
            MultiStepSchedule(0.1, (6,), warmup_steps=4),
            {0: 0.025, 1: 0.05, 2: 0.075, 3: 0.1, 4: 0.1, 5: 0.1, 6: 0.01},
        ),
    ],
)
def test_rates(tf_test, schedule, rates):
    found = [float(schedule(step)) for step in rates]
    tf_test.assertAllClose(found, list(rates.values()), rtol=1e-5, atol=0)


def test_schedule_accepts_tensors_and_survives_its_config(tf_test):
    schedule = MultiStepSchedule(0.1, (6, 9), 0.5, 3)
    compiled = tf.function(lambda step: schedule(step))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for step in range(11):
        expected = schedule(step)
        tf_test.assertAllClose(compiled(tf.constant(step, tf.int64)), expected, rtol=1e-6, atol=0)
        tf_test.assertAllEqual(copy(step), expected)


def golden_network():
    """L2 normalisation, a 3x3 convolution with ReLU, and a 1x1 one, with the authors' initial variables."""
    images = keras.Input((8, 8, 3))
    normalize = L2Normalize(1.0, name="n1")
    first = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="c1")
    second = keras.layers.Conv2D(4, 1, name="c2")
    model = keras.Model(images, second(first(normalize(images))))
    variables = {
        "n1/0": normalize.scale,
        "c1/0": first.kernel,
        "c1/1": first.bias,
        "c2/0": second.kernel,
        "c2/1": second.bias,
    }
    for name, variable in variables.items():
        variable.assign(keras_layout(GOLDEN[f"init/{name}"]))
    return model, variables


def keras_layout(array):
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def channels_last(array):
    return array.transpose(0, 2, 3, 1)


def test_twelve_steps_of_the_authors_solver(compare):
    model, variables = golden_network()
    optimizer = CaffeSGD.from_training(
        TrainingConfig(length=12, learning_rate=1e-3, milestones=(6, 9), weight_decay=0.05)
    )
    optimizer.build(model.trainable_variables)
    data, target = channels_last(GOLDEN["data"]), channels_last(GOLDEN["target"])
    for step in range(12):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(data) - target)) / (2 * len(data))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        compare("loss", STEPS, loss, GOLDEN["loss"][step], 1e-5, relative_to="each")
        for name, variable in variables.items():
            expected = keras_layout(GOLDEN[f"iter{step + 1}/{name}"])
            compare("every variable", STEPS, variable, expected, 1e-6, relative_to="largest")


def variable(value, name):
    return keras.Variable(np.asarray(value, np.float32), name=name)


def keras_formula(state, gradient, rate, momentum, l2):
    """One update of (value, velocity) in single float32 operations of NumPy."""
    value, velocity = state
    velocity = momentum * velocity - rate * (gradient + l2 * value)
    return value + velocity, velocity


@pytest.mark.parametrize("name", ["kernel", "scale", "gamma", "beta", "bias"])
def test_update_is_the_formula_bit_for_bit(name):
    generator = np.random.default_rng(0)
    state = generator.normal(size=1000).astype(np.float32), np.zeros(1000, np.float32)
    weight = variable(state[0], name)
    optimizer = CaffeSGD(0.03, momentum=0.9, l2=5e-4)
    optimizer.build([weight])
    for _ in range(3):
        gradient = generator.normal(size=1000).astype(np.float32)
        optimizer.update_if(tf.constant(True), [tf.constant(gradient)], [weight])
        rate, momentum, l2 = np.float32(0.03), np.float32(0.9), np.float32(5e-4)
        if name == "bias":
            gradient, l2 = 2 * gradient, np.float32(0)
        state = keras_formula(state, gradient, rate, momentum, l2)
        for found, expected in zip((weight, optimizer.momentums[0]), state, strict=True):
            assert np.array(found).tobytes() == expected.tobytes()


@pytest.mark.parametrize("wrap", [lambda function: function, tf.function], ids=["eager", "graph"])
def test_update_on_a_condition(tf_test, wrap):
    weights = [variable([1.0, 1.0], "kernel"), variable([1.0], "bias")]
    optimizer = CaffeSGD(0.1, momentum=0.5, l2=0.0)
    optimizer.build(weights)
    step = wrap(lambda condition, *gradients: optimizer.update_if(condition, gradients, weights))
    step(tf.constant(True), tf.constant([1.0, 1.0]), tf.constant([1.0]))
    before = [np.array(value) for value in (*weights, *optimizer.momentums)]
    assert all(value.all() for value in before)
    step(tf.constant(False), tf.constant([np.nan, 1.0]), tf.constant([1.0]))
    for value, expected in zip((*weights, *optimizer.momentums), before, strict=True):
        tf_test.assertAllEqual(value, expected)
    assert int(optimizer.iterations) == 2


def test_optimizer_survives_its_config():
    optimizer = CaffeSGD.from_training(TrainingConfig(momentum=0.8, weight_decay=1e-3))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(copy, CaffeSGD)
    assert (copy.l2, copy.momentum) == (1e-3, 0.8)
    assert copy.get_config() == optimizer.get_config()
