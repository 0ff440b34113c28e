"""The learning rate of the paper: constant between milestones, after an optional warm-up."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from refinedet_tf.config import TrainingConfig
from refinedet_tf.tensors import Tensor


@keras.saving.register_keras_serializable("refinedet_tf")
class MultiStepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step; steps count from 0.

    The rate drops at a milestone, as in Caffe's "multistep" policy. (Keras' `PiecewiseConstantDecay`
    drops one step later.) Warm-up is linear: step k of n has (k + 1) / n of the rate.

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
        """Makes the schedule that a config describes."""
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
        if self.warmup_steps:
            rate = rate * ops.minimum((step + 1.0) / self.warmup_steps, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "decay_factor": self.decay_factor,
            "warmup_steps": self.warmup_steps,
        }
