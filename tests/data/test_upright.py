"""Images with an EXIF orientation are upright in the index, and so are their boxes."""

import json

import numpy as np
import pytest
from image_files import exif_with
from PIL import Image, ImageOps

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.upright import turn_boxes
from refinedet_tf.errors import InputError

ORIENTATIONS = range(1, 9)
BOX = (4, 2, 10, 9)
"""xmin, ymin, xmax, ymax of the object in the stored raster."""
HEIGHT, WIDTH = 12, 30


def painted(height=HEIGHT, width=WIDTH):
    """A black raster with a white object in `BOX`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels)


def save(path, orientation, image=None):
    (image or painted()).save(path, exif=exif_with(orientation))


def object_of(image):
    """The box xmin, ymin, xmax, ymax of the white pixels of an image."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def upright_object(path):
    """The size and the box of the image as Pillow turns it, which is another implementation."""
    upright = ImageOps.exif_transpose(Image.open(path))
    return [upright.height, upright.width], object_of(upright)


def test_turned_boxes_lie_on_the_turned_object(tmp_path):
    sizes, expected = [], []
    for orientation in ORIENTATIONS:
        save(tmp_path / "a.png", orientation)
        size, box = upright_object(tmp_path / "a.png")
        sizes.append(size)
        expected.append(box)
    assert len({tuple(box) for box in expected}) == 8
    corners = np.tile(np.float64(BOX), (8, 1))
    found = turn_boxes(corners, np.array(sizes), np.array(ORIENTATIONS, np.uint8))
    np.testing.assert_array_equal(found, expected)


def test_turns_keep_fractions_and_boxes_without_order():
    corners = np.array([[0.25, 1.5, 3.75, 2.125], [5.0, 1.0, 2.0, 3.0]])
    found = turn_boxes(corners, np.array([[30, 12]] * 2), np.array([6, 6], np.uint8))
    np.testing.assert_array_equal(found, [[12 - 2.125, 0.25, 12 - 1.5, 3.75], [9.0, 5.0, 11.0, 2.0]])


def read_coco(root, size, box, names=("a.png",)):
    """Reads a set whose annotation states `size` (height, width), or no size."""
    stated = {} if size is None else {"height": size[0], "width": size[1]}
    xmin, ymin, xmax, ymax = (float(value) for value in box)
    tree = {
        "images": [{"id": number, "file_name": name, **stated} for number, name in enumerate(names)],
        "annotations": [
            {"image_id": number, "category_id": 7, "bbox": [xmin, ymin, xmax - xmin, ymax - ymin], "area": 9}
            for number in range(len(names))
        ],
        "categories": [{"id": 7, "name": "cup"}],
    }
    (root / "a.json").write_text(json.dumps(tree))
    data = DataConfig(format="coco", root=str(root), train=("a.json:.",), test=("a.json:.",))
    return read_dataset(data, "test")


def check(dataset, size, box, orientation, unclear):
    height, width = size
    np.testing.assert_array_equal(dataset.image_sizes, [size])
    np.testing.assert_array_equal(dataset.orientations, np.array([orientation], np.uint8))
    assert dataset.orientations.dtype == np.uint8 and dataset.image_sizes.dtype == np.int32
    ymin, xmin, ymax, xmax = dataset.boxes[0] * [height, width, height, width]
    np.testing.assert_allclose([xmin, ymin, xmax, ymax], box, atol=1e-5)
    assert dataset.unclear_orientations == ((0,) if unclear else ())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_refer_to_what_the_stated_size_is_of(tmp_path, orientation):
    save(tmp_path / "a.png", orientation)
    size, box = upright_object(tmp_path / "a.png")
    turned = orientation > 1
    if orientation >= 5:
        check(read_coco(tmp_path, (HEIGHT, WIDTH), BOX), size, box, orientation, unclear=False)
        check(read_coco(tmp_path, size, box), size, box, orientation, unclear=False)
    else:
        check(read_coco(tmp_path, size, box), size, box, orientation, unclear=turned)
    check(read_coco(tmp_path, None, box), size, box, orientation, unclear=turned)


def test_boxes_of_a_square_refer_to_the_upright_image_and_other_sizes_are_kept(tmp_path):
    save(tmp_path / "a.png", 6, painted(HEIGHT, HEIGHT))
    _, box = upright_object(tmp_path / "a.png")
    check(read_coco(tmp_path, (HEIGHT, HEIGHT), box), (HEIGHT, HEIGHT), box, 6, unclear=True)
    save(tmp_path / "a.png", 6)
    check(read_coco(tmp_path, (40, 50), BOX), (40, 50), BOX, 6, unclear=False)


def test_a_file_without_a_header(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    check(read_coco(tmp_path, (40, 50), BOX), (40, 50), BOX, 1, unclear=False)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image: it is no JPEG"):
        read_coco(tmp_path, None, BOX)


def test_only_the_turned_images_change(tmp_path):
    """Boxes of the other images keep every bit."""
    box = (1 / 3, 0.1, 7.7, 9.9)
    save(tmp_path / "turned.png", 8)
    painted().save(tmp_path / "plain.png")
    alone = read_coco(tmp_path, (HEIGHT, WIDTH), box, ["plain.png"])
    both = read_coco(tmp_path, (HEIGHT, WIDTH), box, ["turned.png", "plain.png"])
    np.testing.assert_array_equal(both.boxes[1:], alone.boxes)
    np.testing.assert_array_equal(both.image_sizes, [[WIDTH, HEIGHT], [HEIGHT, WIDTH]])
    np.testing.assert_array_equal(both.orientations, [8, 1])
