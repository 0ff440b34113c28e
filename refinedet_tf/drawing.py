"""Drawing of boxes, names and scores on images, and of several images on one sheet."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from refinedet_tf.errors import InputError
from refinedet_tf.fonts import PLAIN, Font, NameFont, name_font

UNKNOWN_COLOR = (160, 160, 160)
"""The colour of labels that have no class name."""

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SMALLEST_FONT = 9

LARGEST_HIDDEN_SHARE = 0.15
"""A name may hide at most this share of the area of any box; where it would hide more, it is left out."""

_UNNOTICED_SHARE = 0.05
"""Less than this is no reason for another place of a name."""


def class_color(label: int) -> tuple[int, int, int]:
    """Returns the RGB colour of a label (1..C).

    The hues advance by the golden ratio, so that neighbouring labels differ clearly.
    """
    hue = (label - 1) * _GOLDEN_RATIO % 1.0
    value, saturation = ((1.0, 0.85), (0.75, 0.95), (1.0, 0.5))[(label - 1) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Draws boxes with their class names on a copy of an image.

    A name stands above, below or beside its box, or inside, where it hides the least of all objects. Where it
    would hide another name or more than `LARGEST_HIDDEN_SHARE` of a box, it is drawn smaller, then as the
    score alone, and at last not at all: the colour of the box still says the class.

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`; they are clipped to the image.
        labels: int [n], 1..C; a label without a name is drawn grey, as "class 37".
        class_names: C names, label 1 first.
        scores: float [n], shown as percentages and drawn in ascending order, so that the best box
            lies on top and has the first choice of a place for its name; None for ground truth, which is
            drawn in the given order.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: the image is not uint8 RGB, the lengths differ, or a box is inverted or not finite.
    """
    _check_image(image)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise InputError("boxes, labels and scores must have one length")
    for row, box in enumerate(boxes):
        if not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise InputError(
                f"box {row} is {box.tolist()}; [ymin, xmin, ymax, xmax] must be finite, min <= max"
            )
    order = list(range(len(boxes))) if scores is None else np.argsort(scores, kind="stable").tolist()
    font = name_font(class_names)
    colors, texts = [], []
    for row in order:
        label = int(labels[row])
        known = 1 <= label <= len(class_names)
        colors.append(class_color(label) if known else UNKNOWN_COLOR)
        texts.append([font.names[label - 1] if known else f"class {label}"])
        if scores is not None:
            score = f"{100 * float(scores[row]):.0f}"
            texts[-1] = [f"{texts[-1][0]} {score}", score]
    return draw_boxes(image, boxes[order], colors, texts, font)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    texts: Sequence[Sequence[str]],
    font: NameFont = PLAIN,
) -> np.ndarray:
    """Draws boxes in given colours on a copy of an image, in the given order.

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`, min <= max; they are clipped to the image.
        colors: n RGB colours.
        texts: n lists of texts; the first that has a place stands at the box, and none at one with an empty
            list. The last box has the first choice of a place.
        font: the font of the texts, by default for ASCII texts.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: the image is not uint8 RGB.
    """
    _check_image(image)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    line = max(1, round(min(height, width) / 200))
    corners = np.clip(boxes, 0, 1) * [height - 1, width - 1, height - 1, width - 1]
    corners = corners.round().astype(int)[:, [1, 0, 3, 2]]  # left, top, right, bottom
    for box, color in zip(corners.tolist(), colors, strict=True):
        draw.rectangle(box, outline=color, width=line)
    tags = _Tags(draw, corners, (width, height), font)
    for row in reversed(range(len(corners))):
        tags.draw(row, texts[row], colors[row])
    return np.asarray(canvas)


def contact_sheet(images: Sequence[np.ndarray]) -> np.ndarray:
    """Places images in a grid with about as many rows as columns, from left to right.

    Args:
        images: uint8 [H, W, 3] each, RGB, of any sizes; a smaller image is centred in its cell.

    Returns:
        uint8 [rows * cell height, columns * cell width, 3]; the gaps are dark grey.

    Raises:
        InputError: there is no image, or one is not uint8 RGB.
    """
    if len(images) == 0:
        raise InputError("a contact sheet needs at least one image")
    for image in images:
        _check_image(image)
    gap = 4
    cell_height = max(image.shape[0] for image in images) + gap
    cell_width = max(image.shape[1] for image in images) + gap
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell_height, columns * cell_width, 3), 48, np.uint8)
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        top = number // columns * cell_height + (cell_height - height) // 2
        left = number % columns * cell_width + (cell_width - width) // 2
        sheet[top : top + height, left : left + width] = image
    return sheet


def scale_image(image: np.ndarray, side: int) -> np.ndarray:
    """Returns an image, uint8 [h, w, 3], whose larger side has `side` pixels; the aspect ratio is kept."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Every pixel is smoothed from the whole area that it shows, so that small objects do not vanish.
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")


class _Tags:
    """The filled tags with the names of boxes.

    The corners, int [n, 4], are left, top, right, bottom of all boxes, and the image size (width, height), in
    pixels.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, corners: np.ndarray, image_size: tuple[int, int], font: NameFont
    ) -> None:
        self.pen = draw
        self.font = font
        self.corners = corners
        self.width, self.height = image_size
        self.areas = np.maximum((corners[:, 2:] - corners[:, :2]).prod(axis=1), 1)
        self.placed = np.zeros((0, 4), int)

    def draw(self, row: int, texts: Sequence[str], color: tuple[int, int, int]) -> None:
        """Draws the tag of box `row` with the first of the texts that has a place."""
        usual = min(self.height - 2, max(self.height // 24, 12))
        for text in texts:
            for size in dict.fromkeys((usual, min(usual, _SMALLEST_FONT))):
                font, shown = self._fit(text, size)
                if shown and self._draw_at_best_place(row, shown, font, color):
                    return

    def _fit(self, text: str, size: int) -> tuple[Font, str]:
        """Returns a font of at most `size` in which a text fits the width of the picture, and the text.

        If the smallest font is too wide, the end of the text is cut off.
        """
        width = self.width - 4
        font = self.font.of_size(max(size, _SMALLEST_FONT))
        length = self.pen.textlength(text, font=font)
        if length > width:
            font = self.font.of_size(max(int(size * width / length), _SMALLEST_FONT))
        while text and self.pen.textlength(text, font=font) > width:
            text = text[:-1]
        return font, text

    def _draw_at_best_place(self, row: int, text: str, font: Font, color: tuple[int, int, int]) -> bool:
        """Draws a tag where it hides the least; returns false if it hides too much everywhere."""
        _, text_top, text_right, text_bottom = self.pen.textbbox((0, 0), text, font=font)
        tag_width, tag_height = int(text_right) + 4, int(text_bottom - text_top) + 4
        places = self._places(row, tag_width, tag_height)
        free = _overlaps(places, self.placed).sum(axis=1) == 0
        hidden = (_overlaps(places, self.corners) / self.areas).max(axis=1)
        hidden[hidden <= _UNNOTICED_SHARE] = 0.0
        hidden[~free] = np.inf
        best = int(hidden.argmin())
        if hidden[best] > LARGEST_HIDDEN_SHARE:
            return False
        left, top, right, bottom = places[best].tolist()
        self.pen.rectangle([left, top, right - 1, bottom - 1], fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (0, 0, 0) if luminance > 128 else (255, 255, 255)
        self.pen.text((left + 2, top + 2 - text_top), text, fill=ink, font=font)
        self.placed = np.concatenate([self.placed, places[best][None]])
        return True

    def _places(self, row: int, tag_width: int, tag_height: int) -> np.ndarray:
        """Returns int [7, 4], the places of a tag by preference, moved to lie inside the image."""
        left, top, right, bottom = self.corners[row].tolist()
        starts = np.array(
            [
                (left, top - tag_height),
                (right + 1 - tag_width, top - tag_height),
                (left, bottom + 1),
                (right + 1 - tag_width, bottom + 1),
                (right + 1, top),
                (left - tag_width, top),
                (left, top),
            ]
        )
        starts = np.clip(starts, 0, np.maximum([self.width - tag_width, self.height - tag_height], 0))
        return np.concatenate([starts, starts + [tag_width, tag_height]], axis=1)


def _overlaps(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns int [n, m], the pixels that rectangles [n, 4] and [m, 4] (left, top, right, bottom) share."""
    first = np.maximum(places[:, None, :2], boxes[None, :, :2])
    last = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    return np.maximum(last - first, 0).prod(axis=-1)
