"""BatchNorm of TensorFlow with few passes over the features, forward and backward.

Keras computes it in about ten operations, each of which reads and writes all features. Here the kernel of the
inference form, which is one pass, computes everything that is elementwise, and the sums take the rest.

The sums of the kernel's training form are of float32, and they depend on the way in which replicas divide a
batch. Those here do not, except for rounding far below that of float32: short sums of float32 are added up in
float64. As in the gradients of convolutions, the last digits may depend on the number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from refinedet_tf.tensors import Tensor


def normalise(
    features: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tf.Tensor:
    """Returns scale * (features - mean) / sqrt(variance + epsilon) + offset, in one pass.

    Args:
        features: float32 [B, H, W, C].
        scale: float32 [C].
        offset: float32 [C].
        mean: float32 [C].
        variance: float32 [C].
        epsilon: is added to the variance.
    """
    return tf.raw_ops.FusedBatchNormV3(
        x=features,
        scale=tf.convert_to_tensor(scale),
        offset=tf.convert_to_tensor(offset),
        mean=tf.convert_to_tensor(mean),
        variance=tf.convert_to_tensor(variance),
        epsilon=epsilon,
        is_training=False,
    ).y


def normalise_with_batch(
    features: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, count: int | Tensor, num_replicas: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises with the mean and variance of the batches of all replicas (Ioffe and Szegedy, ICML 2015).

    The variance is the mean of the squares less the square of the mean. Its rounding errors are about 1e-8 of
    the mean of the squares, so that it is meant for channels whose mean is not thousands of times their
    standard deviation.

    Args:
        features: float32 [B, H, W, C].
        gamma: float32 [C].
        beta: float32 [C].
        epsilon: is added to the variance.
        count: the number of values of a channel in the batches of all replicas.
        num_replicas: the number of replicas, which have equally many images.

    Returns:
        The normalised features, float32 [B, H, W, C], with a gradient with respect to `features`, `gamma` and
        `beta`, and mean and variance (biased), both float32 [C], without a gradient. The gradient of the
        features is that of the losses of all replicas.
    """
    gamma, beta = tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)
    count = tf.cast(count, tf.float64)
    if num_replicas > 1:
        return _with_batch(features, gamma, beta, count, epsilon, num_replicas)
    outputs, mean, variance = _traced_once(epsilon)(features, gamma, beta, count)
    outputs.set_shape(features.shape)
    return outputs, mean, variance


@functools.cache
def _traced_once(epsilon: float) -> tf.types.experimental.PolymorphicFunction:
    """Makes `_with_batch` of one replica a function of TensorFlow, for features of any shape.

    The graph of a training step then has a call for each layer, and another one for its gradient, instead of
    ten times as many operations, whose tracing takes seconds. TensorFlow replaces the calls by the operations
    before it optimizes the graph.
    """
    channels = tf.TensorSpec([None])
    signature = [tf.TensorSpec([None] * 4), channels, channels, tf.TensorSpec([], tf.float64)]
    function = functools.partial(_with_batch, epsilon=epsilon)
    return tf.function(function, input_signature=signature, autograph=False)


@functools.cache
def in_one_call(moved_statistics: Callable[..., Any]) -> tf.types.experimental.PolymorphicFunction:
    """Makes `moved_statistics` a function of TensorFlow, for the reason that `_traced_once` gives."""
    channels, scalar = tf.TensorSpec([None]), tf.TensorSpec([])
    signature = [tf.TensorSpec([1]), *[channels] * 4, scalar, scalar]
    return tf.function(moved_statistics, input_signature=signature, autograph=False)


def _with_batch(
    features: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    count: tf.Tensor,
    epsilon: float,
    num_replicas: int = 1,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes `normalise_with_batch`."""

    @tf.custom_gradient
    def with_gradient(features: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        norms = tf.math.reduce_euclidean_norm(features, axis=2)
        rows = tf.stack([tf.reduce_sum(features, axis=2), tf.square(norms)])
        sums = _over_replicas(tf.reduce_sum(tf.cast(rows, tf.float64), axis=[1, 2]), num_replicas)
        wide_mean, squares = tf.unstack(sums / count)
        wide_variance = tf.maximum(squares - tf.square(wide_mean), 0.0)
        mean, variance = (tf.cast(value, tf.float32) for value in (wide_mean, wide_variance))
        outputs = normalise(features, gamma, beta, mean, variance, epsilon)

        def gradient(of_outputs: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            of_gamma, of_beta = _gamma_and_beta(of_outputs, features, wide_mean, wide_variance, epsilon)
            if num_replicas == 1 and not tf.config.list_logical_devices("GPU"):
                of_features = _of_features(of_outputs, features, gamma, mean, variance, epsilon)
                return of_features, tf.cast(of_gamma, tf.float32), tf.cast(of_beta, tf.float32)
            # The loss of every replica depends on the statistics, and so on the features of each.
            all_gamma, all_beta = tf.unstack(_over_replicas(tf.stack([of_gamma, of_beta]), num_replicas))
            zeros = tf.zeros_like(gamma)
            of_features = normalise(of_outputs, gamma, zeros, zeros, variance, epsilon) + normalise(
                features,
                *_per_value(gamma, all_gamma, all_beta, wide_variance, epsilon, count),
                mean,
                variance,
                epsilon,
            )
            return of_features, tf.cast(of_gamma, tf.float32), tf.cast(of_beta, tf.float32)

        # With more than one result, TensorFlow does not join the kernel with a ReLU, which would make NaN 0.
        return (outputs, mean, variance), gradient

    return with_gradient(features, gamma, beta)


def normalise_with_stored(
    features: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tf.Tensor:
    """Normalises with statistics that do not depend on the batch.

    Args:
        features: float32 [B, H, W, C].
        gamma: float32 [C].
        beta: float32 [C].
        mean: float32 [C].
        variance: float32 [C].
        epsilon: is added to the variance.

    Returns:
        float32 [B, H, W, C], with a gradient with respect to `features`, `gamma` and `beta`.
    """

    @tf.custom_gradient
    def with_gradient(features: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        outputs = normalise(features, gamma, beta, mean, variance, epsilon)

        def gradient(of_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            wide_mean, wide_variance = tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)
            of_gamma, of_beta = _gamma_and_beta(of_outputs, features, wide_mean, wide_variance, epsilon)
            zeros = tf.zeros_like(gamma)
            of_features = normalise(of_outputs, gamma, zeros, zeros, variance, epsilon)
            return of_features, tf.cast(of_gamma, tf.float32), tf.cast(of_beta, tf.float32)

        return outputs, gradient

    mean, variance = tf.convert_to_tensor(mean), tf.convert_to_tensor(variance)
    return with_gradient(*map(tf.convert_to_tensor, (features, gamma, beta)))


def _of_features(
    of_outputs: tf.Tensor,
    features: tf.Tensor,
    gamma: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Returns the gradient of the features where one replica has the whole batch, in one pass.

    The sums that the kernel takes for it are means over the batch there, so that their last digits matter
    little. The kernel of a GPU wants another quantity in place of the variance.
    """
    return tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=of_outputs,
        x=features,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=variance,
        epsilon=epsilon,
    ).x_backprop


def _gamma_and_beta(
    of_outputs: tf.Tensor, features: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of gamma and beta, float64 [C], for the images of this replica."""
    of_beta = _sum_of_rows(tf.reduce_sum(of_outputs, axis=2))
    products = _sum_of_products(of_outputs, features)
    return (products - mean * of_beta) * tf.math.rsqrt(variance + epsilon), of_beta


def _per_value(
    gamma: tf.Tensor,
    of_gamma: tf.Tensor,
    of_beta: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
    count: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and offset, float32 [C], of the part of the gradient that passes the statistics."""
    factor = -tf.cast(gamma, tf.float64) * tf.math.rsqrt(variance + epsilon) / count
    return tf.cast(factor * of_gamma, tf.float32), tf.cast(factor * of_beta, tf.float32)


def _sum_of_rows(rows: tf.Tensor) -> tf.Tensor:
    """Adds up the sums of the rows of images, float32 [B, H, C], to float64 [C]."""
    return tf.reduce_sum(tf.cast(rows, tf.float64), axis=[0, 1])


def _sum_of_products(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Adds up first * second, float32 [B, H, W, C], to float64 [C], without an array of the products.

    It is the gradient of a depthwise filter of 1x1: each column of the images is a channel of its own, and
    the sums of the columns are added up in float64. On a GPU, that kernel adds in a random order.
    """
    if tf.config.list_logical_devices("GPU"):
        return _sum_of_rows(tf.reduce_sum(first * second, axis=2))
    width, channels = second.shape[2:]
    if None in (width, channels):
        width, channels = tf.unstack(tf.shape(second)[2:])
    columns = [1, -1, 1, width * channels]
    sums = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=tf.reshape(second, columns),
        filter_sizes=[1, 1, width * channels, 1],
        out_backprop=tf.reshape(first, columns),
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    return tf.reduce_sum(tf.cast(tf.reshape(sums, [width, channels]), tf.float64), axis=0)


def _over_replicas(values: tf.Tensor, num_replicas: int) -> tf.Tensor:
    """Adds up the values of all replicas."""
    if num_replicas == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
