"""The learning rate of each step, and the length of a training."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from refinedet_tf.config import MAX_STEPS, TrainingConfig, epochs_of, steps_of
from refinedet_tf.config.values import Duration
from refinedet_tf.errors import InputError, shortened
from refinedet_tf.tensors import Tensor


@keras.saving.register_keras_serializable("refinedet_tf")
class MultiStepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the paper: constant between milestones, after an optional warm-up.

    Steps count from 0. The rate drops at a milestone, as in Caffe's "multistep" policy. (Keras'
    `PiecewiseConstantDecay` drops one step later.) Warm-up is linear: step k of n has (k + 1) / n of the
    rate.

    Args:
        learning_rate: the rate before the first milestone.
        milestones: the steps at which the rate is multiplied by `decay_factor`.
        decay_factor: the factor of each drop.
        warmup_steps: the number of steps of warm-up; 0 means none.
    """

    def __init__(
        self,
        learning_rate: float,
        milestones: Sequence[int] = (),
        decay_factor: float = 0.1,
        warmup_steps: int = 0,
    ) -> None:
        self.learning_rate = learning_rate
        self.milestones = tuple(milestones)
        self.decay_factor = decay_factor
        self.warmup_steps = warmup_steps

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the learning rate of a step as a float32 scalar."""
        step = ops.cast(step, "float32")
        drops = sum((ops.cast(step >= milestone, "float32") for milestone in self.milestones), 0.0)
        rate = self.learning_rate * ops.power(ops.convert_to_tensor(self.decay_factor, "float32"), drops)
        return _warmed_up(rate, step, self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


@keras.saving.register_keras_serializable("refinedet_tf")
class CosineSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that falls to 0 along half a period of the cosine, after an optional warm-up.

    With w steps of warm-up out of n, step k has (k + 1) / w of the rate while k < w, and afterwards
    (1 + cos(pi (k - w) / (n - w))) / 2 of it. Steps count from 0.

    Source: Loshchilov and Hutter, SGDR (ICLR 2017), equation 5, without restarts.

    Args:
        learning_rate: the largest rate.
        steps: the number of steps of the training.
        warmup_steps: the number of steps of warm-up; 0 means none.
    """

    def __init__(self, learning_rate: float, steps: int, warmup_steps: int = 0) -> None:
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the learning rate of a step as a float32 scalar."""
        step = ops.cast(step, "float32")
        share = ops.clip((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 0.0, 1.0)
        rate = self.learning_rate * 0.5 * (1.0 + ops.cos(math.pi * share))
        return _warmed_up(rate, step, self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


def _warmed_up(rate: Tensor, step: Tensor, warmup_steps: int) -> Tensor:
    """Returns the rate of a step after a linear warm-up; 0 warm-up steps change nothing."""
    if not warmup_steps:
        return rate
    return rate * ops.minimum((step + 1.0) / warmup_steps, 1.0)


def schedule_of(training_config: TrainingConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes the schedule that a config describes.

    Raises:
        ValueError: a duration is in epochs, so that its steps are not known yet (`in_steps`).
    """
    rate, warmup_steps = training_config.learning_rate, training_config.warmup_steps
    if training_config.schedule == "cosine":
        return CosineSchedule(rate, training_config.steps, warmup_steps)
    milestones = [steps_of(milestone) for milestone in training_config.milestones]
    return MultiStepSchedule(rate, milestones, training_config.decay_factor, warmup_steps)


def in_steps(training_config: TrainingConfig, num_images: int) -> TrainingConfig:
    """Replaces durations in epochs by those in steps.

    Args:
        training_config: the config.
        num_images: the number of training images, at least 1.

    Returns:
        The config with all durations in steps, each rounded up.

    Raises:
        InputError: a number of steps exceeds `MAX_STEPS`, or the milestones do not increase in steps.
    """

    def steps(key: str, duration: Duration) -> int:
        epochs = epochs_of(duration)
        if epochs is None:
            return steps_of(duration)
        # `epochs` is exact: a binary fraction would turn 0.1 epochs of 80 images into one step too many.
        count = math.ceil(epochs * num_images / training_config.batch_size)
        if count > MAX_STEPS:
            raise InputError(
                f"training.{key}: {duration} with {num_images} images are {count} steps; {MAX_STEPS} is the "
                "largest number"
            )
        return count

    changes: dict[str, Any] = {
        key: steps(key, getattr(training_config, key))
        for key in ("length", "warmup", "checkpoint_every", "validate_every")
    }
    milestones = [steps("milestones", milestone) for milestone in training_config.milestones]
    if milestones != sorted(set(milestones)):
        raise InputError(
            f"training.milestones {shortened(list(training_config.milestones))} with {num_images} images are "
            f"the steps {shortened(milestones)}, which must increase"
        )
    return dataclasses.replace(training_config, **changes, milestones=tuple(milestones))


def check_schedule(training_config: TrainingConfig, written: TrainingConfig | None = None) -> None:
    """Checks that the warm-up and the milestones lie within the training.

    Args:
        training_config: the config, whose durations must be in steps (`in_steps`).
        written: the config as the user has written it, whose units a message uses; None: the same.

    Raises:
        InputError: the warm-up takes more than all steps, or a milestone is not below the number of steps.
    """
    written = written or training_config
    steps, warmup_steps = training_config.steps, training_config.warmup_steps
    if warmup_steps > steps:
        epochs = epochs_of(written.warmup)
        given, usual = f"training.warmup {warmup_steps}", f"training.warmup={steps // 10}"
        if epochs is not None:
            given = f"training.warmup {written.warmup}, which is {warmup_steps} steps,"
            usual = f'training.warmup="{float(epochs * steps / warmup_steps / 10):.2g} epochs"'
        raise InputError(
            f"{given} exceeds the {steps} steps of the training, which would never reach its learning rate; "
            f"a tenth of the steps is usual: {usual}"
        )
    if training_config.schedule == "cosine":
        return
    milestones = [steps_of(milestone) for milestone in training_config.milestones]
    for milestone, as_written in zip(milestones, written.milestones, strict=True):
        if milestone < steps:
            continue
        epochs = epochs_of(as_written)
        given = f"training.milestones: {milestone}"
        usual = f"{sorted({max(steps * 7 // 10, 1), max(steps * 9 // 10, 1)})}"
        if epochs is not None:
            given = f"training.milestones: {as_written}, which is step {milestone},"
            epochs_of_length = float(epochs * steps / milestone)
            usual = json.dumps([f"{share * epochs_of_length:.2g} epochs" for share in (0.7, 0.9)])
        raise InputError(
            f"{given} is not below the {steps} steps of the training, so the learning rate would not drop "
            f"there; give milestones within it, e.g. training.milestones={usual}"
        )
