"""Time and memory of the index of a large dataset: python benchmarks/index_images.py

Writes a COCO file with many images and objects, with empty image files, into a temporary folder, indexes it
as training does, and draws the order of an epoch. Prints one JSON line.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.commands.terminal import run
from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset

IMAGES_PER_FOLDER = 10_000
NUM_CLASSES = 80


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, writes, indexes and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images (default: 1,000,000)")
    parser.add_argument("--objects", type=int, default=7, help="objects per image (default: 7, as in COCO)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder), options.images, options.objects)
        before = _peak_megabytes()
        start = time.perf_counter()
        data_config = DataConfig(format="coco", root=folder, train=("train2017",))
        dataset = read_dataset(data_config, "train")
        seconds = time.perf_counter() - start
        file = Path(folder) / "annotations" / "instances_train2017.json"
        figures = {
            "images": len(dataset),
            "objects": len(dataset.labels),
            "file_megabytes": round(file.stat().st_size / 2**20),
            "seconds": round(seconds, 1),
            "index_megabytes": round(_array_bytes(dataset) / 2**20),
            "megabytes_before": round(before),
            "peak_megabytes": round(_peak_megabytes()),
        }
        print(json.dumps(figures))


def write_coco(root: Path, num_images: int, objects_per_image: int) -> None:
    """Writes annotations/instances_train2017.json and the empty files of its images."""
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    with (root / "annotations" / "instances_train2017.json").open("w", encoding="utf-8") as file:
        file.write('{"categories": ')
        json.dump([{"id": number, "name": f"class {number}"} for number in range(1, NUM_CLASSES + 1)], file)
        file.write(', "images": [')
        for number in range(num_images):
            folder = f"{number // IMAGES_PER_FOLDER:04}"
            if number % IMAGES_PER_FOLDER == 0:
                (root / "train2017" / folder).mkdir(parents=True)
            name = f"{folder}/{number:012}.jpg"
            (root / "train2017" / name).touch()
            entry = {"id": number, "file_name": name, "height": 480, "width": 640}
            file.write(("," if number else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for number in range(num_images):
            corners = rng.integers(0, 400, (objects_per_image, 2))
            for row, (x, y) in enumerate(corners.tolist()):
                label = (number * 31 + row) % NUM_CLASSES + 1
                entry = {
                    "id": number * objects_per_image + row,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x, y, 60.5, 50.25],
                    "area": 3040.125,
                    "iscrowd": 0,
                }
                file.write(("," if number or row else "") + json.dumps(entry))
        file.write("]}")


def _array_bytes(dataset: object) -> int:
    """The bytes of the arrays and of the texts of an index."""
    fields = vars(dataset).values()
    arrays = sum(value.nbytes for value in fields if isinstance(value, np.ndarray))
    texts = [value for value in fields if isinstance(value, tuple)]
    return arrays + sum(sys.getsizeof(value) + sum(map(sys.getsizeof, value)) for value in texts)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    run(main)
