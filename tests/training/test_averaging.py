"""The moving average of the weights, against a NumPy average and over whole runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_files import weights_in
from small_network import make_trainer, random_batch, state_of
from tiers import slow
from training_config import sets

import train
from refinedet_tf.training.averaging import WeightAverage, averaged

DECAY = "training.ema_decay=0.4"


def arrays(variables):
    return [np.array(variable) for variable in variables]


@pytest.mark.parametrize("accumulation", [1, slow(2)])
def test_average_equals_one_by_numpy(tf_test, config, accumulation):
    """Over four steps the decay is 2/11, 3/12, 4/13 and then 0.4 at most: 5/14 is below it, 0.5 above."""
    config = config(DECAY, f"training.accumulation_steps={accumulation}")
    trainer = make_trainer(config)
    expected = [value.astype(np.float64) for value in arrays(trainer.network.variables)]
    for step in range(6):
        trainer.train_step(random_batch(config, seed=step))
        decay = min(0.4, (2 + step) / (11 + step))
        for place, value in enumerate(arrays(trainer.network.variables)):
            expected[place] = decay * expected[place] + (1 - decay) * value
    paths = [variable.path for variable in trainer.network.variables]
    assert any(path.endswith("moving_variance") for path in paths)
    for path, value, right in zip(paths, arrays(trainer.average.values), expected, strict=True):
        tf_test.assertAllClose(value, right, rtol=1e-5, atol=1e-6, msg=path)
    kernel = next(place for place, path in enumerate(paths) if path.endswith("level4/kernel"))
    assert np.abs(expected[kernel] - np.array(trainer.network.variables[kernel])).max() > 1e-4


def test_training_itself_does_not_change(config):
    """The same weights come out bit for bit, with the average and without it."""
    trainers = []
    for overrides in ((), (DECAY,)):
        keras.utils.set_random_seed(0)
        trainers.append(make_trainer(config(*overrides)))
        for step in range(3):
            trainers[-1].train_step(random_batch(trainers[-1].config, seed=step))
    without, with_average = (state_of(trainer) for trainer in trainers)
    assert trainers[0].average is None
    values = [v for path, v in with_average.items() if not path.startswith("average/")]
    assert len(values) == len(without)
    for value, expected in zip(values, without.values(), strict=True):
        assert value.tobytes() == expected.tobytes()


def test_step_that_is_not_finite_keeps_the_average(config):
    config = config(DECAY)
    trainer = make_trainer(config)
    trainer.train_step(random_batch(config))
    before = arrays(trainer.average.values)
    batch = random_batch(config)
    batch["images"] = batch["images"].astype(np.float32)
    batch["images"][0, 0, 0, 0] = np.nan
    result = trainer.train_step(batch)
    assert result["bad_gradients"].numpy().any()
    for value, expected in zip(arrays(trainer.average.values), before, strict=True):
        assert value.tobytes() == expected.tobytes()


def small_average():
    """A network of two weights, 1 and 2, whose average is 5, and a state of a random generator, 7."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    network.set_weights([np.array([[1.0], [2.0]])])
    average = WeightAverage(network, 0.9)
    average.values[0].assign([[5.0], [5.0]])
    return network, average


def test_average_in_place_and_back():
    network, average = small_average()
    with averaged(average):
        assert network.get_weights()[0].tolist() == [[5], [5]]
    assert network.get_weights()[0].tolist() == [[1], [2]]
    with pytest.raises(KeyError), averaged(average):
        raise KeyError
    assert network.get_weights()[0].tolist() == [[1], [2]]
    with averaged(None):
        assert network.get_weights()[0].tolist() == [[1], [2]]
    average.restart()
    assert average.values[0].numpy().tolist() == [[1], [2]]


def test_states_that_are_no_numbers_of_a_mean_are_copied():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5)])
    (state,) = network.variables
    assert "int" in state.dtype
    average = WeightAverage(network, 0.9)
    state.assign([7, 8])
    average.update(tf.constant(1), tf.constant(True))
    assert average.values[0].numpy().tolist() == [7, 8]


@pytest.mark.slow
def test_run_writes_the_averaged_weights(config_file, done, eagerly, tmp_path):
    """Best and final weights are those of the average in the checkpoint, which also holds the weights."""
    arguments = ["--config", config_file, "--output", tmp_path / "run"]
    arguments += sets("training.length=2", "training.ema_decay=0.9")
    done(train, *arguments)
    reader = tf.train.load_checkpoint(str(tmp_path / "run" / "checkpoints" / "step-2" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    averages = {
        reader.get_tensor(name).tobytes() for name in shapes if name.startswith("average/") and shapes[name]
    }
    raw = {reader.get_tensor(name).tobytes() for name in shapes if name.startswith("network/")}
    for name in ("best", "final"):
        written = [v for v in weights_in(tmp_path / "run" / f"{name}.weights.h5").values() if v.shape]
        assert {value.tobytes() for value in written} <= averages
        assert sum(value.tobytes() in raw for value in written) < len(written) / 2
