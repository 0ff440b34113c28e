"""BatchNorm that averages its moving statistics as the authors' program does."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from refinedet_tf.tensors import Shape, Tensor


@keras.saving.register_keras_serializable("refinedet_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer with Caffe's moving average, which the initial values do not bias.

    A training step whose batch has mean m and variance v over the n values of a channel computes
    weight <- momentum * weight + 1; mean <- mean + (m - mean) / weight;
    variance <- variance + (v * n / (n - 1) - variance) / weight.
    So the first batch replaces the initial values. After many steps the weight is
    1 / (1 - momentum), and this is the usual moving average. Caffe stores the sums weight * mean
    and weight * variance, and the weight as a third blob. The batch itself is normalised with its
    own statistics, as Caffe does when `use_global_stats` is not set.

    In inference TensorFlow joins its kernel with the convolution before it and the ReLU after it to one whose
    ReLU of NaN is 0. In training a layer that is not trainable is computed as Keras does it: without a
    gradient of gamma nothing would tell of the NaN.

    Args:
        frozen: if true, training normalises with the stored statistics, too, and never changes
            them; gamma and beta are trained all the same.
        kwargs: arguments of Keras' layer. With `synchronized`, the statistics are taken over the
            batches of all replicas.
    """

    def __init__(self, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frozen = frozen
        self._in_plain_operations = keras.backend.backend() != "tensorflow"

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.moving_weight = self.add_weight(
            name="moving_weight", shape=(1,), initializer="zeros", trainable=False, autocast=False
        )

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if training and not self.trainable:
            return super().call(inputs, training=False)
        if self._in_plain_operations:
            if training and not self.frozen:
                return self._call_of_keras(inputs)
            return super().call(inputs, training=False)
        from refinedet_tf.refinedet.tensorflow_batch_norm import (
            normalise,
            normalise_with_batch,
            normalise_with_stored,
        )

        features = ops.cast(inputs, "float32")
        gamma = self.gamma if self.scale else ops.ones_like(self.moving_mean)
        beta = self.beta if self.center else ops.zeros_like(self.moving_mean)
        if not training:
            normalised = normalise(
                features, gamma, beta, self.moving_mean, self.moving_variance, self.epsilon
            )
        elif self.frozen:
            normalised = normalise_with_stored(
                features, gamma, beta, self.moving_mean, self.moving_variance, self.epsilon
            )
        else:
            num_replicas = _num_replicas() if self.synchronized else 1
            count = _values_per_channel(features) * num_replicas
            normalised, mean, variance = normalise_with_batch(
                features, gamma, beta, self.epsilon, count, num_replicas
            )
            self._update(mean, variance, count)
        return ops.cast(normalised, self.compute_dtype)

    def _call_of_keras(self, inputs: Tensor) -> Tensor:
        """Normalises with the statistics of the batch in operations that every backend has."""
        features = ops.cast(inputs, "float32")
        mean, variance = ops.moments(features, axes=list(range(len(features.shape) - 1)))
        self._update(mean, variance, _values_per_channel(features))
        normalised = ops.batch_normalization(
            features, mean, variance, axis=-1, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        return ops.cast(normalised, self.compute_dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
        """Moves the moving statistics towards the mean and the biased variance of a batch, float32 [C]."""
        if isinstance(count, int):
            correction = count / max(count - 1, 1)
        else:
            correction = ops.cast(count / ops.maximum(count - 1, 1), "float32")
        function: Callable[..., tuple[Tensor, Tensor, Tensor]] = moved_statistics
        if not self._in_plain_operations:
            from refinedet_tf.refinedet.tensorflow_batch_norm import in_one_call

            function = in_one_call(moved_statistics)
        moving = [self.moving_weight, self.moving_mean, self.moving_variance]
        before = [ops.convert_to_tensor(variable) for variable in moving]
        after = function(*before, mean, variance, correction, self.momentum)
        for variable, value in zip(moving, after, strict=True):
            variable.assign(value)

    def leave_to_compiler(self) -> None:
        """Lets XLA join the operations, which lacks some of those that are fast without it."""
        self._in_plain_operations = True

    @property
    def converged_weight(self) -> np.ndarray:
        """The moving weight after many steps, float32 [1]; it fits statistics of a finished training."""
        return np.array([1.0 / (1.0 - self.momentum)], np.float32)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "frozen": self.frozen}


def batch_normalization(
    name: str, momentum: float, frozen: bool = False, epsilon: float = 1e-5, **kwargs: Any
) -> BatchNormalization:
    """Makes a BatchNorm layer with the authors' epsilon whose statistics cover all replicas' batches.

    That makes the result independent of the number of replicas. (In the authors' program, each
    device uses the statistics of its own images.)

    Args:
        name: the layer's name.
        momentum: the momentum of the moving statistics.
        frozen: as in `BatchNormalization`.
        epsilon: is added to the variance.
        kwargs: further arguments of Keras' layer.
    """
    return BatchNormalization(
        momentum=momentum,
        epsilon=epsilon,
        frozen=frozen,
        # A single replica has nothing to exchange, and other backends refuse the argument.
        synchronized=_num_replicas() > 1,
        name=name,
        **kwargs,
    )


def moved_statistics(
    moving_weight: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
    mean: Tensor,
    variance: Tensor,
    correction: float | Tensor,
    momentum: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the moving statistics after a step, as `BatchNormalization` describes them.

    Args:
        moving_weight: float32 [1].
        moving_mean: float32 [C].
        moving_variance: float32 [C].
        mean: float32 [C], that of the batch.
        variance: float32 [C], that of the batch, biased.
        correction: n / (n - 1), which makes the variance of n values unbiased.
        momentum: how much of the weight stays.

    Returns:
        The new values of `moving_weight`, `moving_mean` and `moving_variance`.
    """
    weight = momentum * moving_weight + 1.0
    return (
        weight,
        moving_mean + (mean - moving_mean) / weight,
        moving_variance + (variance * correction - moving_variance) / weight,
    )


def _values_per_channel(features: Tensor) -> int | Tensor:
    """The number of values that a channel of features [..., C] has; an integer where the shape is known."""
    shape = features.shape[:-1]
    return ops.size(features) // features.shape[-1] if None in shape else math.prod(shape)


def _num_replicas() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
