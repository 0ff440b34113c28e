"""The authors' optimizer: SGD with momentum and L2 regularisation inside the gradient."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from refinedet_tf.config import TrainingConfig
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.schedule import schedule_of

BIAS_RATE = 2.0
"""The learning rate of convolutions' biases in units of that of the other variables."""


@keras.saving.register_keras_serializable("refinedet_tf")
class CaffeSGD(keras.optimizers.SGD):
    """Updates v <- momentum * v - rate * (g + l2 * w) and w <- w + v, as Caffe's SGDSolver does.

    For biases of convolutions the gradient is doubled and l2 is 0. BatchNorm's gamma and beta and the
    scales of the L2 normalisation are treated like weights. Keras' `weight_decay` is another method: it
    is decoupled from the gradient, and about ten times weaker at momentum 0.9.

    TensorFlow has one operation for this arithmetic, which passes over a variable once.

    Args:
        learning_rate: a number or a schedule.
        momentum: the factor of the previous update, at least 0 and below 1.
        l2: the factor of the L2 regularisation.
        name: the optimizer's name.
        kwargs: further arguments of Keras' SGD.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        momentum: float = 0.9,
        l2: float = 5e-4,
        name: str = "caffe_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.l2 = l2

    @classmethod
    def from_training(cls, training_config: TrainingConfig) -> "CaffeSGD":
        """Makes the optimizer that a config describes."""
        return cls(schedule_of(training_config), training_config.momentum, training_config.weight_decay)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the momentum buffers and notes which variables are biases."""
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")
        self._is_bias = [variable.name == "bias" for variable in variables]

    def update_if(
        self, condition: Tensor, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Updates the variables and counts a step, under TensorFlow and any strategy.

        It is called on each replica and updates its copies; no values are exchanged.

        Args:
            condition: bool scalar, equal on all replicas; without it no variable changes.
            gradients: the gradients, summed over all replicas.
            variables: the variables, in the order of the gradients.
        """
        import tensorflow as tf

        rate = tf.cast(self.learning_rate, tf.float32)

        def update() -> None:
            for gradient, variable in zip(gradients, variables, strict=True):
                self.update_step(gradient, variable.value, rate)

        tf.cond(condition, update, lambda: None)
        self.iterations.assign_add(1)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        """Updates one variable with the gradient summed over all replicas."""
        index = self._get_variable_index(variable)
        # For biases, twice the rate is the same as twice the gradient.
        rate = BIAS_RATE * learning_rate if self._is_bias[index] else learning_rate
        gradient = gradient if self._is_bias[index] else gradient + self.l2 * variable
        velocity = self.momentums[index]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=velocity.value.handle,
                lr=rate,
                grad=gradient,
                momentum=self.momentum,
            )
            return
        updated = self.momentum * velocity - ops.cast(rate, variable.dtype) * gradient
        self.assign_add(variable, updated)
        self.assign(velocity, updated)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2}
