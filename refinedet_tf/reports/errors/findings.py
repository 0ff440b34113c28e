"""What a reader should do about a result: a few sentences that follow from its numbers."""

import math
from collections.abc import Iterator

import numpy as np

from refinedet_tf.errors import listed
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.reports.errors.analysis import Analysis
from refinedet_tf.reports.errors.error_kinds import KINDS
from refinedet_tf.reports.pages import Finding

COSTLY = 0.01
"""Kinds of errors that cost less mAP than this need no advice."""

FEW_OBJECTS = 20
"""With fewer objects than this, the AP of a class says little."""

ADVICE = {
    "classification": "look at the confusion matrix: similar classes need more examples or clearer rules",
    "localisation": "boxes that are drawn loosely or differently, too small an input size or anchors that do "
    "not fit cause it",
    "both": "these boxes lie near objects of other classes; the worst images show them",
    "duplicate": "a smaller postprocess.nms_iou suppresses more boxes on the same object",
    "background": "look at the worst images for objects that the annotations leave out; if there are none, "
    "add images without objects to the training data, with loss.background_negatives",
    "missed": "look for a common size or look of the missed objects; small ones need a larger input size or "
    "finer anchors",
}
"""What helps against each kind of error."""


def find_advice(result: EvaluationResult, analysis: Analysis) -> list[Finding]:
    """Returns the findings on a result, the most important first."""
    if math.isnan(result.mean_ap):
        return [Finding("problem", "No class has an object to find, so that nothing can be measured.")]
    return [
        *_costly_kinds(analysis),
        *_small_objects(analysis),
        *_weak_classes(result),
        *_few_objects(result),
    ]


def _costly_kinds(analysis: Analysis) -> Iterator[Finding]:
    counts = analysis.errors.count()
    by_cost = sorted(KINDS, key=lambda kind: -analysis.costs[kind])
    costly = [kind for kind in by_cost if analysis.costs[kind] >= COSTLY][:2]
    if not costly:
        yield Finding("good", f"No kind of error costs {100 * COSTLY:.0f} point of mAP or more.")
    for kind in costly:
        yield Finding(
            "advice",
            f"{kind.capitalize()} costs {100 * analysis.costs[kind]:.1f} points of mAP at IoU 0.50 "
            f"({counts[kind]:,} errors): {ADVICE[kind]}.",
        )


def _small_objects(analysis: Analysis) -> Iterator[Finding]:
    """Compares small objects with large ones, over the classes that have both."""
    both = [
        item.sizes
        for item in analysis.classes.values()
        if item.sizes["small"].num_objects and item.sizes["large"].num_objects
    ]
    if not both:
        return
    small = float(np.mean([sizes["small"].ap50 for sizes in both]))
    large = float(np.mean([sizes["large"].ap50 for sizes in both]))
    if small < 0.7 * large:
        yield Finding(
            "advice",
            f"Small objects reach AP {100 * small:.1f} at IoU 0.50, large ones of the same classes "
            f"{100 * large:.1f}: a larger input size or finer anchors help small objects.",
        )


def _weak_classes(result: EvaluationResult) -> Iterator[Finding]:
    weak = [
        f"{name} ({100 * item.ap:.1f})"
        for name, item in result.classes.items()
        if item.ap < result.mean_ap / 2
    ]
    if weak:
        yield Finding("advice", f"The AP of these classes is below half of the mean: {listed(weak)}.")


def _few_objects(result: EvaluationResult) -> Iterator[Finding]:
    numbers = {name: item.num_objects for name, item in result.classes.items()}
    none = [name for name, number in numbers.items() if number == 0]
    few = [f"{name} ({number})" for name, number in numbers.items() if 0 < number < FEW_OBJECTS]
    if none:
        yield Finding("advice", f"No object to find, so left out of the mean ({len(none)}): {listed(none)}.")
    if few:
        text = (
            f"Fewer than {FEW_OBJECTS} objects to find say little about a class ({len(few)}): {listed(few)}."
        )
        yield Finding("advice", text)
