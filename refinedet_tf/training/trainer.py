"""The training step: forward, loss, gradients and update over all replicas."""

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.losses import TERMS, loss_sums, normalize

COUNTS = ("num_arm_positives", "num_odm_positives")


class RefineDetTrainer(keras.Model):
    """A RefineDet network with its own `train_step`, for use under any `tf.distribute` strategy.

    The numbers of positives are summed over the replicas before the loss is divided by them, and
    gradients are summed, so the update does not depend on how many replicas share the batch.

    Args:
        network: of `build_model`.
        anchors: float32 [A, 4], of `tile_anchors` for the training images.
        config: `loss`, `model.design` and `training.gradient_clip_norm` are used.
    """

    def __init__(self, network: keras.Model, anchors: np.ndarray, config: Config, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.anchors = anchors
        self.config = config

    def call(self, images, training=False):
        """The heads of a batch of images."""
        return self.network(images, training=training)

    def train_step(self, batch):
        """One update from this replica's share of a batch.

        Where a loss term or a gradient is not finite, on any replica, no variable of any replica
        changes, except the moving statistics of BatchNorm: `restore_statistics` puts them back.

        Args:
            batch: "images" [b, H, W, 3] 0..255, "boxes" float32 [b, G, 4], "labels" int [b, G].

        Returns:
            The loss terms and numbers of positives of the whole batch (float32 scalars, the same on
            every replica); "bad_gradients" float32 [V], for each trainable variable the number of
            replicas whose gradient was not finite; "statistics", the BatchNorm statistics as they
            were before the step.
        """
        replica = tf.distribute.get_replica_context()
        variables = self.network.trainable_variables
        statistics = [tf.identity(variable) for variable in self.network.non_trainable_variables]
        with tf.GradientTape() as tape:
            heads = self(batch["images"], training=True)
            sums = loss_sums(heads, batch, self.anchors, self.config)
            totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([sums[name] for name in COUNTS]))
            counts = dict(zip(COUNTS, tf.unstack(totals), strict=True))
            terms = normalize(sums, counts)
            loss = tf.add_n([terms[name] for name in TERMS])
        gradients = tape.gradient(loss, variables)
        bad = [1.0 - tf.cast(tf.reduce_all(tf.math.is_finite(g)), tf.float32) for g in gradients]
        report = replica.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.stack([*(terms[name] for name in TERMS), *bad])
        )
        all_terms, bad_gradients = report[: len(TERMS)], report[len(TERMS) :]
        if self.config.training.gradient_clip_norm is not None:
            gradients = self._clip(gradients, replica)
        healthy = tf.reduce_all(tf.math.is_finite(all_terms)) & (tf.reduce_sum(bad_gradients) == 0)
        # The solver leaves elements with a NaN gradient alone. Not a condition around the update:
        # strategies do not allow their collective operations inside one.
        gradients = [tf.where(healthy, g, np.nan) for g in gradients]
        self.optimizer.apply(gradients, variables)
        return {
            **dict(zip(TERMS, tf.unstack(all_terms), strict=True)),
            **counts,
            "bad_gradients": bad_gradients,
            "statistics": statistics,
        }

    def restore_statistics(self, statistics) -> None:
        """Takes back what a step without an update did to BatchNorm's moving statistics."""
        for variable, value in zip(self.network.non_trainable_variables, statistics, strict=True):
            variable.assign(value)

    def _clip(self, gradients, replica):
        """Scales this replica's gradients so that their sum has at most the configured norm."""
        summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(summed)
        largest = self.config.training.gradient_clip_norm
        scale = largest / tf.maximum(norm, largest)
        return [gradient * scale for gradient in gradients]
