"""The scan of image files: what it finds does not depend on threads, and few images are in memory."""

import numpy as np
from image_files import save
from PIL import Image
from small_datasets import dataset_of

from refinedet_tf.reports.inspection.image_scan import (
    find_same_images,
    repeated_images,
    scan_images,
    shared_images,
)


def files_of(folder, names, size=(40, 60)):
    return dataset_of([[]] * len(names), size, paths=[folder / name for name in names])


def test_pixels_decide_what_is_the_same(tmp_path):
    save(tmp_path / "a.png", seed=1)
    Image.open(tmp_path / "a.png").save(tmp_path / "a.bmp")
    save(tmp_path / "b.png", seed=2)
    # The same bytes in another shape are another image.
    Image.fromarray(np.asarray(Image.open(tmp_path / "a.png")).reshape(60, 40, 3)).save(
        tmp_path / "turned.png"
    )
    (tmp_path / "text.png").write_text("no image")
    train = files_of(tmp_path, ["a.png", "b.png", "turned.png", "text.png", "gone.png", "b.png"])
    train.image_sizes[2] = 60, 40
    test = files_of(tmp_path, ["b.png", "a.bmp", "text.png"])
    seen = []
    scans = {
        "train": scan_images(train, lambda *numbers: seen.append(numbers[:2]), workers=3),
        "test": scan_images(test, lambda *numbers: None),
    }
    assert seen == [(number, 6) for number in range(1, 7)]
    assert list(scans["train"].problems) == [3, 4]
    assert "text.png cannot be decoded" in scans["train"].problems[3]
    assert "gone.png does not exist" in scans["train"].problems[4]
    assert scans["train"] == scan_images(train, lambda *numbers: None, workers=1)
    same = find_same_images(scans)
    assert same == [[("train", 0), ("test", 1)], [("train", 1), ("train", 5), ("test", 0)]]
    assert shared_images(same, "train", "test") == [0, 1]
    assert shared_images(same, "test", "train") == [0, 1, 5]
    assert repeated_images(same, "train") == [[1, 5]]
    assert repeated_images(same, "test") == []


def test_wrong_size_is_a_problem(tmp_path):
    save(tmp_path / "a.png")
    scan = scan_images(files_of(tmp_path, ["a.png"], size=(60, 40)), lambda *numbers: None)
    assert "the annotation says 40x60 (width x height), the file is 60x40" in scan.problems[0]
    assert scan.digests == (None,)
