"""The authors' solver: SGD with momentum and L2 regularisation inside the gradient."""

import keras
from keras import ops

from refinedet_tf.config import TrainingConfig
from refinedet_tf.training.schedule import MultiStepSchedule

BIAS_RATE = 2.0
"""Learning rate of convolution biases in units of the others'; they take no decay either."""


@keras.saving.register_keras_serializable("refinedet_tf")
class CaffeSGD(keras.optimizers.SGD):
    """v <- momentum * v - rate * (g + l2 * w); w <- w + v, as Caffe's SGDSolver.

    Biases of convolutions: g <- 2 g, l2 = 0. BatchNorm's gamma and beta and the scales of the L2
    normalisation are treated like weights. Keras' own `weight_decay` is decoupled from the gradient:
    not the same thing, about ten times weaker at momentum 0.9.

    An element whose gradient is NaN is left alone, its momentum too: so the training step can hold
    back an update (see `RefineDetTrainer`).
    """

    def __init__(self, learning_rate, momentum=0.9, l2=5e-4, name="caffe_sgd", **kwargs):
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.l2 = l2

    @classmethod
    def from_training(cls, config: TrainingConfig) -> "CaffeSGD":
        """The solver that a config describes."""
        return cls(MultiStepSchedule.from_training(config), config.momentum, config.weight_decay)

    def build(self, variables):
        """Makes the momentum buffers and notes which variables are biases."""
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")
        self._is_bias = [variable.name == "bias" for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable with the gradient summed over all replicas."""
        index = self._get_variable_index(variable)
        gradient = BIAS_RATE * gradient if self._is_bias[index] else gradient + self.l2 * variable
        velocity = self.momentums[index]
        held_back = ops.isnan(gradient)
        updated = self.momentum * velocity - ops.cast(learning_rate, variable.dtype) * gradient
        self.assign_add(variable, ops.where(held_back, 0.0, updated))
        self.assign(velocity, ops.where(held_back, velocity, updated))

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}
