import colorsys
import json

import numpy as np
import pytest
from PIL import Image

from refinedet_tf.commands import generate_shapes
from refinedet_tf.commands.terminal import run
from refinedet_tf.config import DataConfig
from refinedet_tf.data import shapes
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError


@pytest.fixture(scope="module")
def sample():
    return [shapes.make_image(5, "train", index) for index in range(120)]


def test_an_image_is_a_function_of_seed_split_and_index(sample):
    image, objects = shapes.make_image(5, "train", 7)
    np.testing.assert_array_equal(image, sample[7][0])
    assert [(item.class_name, item.box) for item in objects] == [
        (item.class_name, item.box) for item in sample[7][1]
    ]
    others = [shapes.make_image(6, "train", 7), shapes.make_image(5, "test", 7), sample[8]]
    assert all(not np.array_equal(other[0], image) for other in others)


def test_images_and_boxes(sample):
    """Boxes are tight and inside."""
    assert len({image.shape for image, _ in sample}) > 50
    for image, objects in sample:
        height, width, channels = image.shape
        assert image.dtype == np.uint8 and channels == 3
        assert 240 <= min(height, width) <= max(height, width) <= 400
        for item in objects:
            xmin, ymin, xmax, ymax = item.box
            assert 1 <= xmin < xmax <= width and 1 <= ymin < ymax <= height
            cut = item.mask[ymin - 1 : ymax, xmin - 1 : xmax]
            assert cut.sum() == item.mask.sum()
            assert all(edge.any() for edge in (cut[0], cut[-1], cut[:, 0], cut[:, -1]))


def test_sizes_counts_and_classes(sample):
    counts = np.array([len(objects) for _, objects in sample])
    assert 0.02 <= np.mean(counts == 0) <= 0.15
    assert 7 <= counts.max() <= 8
    assert 3 < counts.mean() < 5
    items = [(image.shape, item) for image, objects in sample for item in objects]
    assert {item.class_name for _, item in items} == set(shapes.CLASS_NAMES)
    sides = []
    for (height, width, _), item in items:
        xmin, ymin, xmax, ymax = item.box
        # Those cut by the border are smaller than they were drawn.
        if min(xmin, ymin) > 1 and xmax < width and ymax < height:
            sides.append(max(xmax - xmin + 1, ymax - ymin + 1) / np.sqrt(height * width))
    assert 0.17 <= min(sides) < 0.22
    assert 0.42 < max(sides) <= 0.51


def test_what_is_painted(monkeypatch):
    """Colour is a hint that does not decide, and a shape differs from what was there before."""
    hues, drawn = [], []
    paint = shapes._paint

    def recording_paint(rng, image, coverage, window, inside, name):
        before = image.copy()
        paint(rng, image, coverage, window, inside, name)
        middle = image[window][coverage[inside] > 0.99].mean(axis=0) / 255
        hues.append((shapes.CLASS_NAMES.index(name) / 6, colorsys.rgb_to_hsv(*middle)[0]))
        changed = np.abs(image - before).max(axis=2) > 20
        mask = np.zeros(changed.shape, bool)
        mask[window] = coverage[inside] > 0.5
        drawn.append((np.mean(changed[mask]), np.count_nonzero(changed & ~mask) / mask.sum()))

    monkeypatch.setattr(shapes, "_paint", recording_paint)
    for index in range(60):
        shapes.make_image(5, "train", index)
    preferred, seen = np.array(hues).T
    distance = np.abs((seen - preferred + 0.5) % 1 - 0.5)
    assert 0.6 < np.mean(distance < 1 / 12) < 0.95  # The nearest hue is that of the class.
    assert np.quantile(distance, 0.9) < 0.17
    inside, outside = np.array(drawn).T
    assert np.mean(inside > 0.8) > 0.9  # Almost all of almost every shape can be told apart...
    assert outside.max() < 0.15  # ...and nothing but its soft edge lies outside the mask.


def test_hidden_shapes_are_difficult(sample):
    difficult = 0
    for _, objects in sample:
        hidden = np.zeros_like(objects[0].mask) if objects else None
        for item in reversed(objects):
            seen = np.count_nonzero(item.mask & ~hidden) / np.count_nonzero(item.mask)
            assert seen >= shapes.MIN_VISIBLE
            if item.difficult:
                # The share is that of the whole shape; a part outside the image makes it at most twice this.
                assert seen < 2 * shapes.DIFFICULT_BELOW
                difficult += 1
            else:
                assert seen >= shapes.DIFFICULT_BELOW
            hidden |= item.mask
    assert 0 < difficult < 0.1 * sum(len(objects) for _, objects in sample)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "set"
    assert shapes.write_shapes(root, {"train": 12, "test": 4}, seed=3)
    return root


def test_written_set_reads_as_voc(written):
    data = DataConfig(
        root=str(written), train=("2007/train",), test=("2007/test",), classes=shapes.CLASS_NAMES
    )
    train, test = read_dataset(data, "train", strict=True), read_dataset(data, "test", strict=True)
    assert (len(train), len(test)) == (12, 4)
    assert not set(train.image_ids) & set(test.image_ids)
    for index in range(12):
        image, objects = shapes.make_image(3, "train", index)
        boxes, labels, difficult = train.image_annotations(index)
        scale = np.array([image.shape[0], image.shape[1]] * 2)
        expected = [
            np.array([b[1] - 1, b[0] - 1, b[3], b[2]]) / scale for b in (item.box for item in objects)
        ]
        np.testing.assert_allclose(boxes, np.reshape(expected, (-1, 4)), atol=1e-6)
        assert [shapes.CLASS_NAMES[label - 1] for label in labels] == [item.class_name for item in objects]
        assert difficult.tolist() == [item.difficult for item in objects]
        assert tuple(train.image_sizes[index]) == image.shape[:2]
        with Image.open(train.image_paths[index]) as file:
            error = np.abs(np.asarray(file, np.float32) - image)
        assert error.mean() < 12  # JPEG


def test_writing_again(written, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert not shapes.write_shapes(written, {"test": 4, "train": 12}, seed=3)
    for sizes, seed in [({"train": 12, "test": 4}, 4), ({"train": 13, "test": 4}, 3), ({"train": 12}, 3)]:
        with pytest.raises(InputError, match="holds another set of shapes: name a new folder"):
            shapes.write_shapes(written, sizes, seed)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds other files or an unfinished set"):
        shapes.write_shapes(tmp_path, {"train": 1})


def test_smaller_set_is_the_beginning_of_a_larger_one(written, tmp_path):
    shapes.write_shapes(tmp_path, {"train": 2}, seed=3)
    for name in ("JPEGImages/train_000001.jpg", "Annotations/train_000001.xml"):
        assert (tmp_path / "VOC2007" / name).read_bytes() == (written / "VOC2007" / name).read_bytes()


def test_command(tmp_path, capsys):
    root = tmp_path / "set"
    arguments = [str(root), "--train", "2", "--val", "1", "--test", "1", "--seed", "9"]
    for _ in range(2):
        run(generate_shapes.main, arguments)
    assert json.loads((root / "shapes.json").read_text())["seed"] == 9
    assert (root / "VOC2007/ImageSets/Main/test.txt").read_text() == "test_000000\n"
    line = f"{root}: 2 images for train, 1 images for val, 1 images for test, seed 9"
    assert capsys.readouterr().out.splitlines() == [line, f"{line} (already there)"]
    with pytest.raises(SystemExit) as stopped:
        run(generate_shapes.main, [*arguments, "--seed", "8"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("sizes", "seed"), [({}, 0), ({"train": 0}, 0), ({"train": 1}, -1)])
def test_impossible_sets(tmp_path, sizes, seed):
    with pytest.raises(InputError, match="at least 1 image per split and a seed of at least 0"):
        shapes.write_shapes(tmp_path / "set", sizes, seed)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("marker", ["[" * 100_000, "9" * 5_000, "\0", "{" + " " * 20_000 + "}"], ids=range(4))
def test_a_folder_with_a_hostile_marker_holds_other_files(tmp_path, marker):
    (tmp_path / "shapes.json").write_text(marker)
    with pytest.raises(InputError, match="holds other files or an unfinished set of shapes"):
        shapes.write_shapes(tmp_path, {"train": 1})


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_folder_that_cannot_be(tmp_path, name):
    with pytest.raises(InputError, match="cannot be written: (File name too|the name holds a null)"):
        shapes.write_shapes(tmp_path / name, {"train": 1})


@pytest.mark.parametrize("object_pixels", [(8, 8), (4, 12)])
def test_objects_of_a_given_size(object_pixels):
    smallest, largest = object_pixels
    sides = []
    for index in range(60):
        image, objects = shapes.make_image(5, "train", index, object_pixels)
        for item in objects:
            xmin, ymin, xmax, ymax = item.box
            if min(xmin, ymin) > 1 and xmax < image.shape[1] and ymax < image.shape[0]:
                sides.append(max(xmax - xmin, ymax - ymin) + 1)
    assert len(sides) > 150
    # The mask holds the pixels of which at least half is covered.
    assert smallest - 2 <= min(sides) <= smallest and max(sides) == largest
    if smallest == largest:
        assert np.mean(np.array(sides) == 8) > 0.7


def test_command_with_an_object_size(tmp_path, capsys):
    sizes = ["--train", "1", "--val", "1", "--test", "1"]
    for name, values in (("small", ["8"]), ("range", ["8", "16"]), ("usual", [])):
        option = ["--object-size", *values] if values else []
        run(generate_shapes.main, [str(tmp_path / name), *sizes, *option])
        marker = json.loads((tmp_path / name / "shapes.json").read_text())
        expected = {"small": [8, 8], "range": [8, 16], "usual": None}
        assert marker.get("object_pixels") == expected[name]
    capsys.readouterr()
    for values, message in [
        (["8", "9", "10"], "argument --object-size: give one number or two, got 3"),
        (["16", "8"], "one number or two, the smallest first, within 4..200 pixels, got [16.0, 8.0]"),
        (["2"], "within 4..200 pixels, got [2.0, 2.0]"),
        (["nan"], "within 4..200 pixels, got [nan, nan]"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run(generate_shapes.main, [str(tmp_path / "other"), *sizes, "--object-size", *values])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
