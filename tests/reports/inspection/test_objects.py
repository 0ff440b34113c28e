"""Counts and overlaps of objects, against values by hand and by loops."""

import math

import numpy as np
import pytest
from small_datasets import dataset_of

from refinedet_tf.reports.inspection import objects
from refinedet_tf.reports.inspection.anchor_coverage import SIZE_LIMITS as COVERAGE_LIMITS
from refinedet_tf.reports.inspection.objects import (
    ASPECT_RATIO_LIMITS,
    ASPECT_RATIO_NAMES,
    SIZE_LIMITS,
    count_objects,
    images_without_usual_class,
    overlaps,
)


def test_the_limits_contain_those_of_the_coverage():
    for limit in COVERAGE_LIMITS:
        assert np.isclose(SIZE_LIMITS, limit).any(), limit
    assert list(SIZE_LIMITS) == sorted(SIZE_LIMITS)


@pytest.mark.parametrize(
    ("width", "height", "name"),
    [
        (1, 10, "1:4"),
        (1, 4, "1:4"),
        (1, 2, "1:2"),
        (1, 1, "1:1"),
        (1.2, 1, "1.4:1"),
        (2, 1, "2:1"),
        (9, 1, "4:1"),
    ],
)
def test_aspect_ratios_are_those_that_the_network_sees(width, height, name):
    """The network's input is twice as wide as high, so a normalised box becomes twice as wide."""
    box = (1, 0.0, 0.0, height / 20, width / 20 / 2)
    counts, _ = count_objects(dataset_of([[box]]), (64, 128))
    assert counts.aspect_ratios[ASPECT_RATIO_NAMES.index(name)] == 1
    assert len(ASPECT_RATIO_LIMITS) == len(ASPECT_RATIO_NAMES) + 1


def test_counts_per_class():
    images = [[(1, 0, 0, 0.5, 0.5), (1, 0, 0, 1, 1), (2, 0, 0, 0.25, 0.25)], [], [(1, 0.5, 0.5, 0.6, 0.9)]]
    dataset = dataset_of(images)
    counts, per_class = count_objects(dataset, (64, 64))
    assert (counts.images, counts.objects) == (3, 4)
    assert (per_class["a"].images, per_class["a"].objects) == (2, 3)
    assert (per_class["b"].images, per_class["b"].objects) == (1, 1)
    assert per_class["b"].sides == pytest.approx((16, 16, 16))
    assert counts.sides == pytest.approx((64 * math.sqrt(0.04), (16 + 32) / 2, 64), rel=1e-6)
    assert counts.sizes[-1] == 1
    assert sum(counts.sizes) == sum(counts.aspect_ratios) == 4


def test_usual_classes():
    usual = [(1, 0, 0, 1, 1), (2, 0, 0, 1, 1)]
    images = [usual] * 9 + [[(2, 0, 0, 1, 1)], []]
    assert images_without_usual_class(dataset_of(images)) == {"a": [9]}
    assert images_without_usual_class(dataset_of([*images[:8], *images[9:]])) == {}
    assert images_without_usual_class(dataset_of([[], []])) == {}


def test_overlaps_agree_with_loops(monkeypatch):
    rng = np.random.default_rng(0)
    images = []
    for number in (0, 1, 150, 17):
        corners = rng.random((number, 2, 2)).round(1)
        low, high = corners.min(axis=1), corners.max(axis=1) + 0.1
        images.append([(int(rng.integers(1, 3)), *a, *b) for a, b in zip(low, high, strict=True)])
    dataset = dataset_of(images)
    dataset.difficult[::5] = True
    expected_pairs, crowded = [], set()
    for image in range(len(images)):
        boxes, labels, difficult = dataset.image_annotations(image)
        for i in range(len(boxes)):
            for j in range(len(boxes)):
                if i == j or labels[i] != labels[j] or difficult[i] or difficult[j]:
                    continue
                sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
                inter = np.prod(np.maximum(sides, 0))
                areas = [np.prod(box[2:] - box[:2]) for box in (boxes[i], boxes[j])]
                iou = inter / (sum(areas) - inter)
                if iou > 0.45:
                    crowded.add((image, i))
                if iou > 0.8 and i < j:
                    expected_pairs.append((image, int(labels[i]), pytest.approx(iou, rel=1e-5)))
    monkeypatch.setattr(objects, "_ROWS_AT_ONCE", 7)
    pairs, crowded_objects = overlaps(dataset, 0.45)
    assert [(pair.image, pair.label, pair.iou) for pair in pairs] == expected_pairs
    assert expected_pairs
    assert crowded_objects == len(crowded) > 0
