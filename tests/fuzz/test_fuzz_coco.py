"""COCO annotation files: a data set whose arrays hold what they promise, or one line."""

import json

import numpy as np
from data_set import read
from mutation import EXTREME_NUMBERS, EXTREME_TEXTS, json_bytes, pick
from PIL import Image

from refinedet_tf.data.readers.coco import CocoPart

TREE = {
    "info": {"year": 2017},
    "images": [
        {"id": 73, "file_name": "b.jpg", "height": 30, "width": 40},
        {"id": 9, "file_name": "a.jpg"},
    ],
    "annotations": [
        {"id": 0, "image_id": 9, "category_id": 90, "bbox": [10.5, 5, 20, 4], "area": 30.5, "iscrowd": 0},
        {"id": 8, "image_id": 73, "category_id": 17, "bbox": [0, 0, 20, 10], "segmentation": [[1, 2]]},
        {"id": 9, "image_id": 73, "category_id": 90, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 17, "name": "cat"}],
}


def evaluate(dataset):
    """The COCO metric takes the ground truth."""
    from pycocotools.cocoeval import COCOeval

    coco = dataset.coco
    detections = [
        {"image_id": image, "category_id": category, "bbox": [1, 1, 5, 5], "score": 0.5}
        for image in coco.getImgIds()
        for category in coco.getCatIds()[:3]
    ]
    if detections:
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        assert np.isfinite(evaluation.eval["precision"]).all()


def test_annotation_files(fuzz, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)

    def case(rng):
        (tmp_path / "mine.json").write_bytes(json_bytes(rng, TREE))
        classes = ("toothbrush", "cat")
        for split in ("train", "test"):
            dataset = read(rng, "coco", tmp_path, "mine.json:images", classes, split, strict=0)
        evaluate(dataset)
        capsys.readouterr()

    fuzz(case)


def test_names_of_images_and_parts(fuzz, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    names = (*EXTREME_TEXTS, "x" * 300, "x/" * 3_000, "..", "../", "images", "a.jpg", "mine.json", ":")

    def name(rng):
        if rng.random() < 0.3:
            return "a.jpg"
        return "".join(pick(rng, names) for _ in range(rng.integers(1, 4)))

    def case(rng):
        number = pick(rng, EXTREME_NUMBERS) if rng.random() < 0.1 else 5
        image = {"id": number, "file_name": name(rng), "height": 5, "width": 5}
        tree = {"images": [image], "annotations": [], "categories": []}
        (tmp_path / "mine.json").write_text(json.dumps(tree))
        part = name(rng) if rng.random() < 0.5 else "mine.json:images"
        for entry in CocoPart(tmp_path, part):
            assert entry.path.startswith(f"{tmp_path}/") and ".." not in entry.path

    fuzz(case)
