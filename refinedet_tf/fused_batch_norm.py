"""BatchNorm in TensorFlow's fused kernels, each of which passes over the features once or twice.

The same in single operations (mean, squared difference, product and so on) takes about ten passes forward
and more backward, which is half the time of a training step of MobileNetV2. On a CPU the kernels add in an
order that depends on the number of threads, as those of the gradients of convolutions do. It is the same in
each run.

Features are float32 or bfloat16 [B, H, W, C] and keep their type; everything else is float32 [C].
"""

import tensorflow as tf
from tensorflow.python.framework import config as framework_config

from refinedet_tf.tensors import Tensor


def given_statistics_have_gradients() -> bool:
    """Says whether the kernel has gradients where it does not compute the statistics itself.

    On a GPU it has none if TensorFlow must be deterministic, and then raises an error.
    """
    # TensorFlow has no public way to read what `tf.config.experimental.enable_op_determinism` has set.
    deterministic = framework_config.is_op_determinism_enabled()
    return not (deterministic and tf.config.list_logical_devices("GPU"))


def normalize_with_stored(
    features: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> Tensor:
    """Returns (features - mean) / sqrt(variance + epsilon) * gamma + beta.

    There are gradients of features, gamma and beta; mean and variance are constants.
    """
    return tf.raw_ops.FusedBatchNormV3(
        x=features,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def normalize_batch(
    features: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises with the statistics of the features themselves.

    Returns:
        The normalised features, their mean, and their unbiased variance, the squared deviations divided by
        the number of values less 1 (by 1 if there is one value).
    """
    nothing = tf.zeros([0])
    found = tf.raw_ops.FusedBatchNormV3(
        x=features, scale=gamma, offset=beta, mean=nothing, variance=nothing, epsilon=epsilon
    )
    return found.y, found.batch_mean, found.batch_variance


def normalize_batch_of_replicas(
    features: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Does what `normalize_batch` does with the statistics of all replicas, each of which has as many images.

    It must be called in a replica's context.
    """
    replica = tf.distribute.get_replica_context()

    def mean_over_replicas(*values: Tensor) -> list[Tensor]:
        """Returns the means of vectors [C] over all replicas, which exchange them at once."""
        total = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(values))
        return tf.unstack(total / replica.num_replicas_in_sync)

    wide = tf.cast(features, tf.float32)
    mean, squared_mean = mean_over_replicas(
        tf.reduce_mean(wide, [0, 1, 2]), tf.reduce_mean(tf.square(wide), [0, 1, 2])
    )
    variance = tf.maximum(squared_mean - tf.square(mean), 0.0)
    local_count = tf.cast(tf.size(features) // features.shape[-1], tf.float32)

    @tf.custom_gradient
    def normalize(features: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, object]:
        constants = {"mean": mean, "variance": variance, "epsilon": epsilon, "is_training": False}
        found = tf.raw_ops.FusedBatchNormV3(x=features, scale=gamma, offset=beta, **constants)

        def gradients(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # With constant statistics, the gradients of beta and gamma are the sums of u and u * n, where u
            # is the upstream gradient and n are the normalised features. From them follows the gradient with
            # the statistics of the batch, gamma / sqrt(variance + epsilon) * (u - mean(u) - n * mean(u * n)).
            local = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=features,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=found.reserve_space_3,
                epsilon=epsilon,
                is_training=False,
            )
            of_gamma, of_beta = local.scale_backprop, local.offset_backprop
            mean_upstream, mean_product = mean_over_replicas(of_beta / local_count, of_gamma / local_count)
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = gamma * inverse * inverse * mean_product
            shift = gamma * inverse * mean_upstream - slope * mean
            of_features = local.x_backprop - tf.cast(wide * slope + shift, upstream.dtype)
            return of_features, of_gamma, of_beta

        return found.y, gradients

    count = local_count * replica.num_replicas_in_sync
    # A function with gradients of its own takes no variables.
    gamma, beta = tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)
    return normalize(features, gamma, beta), mean, variance * (count / tf.maximum(count - 1.0, 1.0))
