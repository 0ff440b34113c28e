"""How well anchors reach objects, and the anchors that are suggested for them."""

import dataclasses
import json

import numpy as np
import pytest
from own_anchors import FIVE_LEVELS, FOUR_LEVELS, level

from refinedet_tf.config.files import load_config
from refinedet_tf.config.values import AnchorLevel, check_levels
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import pairwise_iou
from refinedet_tf.reports.inspection import anchor_coverage, anchor_fit
from refinedet_tf.reports.inspection.anchor_coverage import best_ious, coverage, relative_sizes
from refinedet_tf.reports.inspection.anchor_fit import anchors_as_json, fit_anchors


def random_boxes(count, seed=0):
    generator = np.random.default_rng(seed)
    low = generator.random((count, 2))
    return np.concatenate([low, low + (1 - low) * generator.random((count, 2)) ** 2], 1).astype(np.float32)


def objects_of(count, pixels, side=320, spread=0.1, seed=0):
    """Boxes of about the given size in pixels of an image of `side` x `side`, inside it."""
    generator = np.random.default_rng(seed)
    size = pixels * np.exp(generator.normal(0, spread, count)) / side
    ratio = np.sqrt(np.exp(generator.normal(0, 0.2, count)))
    sides = np.stack([size / ratio, size * ratio], axis=1)
    low = generator.random((count, 2)) * (1 - sides)
    return np.concatenate([low, low + sides], axis=1)


@pytest.mark.parametrize("levels", [None, FOUR_LEVELS, FIVE_LEVELS], ids=["paper", "four", "five"])
@pytest.mark.parametrize("size", [(320, 320), (97, 130)])
def test_best_ious_against_all_pairs(tf_test, levels, size):
    boxes = random_boxes(300)
    expected = np.asarray(pairwise_iou(boxes, tile_anchors(size, levels))).max(axis=1)
    tf_test.assertAllClose(best_ious(boxes, size, levels), expected, rtol=0, atol=2e-5)


def test_best_ious_in_parts(monkeypatch):
    boxes = random_boxes(50)
    expected = best_ious(boxes, (320, 320))
    monkeypatch.setattr(anchor_coverage, "BOXES_AT_ONCE", 7)
    np.testing.assert_array_equal(best_ious(boxes, (320, 320)), expected)


def test_anchors_reach_themselves_and_nothing_reaches_a_box_without_area():
    anchors = tile_anchors((320, 320))
    np.testing.assert_allclose(best_ious(anchors, (320, 320)), 1, atol=1e-5)
    assert best_ious(np.array([[0.1, 0.1, 0.1, 0.5]]), (320, 320)).tolist() == [0.0]
    assert best_ious(np.zeros((0, 4)), (320, 320)).shape == (0,)


def test_coverage_by_size():
    # A box of 18 x 18 in the middle of an anchor of 36 x 36, an anchor itself, and 40 x 40 around it. Their
    # centres are those of cells: (12, 12) and (52, 52).
    pixels = [[3, 3, 21, 21], [34, 34, 70, 70], [32, 32, 72, 72]]
    result = coverage(np.array(pixels) / 320, (320, 320), [level(8, [36], [1])])
    assert (result.objects, result.share_below) == (3, pytest.approx(1 / 3))
    assert result.mean_best_iou == pytest.approx((0.25 + 1 + 36**2 / 40**2) / 3)
    filled = {(size.smallest, size.largest): size for size in result.sizes if size.objects}
    assert {key: (size.objects, size.share_below) for key, size in filled.items()} == {
        (0.05, 0.1): (1, 1.0),
        (0.1, 0.2): (2, 0.0),
    }
    assert filled[0.05, 0.1].mean_best_iou == pytest.approx(0.25)
    assert sum(size.objects for size in result.sizes) == 3
    assert json.loads(json.dumps(dataclasses.asdict(result)))["sizes"][0]["share_below"] is None


def test_coverage_of_nothing_and_of_whole_images():
    empty = coverage(np.zeros((0, 4), np.float32), (320, 320))
    assert (empty.objects, empty.share_below, empty.mean_best_iou) == (0, None, None)
    whole = coverage(np.array([[0, 0, 1, 1]], np.float32), (320, 320))
    assert whole.sizes[-1].objects == 1
    assert whole.mean_best_iou == pytest.approx(0.8**2)


def test_relative_sizes():
    assert relative_sizes(np.array([[0, 0.5, 0.25, 0.75], [0.5, 0, 0.4, 1]])).tolist() == [0.25, 0]


def test_fitted_anchors_reach_objects_of_8_pixels():
    small_objects = objects_of(500, 8)
    shares = [coverage(small_objects, (320, 320)).share_below]
    for stride_4 in (False, True):
        levels = fit_anchors(small_objects, (320, 320), stride_4=stride_4)
        assert levels[0].stride == (4 if stride_4 else 8)
        assert max(levels[0].scales) < 16
        shares.append(coverage(small_objects, (320, 320), levels).share_below)
    # With stride 8, half of the objects lie between the cells.
    assert shares[0] == 1.0
    assert 0.5 < shares[1] < 0.75
    assert shares[2] < 0.15


def test_a_suggestion_is_a_value_of_the_config():
    levels, again = (fit_anchors(objects_of(100, 8), (320, 320), stride_4=True) for _ in range(2))
    assert levels == again
    tree = json.loads("{" + anchors_as_json(levels) + "}")
    config = load_config("voc320.json", [f"model.anchors={json.dumps(tree['anchors'])}"])
    assert config.model.anchors == levels
    assert json.loads("{" + anchors_as_json(None) + "}") == {"anchors": None}


@pytest.mark.parametrize("size", [(64, 64), (160, 160), (320, 512)])
@pytest.mark.parametrize(("pixels", "spread"), [(8, 0.1), (30, 0.9), (300, 0.2), (100, 0.02)])
def test_a_suggestion_is_never_worse_than_the_papers_anchors(size, pixels, spread, monkeypatch):
    monkeypatch.setattr(anchor_fit, "MAX_SCALES", 1)
    boxes = np.clip(objects_of(60, min(pixels, 200), spread=spread, seed=pixels), 0, 1)
    positive_iou = 0.4 if size == (64, 64) else 0.5
    default = coverage(boxes, size, positive_iou=positive_iou)
    levels = fit_anchors(boxes, size, positive_iou=positive_iou)
    fitted = coverage(boxes, size, levels, positive_iou)
    assert fitted.share_below <= default.share_below
    assert fitted.mean_best_iou >= default.mean_best_iou
    if levels is not None:
        assert all(len(entry.scales) == 1 for entry in levels)
        check_levels(levels, size)


def test_the_papers_anchors_are_suggested_where_nothing_is_better():
    anchors = tile_anchors((320, 320))
    inside = anchors[np.all((anchors >= 0) & (anchors <= 1), axis=1)][::7]
    assert fit_anchors(inside, (320, 320)) is None
    assert fit_anchors(np.zeros((0, 4)), (320, 320)) is None
    assert fit_anchors(np.array([[0.5, 0.5, 0.5, 0.7]]), (320, 320)) is None


def test_fit_on_a_sample(monkeypatch):
    """More boxes than the search looks at; whether a suggestion is better is decided on all."""
    monkeypatch.setattr(anchor_fit, "MAX_BOXES", 50)
    boxes = objects_of(400, 20, spread=0.3)
    levels = fit_anchors(boxes, (320, 320))
    assert isinstance(levels[0], AnchorLevel)
    assert coverage(boxes, (320, 320), levels).share_below < coverage(boxes, (320, 320)).share_below
