"""A generated dataset: textured shapes on cluttered backgrounds, written as a VOC devkit.

    refinedet generate-shapes data/shapes --train 2000 --test 200

The set needs no download. The ordinary VOC reader reads it, with data.root data/shapes and the parts
2007/train, 2007/val and 2007/test. As with real objects, colour gives a hint of the class: each class
prefers a hue, but the hues of neighbouring classes overlap. Backgrounds are less saturated. Texture does
not depend on the class.
"""

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from refinedet_tf.data.textures import color_of, draw_clutter, near, texture
from refinedet_tf.errors import InputError, shortened
from refinedet_tf.files import explain_os_errors, is_file, is_folder, list_folder
from refinedet_tf.json_files import read_json
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter, with_progress

CLASS_NAMES = ("circle", "cross", "rectangle", "ring", "star", "triangle")

IMAGE_SIDES = (240, 400)
"""The smallest and the largest side in pixels; height and width are drawn independently."""

OBJECT_SIDES = (0.18, 0.5)
"""The range of the longer side of a shape's box, as a fraction of the geometric mean of the image's sides."""

SMALLEST_PIXELS, LARGEST_PIXELS = 4, 200
"""The bounds of the sides that a set with objects of a given size in pixels may have."""

COUNT_PROBABILITIES = (0.06, 0.08, 0.12, 0.15, 0.17, 0.16, 0.13, 0.08, 0.05)
"""The probabilities that an image has 0, 1, 2... shapes. It gets fewer shapes if there is no room."""

HUE_DEVIATION = 0.06
"""The standard deviation of a shape's hue around the hue of its class, in turns of the colour circle. The
hues of neighbouring classes are 1/6 apart."""

DIFFICULT_BELOW = 0.5
"""A shape is marked difficult if less than this fraction of it is visible."""

MIN_VISIBLE = 0.3
"""No shape is placed such that less than this fraction of any shape stays visible."""

MARKER = "shapes.json"
_GENERATOR = 1  # Increase this number when a change of the code makes the same seed give other images.
_SUPERSAMPLING = 3


class Shape(NamedTuple):
    """One object of a generated image."""

    class_name: str
    mask: np.ndarray
    """bool [height, width] of the whole image: the part of the shape inside it, hidden by others or not."""
    difficult: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box of the mask: xmin, ymin, xmax, ymax in VOC's pixels, from 1 and with both ends."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        xmin, ymin, xmax, ymax = (int(i) + 1 for i in (columns[0], rows[0], columns[-1], rows[-1]))
        return xmin, ymin, xmax, ymax


def make_image(
    seed: int, split: str, index: int, object_pixels: tuple[float, float] | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Draws one image; the same arguments give the same image.

    Args:
        seed: the seed of the whole set.
        split: the name of the split; every split has its own random numbers.
        index: the number of the image in the split; the image does not depend on any other image.
        object_pixels: the range of the longer side of a shape's box in pixels; None: `OBJECT_SIDES`.

    Returns:
        The image, uint8 [height, width, 3] RGB, and its shapes from back to front.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    height, width = rng.integers(IMAGE_SIDES[0], IMAGE_SIDES[1] + 1, size=2)
    base = color_of(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.2, 0.9))
    image = texture(rng, height, width, near(rng, base), near(rng, base))
    draw_clutter(rng, image)

    wanted = rng.choice(len(COUNT_PROBABILITIES), p=COUNT_PROBABILITIES)
    placed: list[tuple[str, np.ndarray, int]] = []  # Class, mask, and area with what is outside the image.
    visible: list[np.ndarray] = []
    for _ in range(wanted):
        name = str(rng.choice(CLASS_NAMES))
        for _ in range(8):
            coverage, (top, left) = _random_coverage(rng, name, height, width, object_pixels)
            whole = int(np.count_nonzero(coverage > 0.5))
            window, inside = _overlap(coverage.shape, top, left, height, width)
            mask = np.zeros((height, width), bool)
            mask[window] = coverage[inside] > 0.5
            remaining = [seen & ~mask for seen in visible]
            # Of a very small shape, no pixel may be covered by half.
            if 0 < whole <= 2 * np.count_nonzero(mask) and all(
                np.count_nonzero(seen) >= MIN_VISIBLE * area
                for seen, (_, _, area) in zip(remaining, placed, strict=True)
            ):
                _paint(rng, image, coverage, window, inside, name)
                placed.append((name, mask, whole))
                visible = [*remaining, mask]
                break
    image += rng.integers(-9, 10, size=(height, width, 1), dtype=np.int8)
    image = np.clip(image, 0, 255, out=image).astype(np.uint8)
    return image, [
        Shape(name, mask, bool(np.count_nonzero(seen) < DIFFICULT_BELOW * area))
        for seen, (name, mask, area) in zip(visible, placed, strict=True)
    ]


def write_shapes(
    root: str | Path,
    split_sizes: dict[str, int],
    seed: int = 0,
    object_pixels: tuple[float, float] | None = None,
) -> bool:
    """Writes a set as root/VOC2007 with one split per entry, and root/shapes.json with the parameters.

    Images are called train_000000 and so on. A smaller set equals the beginning of a larger one.

    Args:
        root: a new or empty folder, or one that holds exactly this set already.
        split_sizes: split name -> number of images, at least 1.
        seed: 0 or more.
        object_pixels: the range of the longer side of a shape's box in pixels of the image, within 4..200;
            None: 0.18 to 0.5 of the image's size.

    Returns:
        True if the set was written, False if it was there already.

    Raises:
        InputError: a size, the seed or `object_pixels` is out of range, or the folder holds something else.
    """
    root = Path(root)
    if not split_sizes or min(split_sizes.values()) < 1 or seed < 0:
        raise InputError(
            f"a set of shapes needs at least 1 image per split and a seed of at least 0, "
            f"got {split_sizes} and seed {seed}"
        )
    marker = {"generator": _GENERATOR, "seed": seed, "splits": dict(sorted(split_sizes.items()))}
    if object_pixels is not None:
        smallest, largest = object_pixels
        if not SMALLEST_PIXELS <= smallest <= largest <= LARGEST_PIXELS:
            raise InputError(
                f"the size of objects must be one number or two, the smallest first, within "
                f"{SMALLEST_PIXELS}..{LARGEST_PIXELS} pixels, got {shortened(list(object_pixels))}"
            )
        marker["object_pixels"] = [smallest, largest]
    if _holds(root, marker):
        return False
    folder = root / "VOC2007"
    with explain_os_errors(folder):
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        for split, size in split_sizes.items():
            ids = [f"{split}_{index:06d}" for index in range(size)]
            for index, image_id in enumerate(
                with_progress(ids, size, ProgressPrinter(f"drawing {split}", QUIET_SECONDS))
            ):
                image, shapes = make_image(seed, split, index, object_pixels)
                Image.fromarray(image).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=88)
                xml = _annotation(image_id, image.shape, shapes)
                (folder / "Annotations" / f"{image_id}.xml").write_text(xml, encoding="utf-8")
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        # This file is written last, so that an interrupted set is not taken for a whole one.
        (root / MARKER).write_text(json.dumps(marker) + "\n")
    return True


def _holds(root: Path, marker: dict) -> bool:
    """Returns whether the folder already holds exactly this set; refuses one that holds anything else."""
    if is_file(root):
        raise InputError(f"{root} is not a folder")
    if not is_folder(root) or not list_folder(root):
        return False
    try:
        found = read_json(root / MARKER, max_bytes=10_000)
    except InputError:
        found = None
    if found == marker:
        return True
    content = "another set of shapes" if found else "other files or an unfinished set of shapes"
    raise InputError(f"{root} holds {content}: name a new folder, or remove this one first")


def _annotation(image_id: str, shape: tuple[int, ...], shapes: Sequence[Shape]) -> str:
    objects = "".join(
        f"  <object>\n    <name>{item.class_name}</name>\n    <difficult>{int(item.difficult)}</difficult>\n"
        f"    <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n"
        "  </object>\n"
        for item in shapes
        for xmin, ymin, xmax, ymax in [item.box]
    )
    return (
        f"<annotation>\n  <filename>{image_id}.jpg</filename>\n"
        f"  <size><width>{shape[1]}</width><height>{shape[0]}</height><depth>3</depth></size>\n"
        f"{objects}</annotation>\n"
    )


def _outline(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Draws polygons [K, 2] (x, y) around the origin, in any unit; those after the first are holes."""
    if name in ("circle", "ring"):
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        disc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return [disc] if name == "circle" else [disc, disc * rng.uniform(0.5, 0.65)]
    if name == "rectangle":
        return [np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])]
    if name == "triangle":
        return [np.array([[rng.uniform(-0.5, 0.5), -1.0], [1, 0.8], [-1, 0.8]])]
    if name == "star":
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1.0)
        return [np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)]
    arm = rng.uniform(0.25, 0.4)
    quarter = np.array([[arm, -1.0], [arm, -arm], [1, -arm]])
    turns = [np.array([[0, -1], [1, 0]])] * 3
    corners = [quarter]
    for turn in turns:
        corners.append(corners[-1] @ turn.T)
    return [np.concatenate(corners)]


def _random_coverage(
    rng: np.random.Generator, name: str, height: int, width: int, object_pixels: tuple[float, float] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Draws a shape of random form, size, rotation and place in an image of the given height and width.

    Returns:
        The coverage of each pixel, float32 [h, w], 0..1, and (top, left) in the image.
    """
    polygons = _outline(rng, name)
    stretch = np.array([np.exp(rng.uniform(-0.6, 0.6) if name == "rectangle" else rng.uniform(-0.2, 0.2)), 1])
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    polygons = [(polygon * stretch) @ rotation.T for polygon in polygons]
    low, high = polygons[0].min(axis=0), polygons[0].max(axis=0)
    unit, sides = (math.sqrt(height * width), OBJECT_SIDES) if object_pixels is None else (1.0, object_pixels)
    side = unit * np.exp(rng.uniform(*np.log(sides)))
    scale = side / (high - low).max()
    columns, rows = np.ceil((high - low) * scale).astype(int)

    canvas = Image.new("L", (int(columns) * _SUPERSAMPLING, int(rows) * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon, value in zip(polygons, (255, 0), strict=False):
        points = (polygon - low) * scale * _SUPERSAMPLING
        draw.polygon([tuple(point) for point in points.tolist()], fill=value)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / 255
    # Up to a fifth of the shape may stick out of the image.
    top = int(rng.uniform(-0.2 * rows, height - 0.8 * rows))
    left = int(rng.uniform(-0.2 * columns, width - 0.8 * columns))
    return coverage, (top, left)


def _overlap(
    shape: tuple[int, ...], top: int, left: int, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the slices of the image that a patch covers, and the slices of the patch that lie inside."""
    window = (
        slice(max(top, 0), min(top + shape[0], height)),
        slice(max(left, 0), min(left + shape[1], width)),
    )
    inside = (
        slice(window[0].start - top, window[0].stop - top),
        slice(window[1].start - left, window[1].stop - left),
    )
    return window, inside


def _paint(
    rng: np.random.Generator,
    image: np.ndarray,
    coverage: np.ndarray,
    window: tuple[slice, slice],
    inside: tuple[slice, slice],
    name: str,
) -> None:
    """Draws a shape with a texture, and sometimes a rim, into `image` (float32) in place."""
    hue = CLASS_NAMES.index(name) / len(CLASS_NAMES) + rng.normal(0, HUE_DEVIATION)
    first = color_of(hue, rng.uniform(0.6, 1), rng.uniform(0.6, 1))
    second = near(rng, first, 70)
    height, width = coverage.shape
    fill = texture(rng, height, width, first, second)
    if rng.random() < 0.5:
        shrunk = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(5))
        inner = np.asarray(shrunk, np.float32)[..., None] / 255
        fill = fill * inner + rng.choice([15.0, 240.0]) * (1 - inner)
    alpha = coverage[inside][..., None]
    image[window] += (fill[inside] - image[window]) * alpha
