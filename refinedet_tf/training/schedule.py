"""The learning rate of each step, and the length of a training."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import keras
from keras import ops

from refinedet_tf.config import IN_EPOCHS, MAX_STEPS, TrainingConfig
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

    @classmethod
    def from_training(cls, training_config: TrainingConfig) -> "MultiStepSchedule":
        """Makes the schedule that a config with `schedule` "steps" describes."""
        return cls(
            training_config.learning_rate,
            training_config.milestones,
            training_config.decay_factor,
            training_config.warmup_steps,
        )

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the learning rate of a step as a float32 scalar."""
        step = ops.cast(step, "float32")
        drops = sum((ops.cast(step >= milestone, "float32") for milestone in self.milestones), 0.0)
        rate = self.learning_rate * ops.power(ops.convert_to_tensor(self.decay_factor, "float32"), drops)
        return _warmed_up(rate, step, self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "decay_factor": self.decay_factor,
            "warmup_steps": self.warmup_steps,
        }


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
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }


def _warmed_up(rate: Tensor, step: Tensor, warmup_steps: int) -> Tensor:
    """Returns the rate of a step after a linear warm-up; 0 warm-up steps change nothing."""
    if not warmup_steps:
        return rate
    return rate * ops.minimum((step + 1.0) / warmup_steps, 1.0)


def schedule_of(training_config: TrainingConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes the schedule that a config describes.

    Raises:
        ValueError: a key is given in epochs, so that the steps are not known yet (`in_steps`).
    """
    if any(getattr(training_config, key) is not None for key in IN_EPOCHS.values()):
        raise ValueError(f"{', '.join(IN_EPOCHS.values())} must be null here: see `in_steps`")
    if training_config.schedule == "cosine":
        return CosineSchedule(
            training_config.learning_rate, training_config.steps, training_config.warmup_steps
        )
    return MultiStepSchedule.from_training(training_config)


def in_steps(training_config: TrainingConfig, num_images: int) -> TrainingConfig:
    """Replaces the keys in epochs by those in steps.

    Args:
        training_config: the config.
        num_images: the number of training images, at least 1.

    Returns:
        The config with the numbers of steps, each rounded up, and null for the keys in epochs.

    Raises:
        InputError: a number of steps exceeds `MAX_STEPS`, or two milestones fall on one step.
    """
    changes: dict[str, Any] = {}
    for key, epochs_key in IN_EPOCHS.items():
        epochs = getattr(training_config, epochs_key)
        if epochs is None:
            continue
        # Binary fractions would turn 0.1 epochs of 80 images into one step too many.
        epochs_each = [Fraction(str(value)) for value in (epochs if isinstance(epochs, tuple) else (epochs,))]
        steps = [math.ceil(value * num_images / training_config.batch_size) for value in epochs_each]
        if max(steps, default=0) > MAX_STEPS:
            raise InputError(
                f"training.{epochs_key} with {num_images} images are {max(steps)} steps; {MAX_STEPS} is the "
                "largest number"
            )
        if len(set(steps)) < len(steps):
            raise InputError(
                f"training.{epochs_key} {shortened(list(epochs))} with {num_images} images are the steps "
                f"{shortened(steps)}, which must increase"
            )
        changes |= {key: tuple(steps) if isinstance(epochs, tuple) else steps[0], epochs_key: None}
    return dataclasses.replace(training_config, **changes)


def check_schedule(training_config: TrainingConfig, written: TrainingConfig | None = None) -> None:
    """Checks that the warm-up and the milestones lie within the training.

    Args:
        training_config: the config, whose keys in epochs must be null (`in_steps`).
        written: the config as the user has written it, whose units a message uses; None: the same.

    Raises:
        InputError: the warm-up takes more than all steps, or a milestone is not below the number of steps.
    """
    steps, warmup_steps = training_config.steps, training_config.warmup_steps
    if warmup_steps > steps:
        epochs = None if written is None else written.warmup_epochs
        given, usual = f"training.warmup_steps {warmup_steps}", f"training.warmup_steps={steps // 10}"
        if epochs is not None:
            given = f"training.warmup_epochs {epochs:g}, which is {warmup_steps} steps,"
            usual = f"training.warmup_epochs={epochs * steps / warmup_steps / 10:.2g}"
        raise InputError(
            f"{given} exceeds the {steps} steps of the training, which would never reach its learning rate; "
            f"a tenth of the steps is usual: {usual}"
        )
    if training_config.schedule == "cosine":
        return
    beyond = [milestone for milestone in training_config.milestones if milestone >= steps]
    if beyond:
        given = f"training.milestones: {beyond[0]}"
        usual = f"training.milestones={sorted({max(steps * 7 // 10, 1), max(steps * 9 // 10, 1)})}"
        milestone_epochs = None if written is None else written.milestone_epochs
        if milestone_epochs is not None:
            epochs = milestone_epochs[training_config.milestones.index(beyond[0])]
            given = f"training.milestone_epochs: {epochs:g}, which is step {beyond[0]},"
            usual_epochs = (f"{share * steps * epochs / beyond[0]:.2g}" for share in (0.7, 0.9))
            usual = f"training.milestone_epochs=[{', '.join(usual_epochs)}]"
        raise InputError(
            f"{given} is not below the {steps} steps of the training, so the learning rate would not drop "
            f"there; give milestones within it, e.g. {usual}"
        )
