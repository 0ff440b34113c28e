"""How many objects the anchors reach, and which anchors would reach more."""

import dataclasses

import numpy as np

from refinedet_tf.anchors import AnchorLevel
from refinedet_tf.config import Config
from refinedet_tf.data.anchor_coverage import REACHED_IOU, Coverage, best_ious, coverage
from refinedet_tf.data.anchor_fit import fit_anchors
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import training_objects

WORTH_A_FINER_LEVEL = 0.02
"""A level of stride 4 is suggested if it lowers the share of objects not reached by at least this."""

WORTH_CHANGING = 0.01
"""Other anchors are advised if they lower that share, or raise the mean of the best IoUs, by this."""


@dataclasses.dataclass(frozen=True)
class AnchorChoice:
    """Some anchors and the objects that they reach."""

    name: str
    """What they are: "configured", "fitted" or "fitted with stride 4"."""
    levels: tuple[AnchorLevel, ...] | None
    """The value for `model.anchors`; None: the paper's anchors."""
    coverage: Coverage


@dataclasses.dataclass(frozen=True)
class AnchorReport:
    """The coverage of the training objects by the configured anchors and by others."""

    choices: tuple[AnchorChoice, ...]
    """The configured anchors first."""
    advised: AnchorChoice | None
    """The choice that is clearly better than the configured anchors; None: keep those."""
    not_reached: dict[str, float | None]
    """Each class -> the share of its objects, 0..1, that the configured anchors do not reach; None: it has
    no object."""


def inspect_anchors(dataset: DetectionDataset, config: Config, image_size: tuple[int, int]) -> AnchorReport:
    """Measures the configured anchors and fits others to the objects that training uses.

    Args:
        dataset: the training images and their objects.
        config: `model.anchors` and `data` are used.
        image_size: height and width of the network's input in pixels.
    """
    boxes, labels = training_objects(dataset, config)
    model_config = config.model
    configured = AnchorChoice(
        "configured", model_config.anchors, coverage(boxes, image_size, model_config.anchors)
    )
    choices = [configured]
    fitted = _fit("fitted", boxes, image_size, model_config.has_stride_4)
    choices.append(fitted)
    if not model_config.has_stride_4:
        finer = _fit("fitted with stride 4", boxes, image_size, stride_4=True)
        if _share(fitted) - _share(finer) >= WORTH_A_FINER_LEVEL:
            choices.append(finer)
    best = choices[-1]
    gain = max(_share(configured) - _share(best), _mean(best) - _mean(configured))
    reached = best_ious(boxes, image_size, model_config.anchors) >= REACHED_IOU
    not_reached = {
        name: float(np.mean(~reached[labels == label])) if (labels == label).any() else None
        for label, name in enumerate(dataset.class_names, start=1)
    }
    return AnchorReport(tuple(choices), best if gain >= WORTH_CHANGING else None, not_reached)


def _fit(name: str, boxes: np.ndarray, image_size: tuple[int, int], stride_4: bool) -> AnchorChoice:
    levels = fit_anchors(boxes, image_size, stride_4)
    return AnchorChoice(name, levels, coverage(boxes, image_size, levels))


def _share(choice: AnchorChoice) -> float:
    return choice.coverage.share_below or 0.0


def _mean(choice: AnchorChoice) -> float:
    return choice.coverage.mean_best_iou or 0.0
