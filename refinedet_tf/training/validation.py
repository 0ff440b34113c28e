"""Evaluation that all workers share, and a validation during training, which a stop gives up."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.evaluator import detect_portion, score_detections
from refinedet_tf.evaluation.limits import reached_limits
from refinedet_tf.evaluation.loss import loss_terms
from refinedet_tf.evaluation.portions import Portion, join_portions
from refinedet_tf.evaluation.results import or_none
from refinedet_tf.evaluation.timed_detector import TimedDetector
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.progress import Progress
from refinedet_tf.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class Validation:
    """The accuracy and the loss on the validation set, the same on all workers."""

    mean_ap: float | None
    """The mean average precision (mAP), 0..1; None if the set has no objects."""
    class_ap: dict[str, float | None]
    """The AP by class name; None for a class without objects."""
    loss_terms: dict[str, float]
    """The loss terms by name, whose sum is the loss, without augmentation."""
    notes: Sequence[str] = ()
    """Lines for the terminal on limits that the detections have reached."""


class _ValidationStopped(Exception):
    """A validation was given up, because the run was told to stop."""


def detect_together(
    workers: Workers,
    num_images: int,
    batch_size: int,
    detect: Callable[[Progress, tuple[int, int]], Portion],
    is_told: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Portion | None:
    """Detects on a dataset, of which every worker takes a part; all of them call this function.

    They meet after every batch, so that all know of the error of one of them, or of its word to stop, before
    any has finished long work.

    `detect` detects on the part of this worker; it takes what is called after each batch, and the number of
    this worker and of all workers. `is_told` says whether this process was told to stop.

    Returns:
        The portion of all workers on the chief, and None on the others.

    Raises:
        InputError, TrainingStopped: another worker ended with that error, or was lost.
        _ValidationStopped: any worker was told to stop; it is raised on all of them.
    """
    batches_left = -(-num_images // (batch_size * len(workers.names)))

    def meet() -> None:
        nonlocal batches_left
        batches_left -= 1
        if any(workers.exchange(is_told())):
            raise _ValidationStopped

    def after_batch(done: int, total: int, seconds: float) -> None:
        meet()
        if progress is not None:
            progress(done, total, seconds)

    portion = detect(after_batch, (workers.index, len(workers.names)))
    while batches_left > 0:  # Others have more batches.
        meet()
    if workers.alone:
        return portion
    facts = workers.exchange(portion.facts())
    parts = workers.gather(portion.to_bytes())
    return join_portions(workers.names, facts, parts, portion.passes) if workers.index == 0 else None


def measure(
    replicas: Replicas[TimedDetector] | None,
    config: Config,
    dataset: DetectionDataset | None,
    is_told: Callable[[], bool],
    workers: Workers,
) -> tuple[Validation | None, bool, bool]:
    """Measures the network on the validation set, of which every worker takes a part.

    The chief scores the detections and tells the others the numbers, so that no worker computes another
    last digit and takes other weights for the best ones.

    The detectors have the loss on the dataset. Both are None if there is nothing to measure. `is_told` says
    whether this process was told to stop.

    Returns:
        The accuracy, or None; whether the validation was finished on all workers; whether any worker was told
        to stop. All workers return the same.
    """
    validation = None
    if replicas is not None and dataset is not None:
        detect = functools.partial(detect_portion, replicas, config, dataset)
        try:
            portion = detect_together(workers, len(dataset), config.evaluation.batch_size, detect, is_told)
        except _ValidationStopped:
            return None, False, True
        validation = _score_on_chief(portion, config, dataset, workers)
    return validation, True, any(workers.exchange(is_told()))


def _score_on_chief(
    portion: Portion | None, config: Config, dataset: DetectionDataset, workers: Workers
) -> Validation:
    """Returns on all workers what the chief, which has the portion of all, measures."""
    numbers = None
    if portion is not None:
        result = score_detections(portion.detections, dataset, config.evaluation.metric)
        class_ap = {name: or_none(class_result.ap) for name, class_result in result.classes.items()}
        notes = reached_limits(portion.cost.limited, portion.cost.inputs, portion.num_images, config)
        numbers = [or_none(result.mean_ap), class_ap, loss_terms(portion.loss_sums, config), notes]
    return Validation(*workers.exchange(numbers)[0])
