"""BatchNorm whose moving statistics are kept as the authors' program keeps them."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("refinedet_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer with Caffe's average of the statistics, which a start from nothing does not bias.

    Of one training step with the batch's mean m and variance v over n values of a channel:
    weight <- momentum * weight + 1; mean <- mean + (m - mean) / weight;
    variance <- variance + (v * n / (n - 1) - variance) / weight.
    So the first batch replaces the initial values, and after many steps this is the usual moving
    average, the weight being 1 / (1 - momentum). Caffe stores the sums weight * mean and
    weight * variance, and the weight as third blob. The batch itself is normalised with its own
    statistics, as Caffe does where `use_global_stats` is not set.

    Args:
        frozen: training normalises with the stored statistics too, and never changes them; gamma
            and beta are trained.
        synchronized: the statistics are those of the batches of all replicas.
    """

    def __init__(self, frozen=False, **kwargs):
        super().__init__(**kwargs)
        self.frozen = frozen

    def build(self, input_shape):
        super().build(input_shape)
        self.moving_weight = self.add_weight(
            name="moving_weight", shape=(1,), initializer="zeros", trainable=False, autocast=False
        )

    def call(self, inputs, training=None, mask=None):
        if not training or self.frozen or not self.trainable:
            return super().call(inputs, training=False)
        features = ops.cast(inputs, "float32")
        axes = list(range(len(features.shape) - 1))
        mean, variance = ops.moments(features, axes=axes, synchronized=self.synchronized)
        self._update(mean, variance, count=ops.size(features) / features.shape[-1])
        normalised = ops.batch_normalization(
            features, mean, variance, axis=-1, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        return ops.cast(normalised, self.compute_dtype)

    def _update(self, mean, variance, count):
        count = ops.cast(count, "float32")
        if self.synchronized:
            count = count * _num_replicas()
        unbiased = variance * (count / ops.maximum(count - 1.0, 1.0))
        weight = self.momentum * self.moving_weight + 1.0
        self.moving_weight.assign(weight)
        self.moving_mean.assign(self.moving_mean + (mean - self.moving_mean) / weight)
        self.moving_variance.assign(self.moving_variance + (unbiased - self.moving_variance) / weight)

    @property
    def converged_weight(self):
        """float32 [1]: the moving weight after many steps, for statistics from a finished training."""
        return np.array([1.0 / (1.0 - self.momentum)], np.float32)

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen}


def batch_normalization(name, momentum, frozen=False, epsilon=1e-5, **kwargs):
    """BatchNorm with the authors' epsilon, its statistics taken over the batches of all replicas.

    Only so does the result not depend on the number of replicas. (The authors' program uses the
    statistics of each device alone.)
    """
    return BatchNormalization(
        momentum=momentum,
        epsilon=epsilon,
        frozen=frozen,
        # With one replica there is nothing to exchange; other backends refuse the argument.
        synchronized=_num_replicas() > 1,
        name=name,
        **kwargs,
    )


def _num_replicas():
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
