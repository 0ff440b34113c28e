"""What the COCO metric compares with: the ground truth of several COCO files as one, and its limit."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycocotools.coco import COCO

MAX_DETECTIONS = 100
"""The metric counts so many detections per image and class, those of the highest scores."""

NAME_KEY = "dataset_id"
"""The key of an image whose number is not its id in the dataset; it holds that id."""


def indexed(tree: dict[str, Any]) -> "COCO":
    """Makes a `COCO` of the content of an annotation file."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        result = COCO()
        result.dataset = tree
        result.createIndex()
    return result


def join_ground_truths(
    parts: "Sequence[COCO]", image_ids: Sequence[str], image_paths: Sequence[str]
) -> "COCO":
    """Joins ground truths, so that the metric is that of the same images and objects in one file.

    Images and categories keep their numbers, unless two images have the same one, or the parts number the
    categories differently. Then images are numbered from 0 and categories from 1, in their order.
    "file_name" is the path below the folder that holds all images.

    Args:
        parts: the ground truths of the parts; crowd regions and areas are kept.
        image_ids: the N ids of the images of all parts in the dataset, in the order of the parts.
        image_paths: their N files.
    """
    old_ids = [entry["id"] for part in parts for entry in part.dataset["images"]]
    is_unique = len(set(old_ids)) == len(old_ids)
    file_names = names_below_common_folder(image_paths)
    categories = _joined_categories(parts)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for part in parts:
        new_ids = {}
        for entry in part.dataset["images"]:
            place = len(images)
            changes: dict[str, Any] = {"file_name": file_names[place]}
            if not is_unique:
                changes |= {"id": place, NAME_KEY: image_ids[place]}
            images.append(entry | changes)
            new_ids[entry["id"]] = images[-1]["id"]
        names = {category["id"]: category["name"] for category in part.dataset["categories"]}
        for entry in part.dataset["annotations"]:
            changes = {
                "id": len(annotations) + 1,
                "image_id": new_ids[entry["image_id"]],
                "category_id": categories[names[entry["category_id"]]],
            }
            annotations.append(entry | changes)
    return indexed(
        {
            "info": {},
            "images": images,
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": annotations,
        }
    )


def names_below_common_folder(paths: Sequence[str]) -> list[str]:
    """Returns the path of each file below the folder that holds all of them, with slashes."""
    # Some may be relative to the working directory and others absolute.
    files = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    folder = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(folder).as_posix() for file in files]


def _joined_categories(parts: "Sequence[COCO]") -> dict[str, int]:
    """Returns the number of each category by its name."""
    pairs = {(category["name"], category["id"]) for part in parts for category in part.dataset["categories"]}
    names = dict.fromkeys(category["name"] for part in parts for category in part.dataset["categories"])
    if len(pairs) == len(names) == len({number for _, number in pairs}):
        return {category["name"]: category["id"] for part in parts for category in part.dataset["categories"]}
    return {name: number for number, name in enumerate(names, start=1)}
