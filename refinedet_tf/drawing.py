"""Drawing of boxes, names and scores on images, and of several images on one sheet."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refinedet_tf.errors import InputError

UNKNOWN_COLOR = (160, 160, 160)
"""The colour of labels that have no class name."""

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SMALLEST_FONT = 9


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

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`; they are clipped to the image.
        labels: int [n], 1..C; a label without a name is drawn grey, as "class 37".
        class_names: C names, label 1 first.
        scores: float [n], shown as percentages and drawn in ascending order, so that the best box
            lies on top; None for ground truth, which is drawn in the given order.

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
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable").tolist()
    colors, texts = [], []
    for row in order:
        label = int(labels[row])
        known = 1 <= label <= len(class_names)
        colors.append(class_color(label) if known else UNKNOWN_COLOR)
        text = class_names[label - 1] if known else f"class {label}"
        texts.append(text if scores is None else f"{text} {100 * float(scores[row]):.0f}")
    return draw_boxes(image, boxes[order], colors, texts)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    texts: Sequence[str],
    text_size: int | None = None,
) -> np.ndarray:
    """Draws boxes in given colours on a copy of an image, in the given order.

    Args:
        image: uint8 [H, W, 3], RGB.
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`, min <= max; they are clipped to the image.
        colors: n RGB colours.
        texts: n texts above the boxes; an empty one draws the box alone.
        text_size: the size of the font in pixels; None: it grows with the image.

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
    text_size = text_size or max(height // 24, 12)
    corners = np.clip(boxes, 0, 1) * [height - 1, width - 1, height - 1, width - 1]
    for box, color, text in zip(corners.round().astype(int).tolist(), colors, texts, strict=True):
        top, left, bottom, right = box
        draw.rectangle([left, top, right, bottom], outline=color, width=line)
        if text:
            _draw_label(draw, text, left, top, color, (width, height), text_size)
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


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    left: float,
    top: float,
    color: tuple[int, int, int],
    image_size: tuple[int, int],
    text_size: int,
) -> None:
    """Draws a filled tag with `text` above (left, top), moved and shortened to stay inside the image.

    `image_size` is (width, height).
    """
    width, height = image_size
    font, text = _fit_text(draw, text, width - 4, min(height - 2, text_size))
    _, text_top, text_right, text_bottom = draw.textbbox((0, 0), text, font=font)
    tag_width, tag_height = text_right + 4, text_bottom - text_top + 4
    left = max(0, min(left, width - tag_width))
    if top - tag_height >= 0:
        top -= tag_height
    top = max(0, min(top, height - tag_height))
    draw.rectangle([left, top, left + tag_width - 1, top + tag_height - 1], fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if luminance > 128 else (255, 255, 255)
    draw.text((left + 2, top + 2 - text_top), text, fill=ink, font=font)


def _fit_text(
    draw: ImageDraw.ImageDraw, text: str, width: int, size: int
) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]:
    """Returns a font of at most `size` in which `text` is at most `width` pixels wide, and the text.

    If the smallest font is too wide, the end of the text is cut off.
    """
    font = ImageFont.load_default(max(size, _SMALLEST_FONT))
    length = draw.textlength(text, font=font)
    if length > width:
        font = ImageFont.load_default(max(int(size * width / length), _SMALLEST_FONT))
    while text and draw.textlength(text, font=font) > width:
        text = text[:-1]
    return font, text
