"""Detection on tiles and whole images, compared with a plain detector on each of them."""

import numpy as np
import pytest
from image_files import noise
from stand_in_model import stand_in_config, stand_in_model

from refinedet_tf.inference import multiscale
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.image_detector import ImageDetector
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.inference.tiled_detector import TiledDetector
from refinedet_tf.inference.tiles import Tiling, seen_better_elsewhere, suppress_between_views
from refinedet_tf.refinedet.boxes import pairwise_iou

SIDE = 64


@pytest.fixture(scope="module")
def config():
    return stand_in_config((SIDE, SIDE), max_detections=30)


@pytest.fixture(scope="module")
def detector(config):
    return Detector(stand_in_model(config), config)


def rows_of(result, top=0, left=0):
    """{(label, score): box in pixels} of detections, moved."""
    boxes = result.boxes + np.array([top, left, top, left], np.float32)
    pairs = zip(result.labels.tolist(), result.scores.tolist(), strict=True)
    return dict(zip(pairs, boxes, strict=True))


def test_composite_has_the_detections_of_its_four_images(config, detector):
    """Without overlap each detection is one of the whole image or of one of the four, and none is missing.

    Only a better one of the same class on the whole image, with an IoU above `nms_iou`, takes its place.
    """
    images = [noise(SIDE, SIDE, seed=seed) for seed in range(4)]
    composite = np.concatenate([np.concatenate(images[:2], axis=1), np.concatenate(images[2:], axis=1)])
    (found,) = TiledDetector(detector, config, Tiling(SIDE, overlap=0.0))([composite], batch_size=4)
    (whole,) = detector([composite])
    of_images = detector(images, batch_size=4)
    places = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)]
    expected = [rows_of(result, *place) for result, place in zip(of_images, places, strict=True)]
    everything = {key: box for rows in [rows_of(whole), *expected] for key, box in rows.items()}
    kept = rows_of(found)
    assert len(everything) == len(whole.scores) + sum(len(result.scores) for result in of_images) > 100
    for key, box in kept.items():
        np.testing.assert_allclose(box, everything[key], rtol=0, atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    whole_rows = rows_of(whole)
    num_equal = 0
    for rows in expected:
        for (label, score), box in rows.items():
            better = [
                other
                for (other_label, other_score), other in whole_rows.items()
                if (other_label, other_score > score) == (label, True)
                and pairwise_iou(other[None], box[None])[0, 0] > config.postprocess.nms_iou
            ]
            if not better:
                assert (label, score) in kept
                num_equal += 1
    assert num_equal > 0.8 * sum(len(rows) for rows in expected)
    # Where the whole image sees nothing, the detections are exactly those of the four.
    blind = OnlySmall(detector)
    (found,) = TiledDetector(blind, config, Tiling(SIDE, overlap=0.0))([composite], batch_size=4)
    assert rows_of(found).keys() == {key for rows in expected for key in rows}


class OnlySmall(ImageDetector):
    """A detector that sees nothing on images that are larger than the network's input."""

    def __init__(self, detector):
        self.detector = detector
        self.class_names, self.num_classes = detector.class_names, detector.num_classes
        self.image_size = detector.image_size

    @property
    def cost(self):
        return self.detector.cost

    def _detect(self, images, batch_size):
        batch = list(images)
        return [
            result.above(2.0) if image.shape[0] > SIDE else result
            for image, result in zip(batch, self.detector(batch, batch_size), strict=True)
        ]


def by_hand(detector, config, tiling, image):
    """What the merged detections of one image must be, from one plain call per view."""
    size = image.shape[:2]
    regions = tiling.regions(size, (SIDE, SIDE))
    (whole,) = detector([image])
    columns = [(whole.boxes, whole.scores, whole.labels, np.zeros(len(whole.scores), int))]
    for number, (top, left, bottom, right) in enumerate(regions):
        (result,) = detector([image[top:bottom, left:right]])
        boxes = result.boxes + np.array([top, left, top, left], np.float32)
        kept = ~seen_better_elsewhere(boxes, number, regions, size)
        views = np.full(kept.sum(), number + 1)
        columns.append((boxes[kept], result.scores[kept], result.labels[kept], views))
    boxes, scores, labels, views = (np.concatenate(column) for column in zip(*columns, strict=True))
    rows = suppress_between_views(boxes, scores, labels, views, config.postprocess.nms_iou)
    return boxes[rows], scores[rows], labels[rows]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_of_several_sizes_in_batches(config, detector, batch_size):
    images = [noise(100, 150, seed=1), noise(50, 60, seed=2), noise(40, 130, seed=3), noise(64, 64, seed=4)]
    tiling = Tiling(SIDE)
    tiled = TiledDetector(detector, config, tiling)
    results = tiled((image for image in images), batch_size)
    assert tiled.cost.views == (1 + 2 * 3) + 1 + (1 + 3) + 1
    assert tiled.cost.seconds > tiled.cost.plain_seconds > 0
    assert len(results) == 4
    for image, result in zip(images, results, strict=True):
        boxes, scores, labels = by_hand(detector, config, tiling, image)
        assert result.image_size == image.shape[:2] and result.class_names == detector.class_names
        assert len(result.scores) == len(scores) > 10
        np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
        np.testing.assert_allclose(np.sort(result.boxes, axis=0), np.sort(boxes, axis=0), atol=0.01)
        assert sorted(result.labels) == sorted(labels)
        assert result.normalized_boxes.dtype == np.float32 and result.labels.dtype == np.int32
    # An image of at most one tile has the detections of a plain detector bit for bit.
    (plain,) = detector([images[1]], 1)
    (result,) = tiled([images[1]], 1)
    assert result.normalized_boxes.tobytes() == plain.normalized_boxes.tobytes()


def test_multi_scale_on_each_view(monkeypatch, config):
    monkeypatch.setattr(
        multiscale, "PASSES", {320: (multiscale.Pass(1.0), multiscale.Pass(2.0, shorter_below=48))}
    )
    model = stand_in_model(stand_in_config(None))
    image = noise(64, 100, seed=1)
    tiling = Tiling(SIDE)
    tiled = TiledDetector(MultiScaleDetector(model, config), config, tiling)
    (result,) = tiled([image])
    boxes, scores, _ = by_hand(MultiScaleDetector(model, config), config, tiling, image)
    assert (tiled.num_passes, tiled.cost.views, tiled.cost.inputs) == (4, 3, 12)
    assert len(result.scores) == len(scores) > 10
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    np.testing.assert_allclose(np.sort(result.boxes, axis=0), np.sort(boxes, axis=0), atol=0.01)
