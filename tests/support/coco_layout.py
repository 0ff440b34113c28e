"""Writes COCO data sets: a JSON file of annotations and a folder of images."""

import json


def write_coco(root, tree, file="annotations/instances_train2017.json", folder="train2017"):
    (root / "annotations").mkdir(exist_ok=True)
    (root / folder).mkdir(exist_ok=True)
    for image in tree.get("images", []):
        if "file_name" in image:
            (root / folder / str(image["file_name"])).touch()
    (root / file).write_text(json.dumps(tree))
