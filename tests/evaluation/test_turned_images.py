"""COCO's numbers and files of images that are turned with their boxes."""

import json

import numpy as np
import pytest
from image_files import exif_with
from PIL import Image

from refinedet_tf.config import Config, DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.evaluation.coco_ap import evaluate_coco
from refinedet_tf.evaluation.coco_files import write_coco_files
from refinedet_tf.evaluation.server_files import write_server_files
from refinedet_tf.inference.detections import DatasetDetections

HEIGHT, WIDTH = 60, 160
BOXES = [[4.5, 2.0, 40.0, 30.25], [50.0, 20.0, 100.0, 38.0]]
"""x, y, width, height in the stored raster of every image."""


@pytest.fixture
def dataset(tmp_path):
    """Eight images, one per orientation, of which the annotation states the size of the stored raster.

    Orientations 2 to 4 keep the size, so that boxes refer to the upright image there.
    """
    for orientation in range(1, 9):
        image = Image.new("RGB", (WIDTH, HEIGHT))
        image.save(tmp_path / f"{orientation}.png", exif=exif_with(orientation))
    tree = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(1, 9)
        ],
        "annotations": [
            # The area of the mask decides that the second object is a small one.
            {"id": 1, "image_id": number, "category_id": 3, "bbox": box, "area": area, "iscrowd": 0}
            for number in range(1, 9)
            for box, area in zip(BOXES, (1100, 900), strict=True)
        ],
        "categories": [{"id": 3, "name": "cup"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(tree))
    data = DataConfig(format="coco", root=str(tmp_path), test=("a.json:.",), classes=("cup",))
    return read_dataset(data, "test")


def perfect_detections(dataset):
    images, scores = np.repeat(np.arange(8), 2), np.linspace(0.9, 0.5, 16, dtype=np.float32)
    return DatasetDetections(images, dataset.labels, scores, dataset.boxes)


def test_a_perfect_detector_has_full_ap(dataset):
    summary, _, sizes = evaluate_coco(perfect_detections(dataset), dataset)
    assert summary["AP"] == pytest.approx(1)
    counts = {size: result.num_objects for size, result in sizes["cup"].items()}
    assert (counts["small"], counts["medium"], counts["large"]) == (8, 8, 0)
    # A detector that looks at the raster instead of the upright image misses in four of the images.
    raster = np.float32(BOXES) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    boxes = np.tile(np.concatenate([raster[:, 1::-1], (raster[:, :2] + raster[:, 2:])[:, ::-1]], 1), (8, 1))
    sideways = DatasetDetections(**vars(perfect_detections(dataset)) | {"boxes": boxes.astype(np.float32)})
    assert evaluate_coco(sideways, dataset)[0]["AP50"] < 0.6


def test_the_servers_boxes_are_those_of_the_raster(dataset, tmp_path):
    config = Config(data=DataConfig(format="coco", test=("a.json:.",)))
    path = write_server_files(perfect_detections(dataset), dataset, config, tmp_path / "server")
    entries = json.loads(path.read_text())
    assert [entry["image_id"] for entry in entries] == list(np.repeat(range(1, 9), 2))
    np.testing.assert_allclose([entry["bbox"] for entry in entries], BOXES * 8, atol=0.01)


def test_detections_and_ground_truth_have_one_frame(dataset, tmp_path):
    beside = write_coco_files(perfect_detections(dataset), dataset, tmp_path / "found.json")
    truth, found = json.loads(beside.read_text()), json.loads((tmp_path / "found.json").read_text())
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in truth["images"]}
    assert sizes == {id_: (HEIGHT, WIDTH) if id_ < 5 else (WIDTH, HEIGHT) for id_ in range(1, 9)}
    annotated = [entry["bbox"] for entry in truth["annotations"]]
    np.testing.assert_allclose([entry["bbox"] for entry in found], annotated, atol=1e-4)
    assert annotated[:8] == BOXES * 4
    # Orientation 6: turned clockwise, so that y counts from the right edge.
    np.testing.assert_allclose(annotated[10], [HEIGHT - 2 - 30.25, 4.5, 30.25, 40.0])
