"""The loss on the validation set, which says whether a network still learns or only remembers."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import explain_failure, labelled_batches
from refinedet_tf.losses import TERMS, loss_sums, normalize
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.stop import StopRequest
from refinedet_tf.training.trainer import COUNTS
from refinedet_tf.training.workers import Workers


class ValidationLoss:
    """The loss of a network on a data set, without augmentation and with BatchNorm's moving statistics.

    The sums of all images are divided by the numbers of positives of all images, so that the loss does not
    depend on the batch size. It is comparable with the loss of a training batch, whose images are augmented.

    Args:
        network: the network, as `build_model(config)` makes it; its values at the time of a call count.
        anchors: float32 [A, 4], the anchors of `model.image_size`.
        config: `model`, `loss`, `data` and `evaluation.batch_size` are used.
        dataset: the images and their objects.
    """

    def __init__(
        self, network: keras.Model, anchors: np.ndarray, config: Config, dataset: DetectionDataset
    ) -> None:
        self.dataset = dataset
        self.batches = labelled_batches(dataset, config, config.evaluation.batch_size)
        names = ("images", "boxes", "labels")
        specification = {name: self.batches.element_spec[name] for name in names}

        @tf.function(input_signature=[specification])
        def sums_of(batch: dict[str, Tensor]) -> Tensor:
            heads = network(batch["images"], training=False)
            sums = loss_sums(heads, batch, anchors, config)
            return tf.stack([sums[name] for name in (*TERMS, *COUNTS)])

        self._sums_of = sums_of

    def __call__(self, must_stop: Callable[[], bool]) -> dict[str, float] | None:
        """Computes the loss.

        Args:
            must_stop: is asked before each batch whether to give up.

        Returns:
            The loss terms by name, whose sum is the loss; None if it was given up.

        Raises:
            InputError: an image cannot be read.
        """
        totals = np.zeros(len(TERMS) + len(COUNTS))
        try:
            for batch in self.batches:
                if must_stop():
                    return None
                totals += self._sums_of({name: batch[name] for name in ("images", "boxes", "labels")}).numpy()
        except tf.errors.OpError as error:
            raise explain_failure(self.dataset, error) from error
        sums = dict(zip((*TERMS, *COUNTS), totals, strict=True))
        terms = normalize(sums, {name: sums[name] for name in COUNTS})
        return {name: float(terms[name]) for name in TERMS}


def measure_loss(
    loss: ValidationLoss, stop: StopRequest, workers: Workers
) -> tuple[dict[str, float] | None, bool]:
    """Computes the loss on the chief, while the other workers wait, so that all have the same digits.

    Args:
        loss: the loss on the validation set.
        stop: the signals to this process; the other workers learn of them.
        workers: all workers, each of which calls this function.

    Returns:
        The loss terms, or None if the chief was told to stop before the last image; and whether any worker
        was told to stop. All workers return the same.
    """

    def tell_if_requested() -> None:
        if stop.requested:
            workers.tell_to_stop()

    def must_stop() -> bool:
        workers.check()
        tell_if_requested()
        return workers.told_to_stop

    terms = loss(must_stop) if workers.index == 0 else None
    told = stop.requested is not None or workers.told_to_stop
    outcomes = workers.exchange([terms, told], tell_if_requested)
    return outcomes[0][0], any(told for _, told in outcomes)
