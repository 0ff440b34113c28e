"""The training step: forward pass, loss, gradients and update over all replicas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.inference.compiled_detector import network_size
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.batch_norm import BatchNormalization
from refinedet_tf.refinedet.losses import COUNTS, TERMS, loss_sums, normalize
from refinedet_tf.refinedet.network import RefineDet, build_model
from refinedet_tf.tensors import Heads, Tensor
from refinedet_tf.training.averaging import WeightAverage
from refinedet_tf.training.bfloat16 import keep_light_layers_wide
from refinedet_tf.training.freezing import freeze_layers
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.weights.blobs import STATISTICS

Structure = TypeVar("Structure")
"""A tensor, or a nest of lists, tuples and dicts of tensors."""


class RefineDetTrainer(keras.Model):
    """A RefineDet network with its own `train_step`, for use under any `tf.distribute` strategy.

    The numbers of positives and of backgrounds are summed over the replicas before the loss is divided
    by them, and gradients are summed, so the update does not depend on the number of replicas that share
    the batch.

    With `training.accumulation_steps` n, each replica divides its share into n micro-batches and
    holds the activations of one at a time. The numbers of positives are those of the whole batch here,
    too, so that the update is that of n = 1 where BatchNorm is frozen or absent. That of the ODM is
    known only after the ARM has moved the anchors of all images. Therefore the micro-batches are
    passed forward twice: first to count, then for the gradients.

    Args:
        network: the result of `build_model`.
        anchors: float32 [A, 4], the result of `tile_anchors` for the training images.
        config: `loss`, `model.design`, `model.batch_norm_statistics`, `training.gradient_clip_norm`,
            `training.accumulation_steps` and `training.ema_decay` are used. Layers of the network that are
            not trainable stay as they are, whatever the config says.
        kwargs: arguments of Keras' model.

    Attributes:
        average: the moving average of the network's variables; None without `training.ema_decay`.
        frozen: the layers that `make_trainer` has frozen.
    """

    frozen: Sequence[str] = ()

    def __init__(self, network: keras.Model, anchors: np.ndarray, config: Config, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.anchors = anchors
        self.config = config
        decay = config.training.ema_decay
        self.average = None if decay is None else WeightAverage(network, decay)

    @property
    def statistics(self) -> list[keras.Variable]:
        """BatchNorm's moving statistics, those of frozen layers included."""
        return [variable for variable in self.network.non_trainable_variables if variable.name in STATISTICS]

    def call(self, images: Tensor, training: bool = False) -> Heads:
        """Returns the heads of a batch of images, as `build_model` describes them."""
        return self.network(images, training=training)

    # Nothing in the step depends on AutoGraph, whose rewriting of all functions is a third of the tracing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: Mapping[str, Tensor], told_to_stop: Tensor = 0.0) -> dict[str, Any]:
        """Updates the network from this replica's share of a batch.

        If a loss term or a gradient is not finite on any replica, no variable of any replica changes
        except the moving statistics of BatchNorm, which `restore_statistics` resets. The average of the
        weights does not change either.

        Args:
            batch: "images" [b, H, W, 3] RGB 0..255; "boxes" float32 [b, G, 4], normalised
                `[ymin, xmin, ymax, xmax]`; "labels" int [b, G], 1..C, and 0 for padding. With
                accumulation, b is static and a multiple of the number of micro-batches.
            told_to_stop: float32 scalar, 1 if the process of this replica was told to stop, otherwise 0; NaN
                if it has no usable batch, so that nothing of the step is to be kept.

        Returns:
            The loss terms and the numbers of `COUNTS` of the whole batch, float32 scalars that are equal
            on all replicas; "bad_gradients" float32 [V], the number of replicas whose gradient is not
            finite, or has a norm above 1e19, for each of the V trainable variables; "told_to_stop" float32,
            the number of replicas that were told to stop, or NaN, the same on all of them; "statistics", the
            list of the BatchNorm statistics before the step.
        """
        replica = tf.distribute.get_replica_context()
        variables = self.network.trainable_variables
        statistics = [tf.convert_to_tensor(variable) for variable in self.statistics]
        if self.config.training.accumulation_steps == 1:
            gradients, term_values, counts = self._gradients(batch)
        else:
            gradients, term_values, counts = self._accumulated_gradients(batch)
        norms = _squared_norms(gradients)
        bad = tf.cast(~tf.math.is_finite(norms), tf.float32)
        report = tf.concat([tf.stack(term_values), bad, [told_to_stop]], axis=0)
        if replica.num_replicas_in_sync > 1:
            report = replica.all_reduce(tf.distribute.ReduceOp.SUM, report)
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        all_terms, bad_gradients, told = report[: len(TERMS)], report[len(TERMS) : -1], report[-1]
        if self.config.training.gradient_clip_norm is not None:
            if replica.num_replicas_in_sync > 1:
                norms = _squared_norms(gradients)
            gradients = self._clip(gradients, norms)
        healthy = tf.reduce_all(tf.math.is_finite(all_terms)) & (tf.reduce_sum(bad_gradients) == 0)
        done = tf.convert_to_tensor(self.optimizer.iterations) + 1
        self.optimizer.update_if(healthy, gradients, variables)
        if self.average is not None:
            self.average.update(done, healthy)
        return {
            **dict(zip(TERMS, tf.unstack(all_terms), strict=True)),
            **counts,
            "bad_gradients": bad_gradients,
            "told_to_stop": told,
            "statistics": statistics,
        }

    def _gradients(
        self, batch: Mapping[str, Tensor], counts: Mapping[str, Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor], Mapping[str, Tensor]]:
        """Computes the gradients of some images' part of the loss.

        Args:
            batch: as in `train_step`.
            counts: the numbers of `COUNTS` of the whole batch. If they are not given, the images are
                this replica's share, and those of all replicas are counted.

        Returns:
            The gradients of the trainable variables, the loss terms in the order of `TERMS`, and the
            counts by which they were divided.
        """
        variables = self.network.trainable_variables
        # What only frozen layers compute is not recorded, so that nothing is kept for gradients there.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            heads = self(batch["images"], training=True)
            sums = loss_sums(heads, batch, self.anchors, self.config)
            counts = self._over_replicas([sums[name] for name in COUNTS]) if counts is None else counts
            terms = normalize(sums, counts, self.config)
            term_values = [terms[name] for name in TERMS]
            loss = tf.add_n(term_values)
        return tape.gradient(loss, variables), term_values, counts

    def _accumulated_gradients(
        self, batch: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Mapping[str, Tensor]]:
        """Computes what `_gradients` computes for this replica's share, one micro-batch after the other."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        # Statistics of batches are sums over the replicas.
        has_batch_statistics = bool(self.statistics) and self.config.model.batch_norm_statistics != "frozen"
        unrolled = replicas > 1 and has_batch_statistics
        micro_batches = self.config.training.accumulation_steps

        def count(micro_batch: Mapping[str, Tensor]) -> list[Tensor]:
            # In this scope BatchNorm's moving statistics do not change; the second pass updates them. A
            # graph computes only what the counts depend on.
            with keras.StatelessScope():
                heads = self(micro_batch["images"], training=True)
                sums = loss_sums(heads, micro_batch, self.anchors, self.config)
            return [sums[name] for name in COUNTS]

        def gradients_and_terms(micro_batch: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return self._gradients(micro_batch, counts)[:2]

        no_counts, no_terms = ([tf.zeros(())] * len(names) for names in (COUNTS, TERMS))
        counts = self._over_replicas(sum_over_micro_batches(count, batch, micro_batches, no_counts, unrolled))
        no_gradients = [tf.zeros_like(variable) for variable in self.network.trainable_variables]
        # The second pass waits for the first, so that both are never in memory together.
        with tf.control_dependencies(list(counts.values())):
            gradients, term_values = sum_over_micro_batches(
                gradients_and_terms, batch, micro_batches, (no_gradients, no_terms), unrolled
            )
        return gradients, term_values, counts

    @staticmethod
    def _over_replicas(counts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Sums the numbers that are in the order of `COUNTS` over the replicas."""
        replica = tf.distribute.get_replica_context()
        totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(counts))
        return dict(zip(COUNTS, tf.unstack(totals), strict=True))

    def restore_statistics(self, statistics: Sequence[Tensor]) -> None:
        """Resets BatchNorm's moving statistics to those that a step returned whose update was suppressed."""
        for variable, value in zip(self.statistics, statistics, strict=True):
            variable.assign(value)

    def _clip(self, gradients: Sequence[Tensor], norms: Tensor) -> list[Tensor]:
        """Scales gradients, whose `_squared_norms` are given, to at most the configured norm of them all."""
        norm = tf.sqrt(tf.reduce_sum(norms))
        largest = self.config.training.gradient_clip_norm
        scale = largest / tf.maximum(norm, largest)
        return [gradient * scale for gradient in gradients]


def make_trainer(config: Config, network: RefineDet | None = None) -> RefineDetTrainer:
    """Makes a trainer with its optimizer, ready for a step; call it in the scope of the strategy.

    Args:
        config: the experiment, whose `training` is in steps (`in_steps`).
        network: a result of `build_model`, which is changed as `training.freeze` and `training.jit_compile`
            say; None: a new one.

    Raises:
        InputError: `training.freeze` does not fit the network, or `model.image_size` is null.
    """
    network = build_model(config) if network is None else network
    keep_light_layers_wide(network)
    if config.training.jit_compile:
        for layer in network._flatten_layers():
            if isinstance(layer, BatchNormalization):
                layer.leave_to_compiler()
    frozen = freeze_layers(network, config.training.freeze)
    anchors = tile_anchors(network_size(config), config.model.anchors)
    trainer = RefineDetTrainer(network, anchors, config)
    trainer.frozen = tuple(frozen)
    optimizer = CaffeSGD.from_training(config.training)
    optimizer.build(network.trainable_variables)
    trainer.compile(optimizer=optimizer)
    return trainer


def sum_over_micro_batches(
    function: Callable[[dict[str, Tensor]], Structure],
    batch: Mapping[str, Tensor],
    num_micro_batches: int,
    zeros: Structure,
    unrolled: bool = False,
) -> Structure:
    """Adds the results of a function of each micro-batch of a batch.

    Micro-batch i of n holds the rows i, i + n, i + 2n and so on. Replicas share a batch in blocks of
    rows, so that the rows that micro-batch i holds on all replicas together do not depend on how many
    replicas there are.

    The micro-batches are computed strictly one after the other, so that the intermediate results of
    only one of them are in memory.

    Args:
        function: returns the summands of a micro-batch, which has the names of `batch`.
        batch: tensors [b, ...], whose number of rows b is static and a multiple of `num_micro_batches`.
        num_micro_batches: the number of micro-batches n, at least 1.
        zeros: the result without any micro-batch, of the structure, shapes and dtypes of the summands.
        unrolled: whether a graph holds the function once per micro-batch, and not once in a loop. It
            must if the function sums over the replicas of a strategy, which no loop may contain.

    Returns:
        The sums, added in the order of the micro-batches.
    """

    num_rows = next(iter(batch.values())).shape[0]

    def add_next(index: Tensor | int, sums: Structure) -> tuple[Tensor | int, Structure]:
        rows = tf.range(num_rows // num_micro_batches) * num_micro_batches + index
        summands = function({name: tf.gather(values, rows) for name, values in batch.items()})
        return index + 1, tf.nest.map_structure(tf.add, sums, summands)

    if not unrolled:
        _, sums = tf.while_loop(
            lambda index, _: index < num_micro_batches, add_next, (0, zeros), parallel_iterations=1
        )
        return sums
    sums = zeros
    for index in range(num_micro_batches):
        # Nothing else keeps the executor of a graph from computing all micro-batches at once.
        with tf.control_dependencies(tf.nest.flatten(sums)):
            _, sums = add_next(tf.constant(index), sums)
    return sums


def _squared_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the sum of the squares of each gradient, float32 [V].

    It is not finite where an element of the gradient is not, or where the norm exceeds 1e19.
    """
    # This is one operation per gradient, and `is_finite`, `reduce_all` and so on would be four.
    return 2.0 * tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients])
