"""The metrics of joined parts are those of the same images and objects in one part."""

import json

import numpy as np
import pytest
from coco_layout import write_coco
from pycocotools_program import pycocotools_summary
from voc_layout import voc_object, write_voc

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.evaluation.coco_files import write_coco_files
from refinedet_tf.evaluation.evaluator import score_detections
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.reports.errors.analysis import analyse

SIDE = 200
CROWD, LARGE_OF_SMALL_MASK, OUTSIDE = [20, 20, 120, 120], [10, 10, 110, 100], [150, 100, 200, 60]


def coco_tree(images, category_ids=(3, 7)):
    """Each image has a cat with a small mask, a crowd of dogs, and a dog whose box leaves the image."""
    annotations = []
    for image in images:
        boxes = [(0, LARGE_OF_SMALL_MASK, 0, 900), (1, CROWD, 1, 9000), (1, OUTSIDE, 0, 12000)]
        for place, box, crowd, area in boxes:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category_ids[place]}
                | {"bbox": box, "iscrowd": crowd, "area": area}
            )
    size = {"width": SIDE, "height": SIDE}
    return {
        "images": [{"id": image, "file_name": f"{image:03d}.jpg", **size} for image in images],
        "categories": [{"id": category_ids[0], "name": "cat"}, {"id": category_ids[1], "name": "dog"}],
        "annotations": annotations,
    }


def coco_sets(root):
    """The same four images in one file, in two, and in two whose numbers of images and categories clash."""
    write_coco(root, coco_tree([1, 2, 3, 4]), "all.json", "photos")
    write_coco(root, coco_tree([1, 2]), "first.json", "photos")
    write_coco(root, coco_tree([3, 4]), "second.json", "photos")
    moved = coco_tree([1, 2], category_ids=(7, 3))
    for image, number in zip(moved["images"], (3, 4), strict=True):
        image["file_name"] = f"{number:03d}.jpg"
    write_coco(root, moved, "clash.json", "others")
    return [
        ("coco", ("all.json:photos",)),
        ("coco", ("first.json:photos", "second.json:photos")),
        ("coco", ("first.json:photos", "clash.json:others")),
        ("coco", ("all.json:photos[:50%]", "all.json:photos[50%:]")),
    ]


def voc_sets(root):
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
    yes, no = ("<difficult>1</difficult>", "<difficult>0</difficult>")
    content = voc_object("cat", (11, 11, 120, 110), no) + voc_object("dog", (21, 21, 140, 140), yes)
    content += voc_object("dog", (150, 100, 200, 160), no)
    for split, names in (("all", "abcd"), ("first", "ab"), ("second", "cd")):
        write_voc(root, split=split, size=size, **dict.fromkeys(names, content))
    return [("voc", ("2007/all",)), ("voc", ("2007/first", "2007/second"))]


def detections_of(dataset):
    """On each image the cat, a dog inside the crowd, and the part of the other dog inside the image."""
    pixels = [(1, 0.9, [10, 10, 120, 110]), (2, 0.8, [30, 30, 70, 70]), (2, 0.7, [150, 100, 200, 160])]
    rows = []
    for image in range(len(dataset)):
        for label, score, (xmin, ymin, xmax, ymax) in pixels:
            # The order of the images is another one in shares.
            order = int(dataset.image_paths[image][-7:-4]) if dataset.coco else image
            rows.append((image, label, score - 0.01 * order, np.array([ymin, xmin, ymax, xmax]) / SIDE))
    images, labels, scores, boxes = zip(*rows, strict=True)
    return DatasetDetections(
        np.array(images, np.int64),
        np.array(labels, np.int32),
        np.array(scores, np.float32),
        np.array(boxes, np.float32),
    )


@pytest.mark.parametrize("sets", [coco_sets, voc_sets])
def test_every_number_is_that_of_one_part(tmp_path, sets):
    results = {}
    for data_format, parts in sets(tmp_path):
        config = DataConfig(format=data_format, root=str(tmp_path), test=parts, classes=("cat", "dog"))
        dataset = read_dataset(config, "test")
        detections = detections_of(dataset)
        for metric in ("coco", "voc"):
            result = score_detections(detections, dataset, metric)
            found = [result.mean_ap, *(result.coco or {}).values()]
            found += [
                (entry.ap, entry.num_objects, entry.num_detections) for entry in result.classes.values()
            ]
            found += [size for sizes in (result.sizes or {}).values() for size in sizes.values()]
            results.setdefault(metric, []).append(repr(found))
    for numbers in results.values():
        assert len(numbers) > 1 and set(numbers) == {numbers[0]}


def test_the_numbers_by_hand(tmp_path):
    """The dog inside the crowd is no error, the box that leaves the image is not found, the cat is small."""
    *_, (data_format, parts), _ = coco_sets(tmp_path)
    config = DataConfig(format=data_format, root=str(tmp_path), test=parts, classes=("cat", "dog"))
    dataset = read_dataset(config, "test")
    result = score_detections(detections_of(dataset), dataset, "coco")
    assert (result.classes["cat"].ap, result.classes["dog"].ap) == (1.0, 0.0)
    assert result.classes["dog"].num_objects == 4
    assert (result.coco["APsmall"], result.coco["APlarge"]) == (1.0, 0.0)


def test_the_report_and_other_programs_agree_where_boxes_leave_the_image(tmp_path):
    for number, (data_format, parts) in enumerate(coco_sets(tmp_path)):
        config = DataConfig(format=data_format, root=str(tmp_path), test=parts, classes=("cat", "dog"))
        dataset = read_dataset(config, "test")
        detections = detections_of(dataset)
        result = score_detections(detections, dataset, "coco")
        assert analyse(detections, dataset, result).mean_ap50 == result.coco["AP50"] == 0.5
        truth = write_coco_files(detections, dataset, tmp_path / f"{number}.json")
        found = pycocotools_summary(truth, tmp_path / f"{number}.json")
        assert found == pytest.approx(result.coco, nan_ok=True, abs=0)
        names = [image["file_name"] for image in json.loads(truth.read_text())["images"]]
        assert len(set(names)) == 4
