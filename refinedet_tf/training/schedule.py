"""The learning rate of the paper: constant between milestones, after an optional warm-up."""

import keras
from keras import ops

from refinedet_tf.config import TrainingConfig


@keras.saving.register_keras_serializable("refinedet_tf")
class MultiStepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Rate of each step, counted from 0.

    The rate drops *at* a milestone, as Caffe's "multistep" policy has it (Keras'
    `PiecewiseConstantDecay` drops one step later). Warm-up is linear: step k of n has (k + 1) / n of
    the rate.
    """

    def __init__(self, learning_rate, milestones=(), decay_factor=0.1, warmup_steps=0):
        self.learning_rate = learning_rate
        self.milestones = tuple(milestones)
        self.decay_factor = decay_factor
        self.warmup_steps = warmup_steps

    @classmethod
    def from_training(cls, config: TrainingConfig) -> "MultiStepSchedule":
        """The schedule that a config describes."""
        return cls(config.learning_rate, config.milestones, config.decay_factor, config.warmup_steps)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        drops = sum((ops.cast(step >= milestone, "float32") for milestone in self.milestones), 0.0)
        rate = self.learning_rate * ops.power(ops.convert_to_tensor(self.decay_factor, "float32"), drops)
        if self.warmup_steps:
            rate = rate * ops.minimum((step + 1.0) / self.warmup_steps, 1.0)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "milestones": self.milestones,
            "decay_factor": self.decay_factor,
            "warmup_steps": self.warmup_steps,
        }
