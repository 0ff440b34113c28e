"""Drawing of boxes that hides nothing: outlines around the objects, and names only where there is room."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from refinedet_tf.drawing import class_color
from refinedet_tf.fonts import name_font

FONT_SIZE = 12
PADDING = 2

OPACITY = 0.6
"""The opacity of the lines of anchors."""

ROUNDING = 0.01
"""A box touches a pixel if it covers more than this fraction of its width; less comes from rounding."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two exclusive."""


def draw_outlines(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Draws each box as an outline that runs outside of it, with the name of its class beside it.

    A name is left out where it would cover a box or another name; the colour still tells the class. The image
    is uint8 [H, W, 3], RGB; boxes are float [n, 4], normalised `[ymin, xmin, ymax, xmax]`, and labels 1..C.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    rectangles = [_rectangle(box, canvas.size) for box in boxes]
    lines = [2 if min(right - left, bottom - top) >= 24 else 1 for left, top, right, bottom in rectangles]
    # A black line around each coloured one makes both visible on any ground.
    for rectangle, line in zip(rectangles, lines, strict=True):
        draw.rectangle(_around(rectangle, line + 1), outline=(0, 0, 0))
    for rectangle, line, label in zip(rectangles, lines, labels, strict=True):
        draw.rectangle(_around(rectangle, line), outline=class_color(int(label)), width=line)
    names = name_font(class_names)
    font = names.of_size(FONT_SIZE)
    taken = list(rectangles)
    for rectangle, label in zip(rectangles, labels, strict=True):
        name, color = names.names[int(label) - 1], class_color(int(label))
        _, text_top, text_right, text_bottom = draw.textbbox((0, 0), name, font=font)
        size = math.ceil(text_right) + 2 * PADDING, math.ceil(text_bottom - text_top) + 2 * PADDING
        tag = _free_place(rectangle, size, canvas.size, taken)
        if tag is None:
            continue
        taken.append(tag)
        draw.rectangle([tag[0], tag[1], tag[2] - 1, tag[3] - 1], fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (0, 0, 0) if luminance > 128 else (255, 255, 255)
        draw.text((tag[0] + PADDING, tag[1] + PADDING - text_top), name, fill=ink, font=font)
    return np.asarray(canvas)


def draw_anchors(
    image: np.ndarray, anchors: np.ndarray, colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Draws anchors, which may leave the image, as translucent lines of one pixel in n colours.

    The image is uint8 [H, W, 3], RGB; anchors are float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
    """
    canvas = Image.fromarray(image)
    for anchor, color in zip(anchors, colors, strict=True):
        left, top, right, bottom = _rectangle(anchor, canvas.size)
        mask = Image.new("L", canvas.size)
        outline = [left, top, max(right - 1, left), max(bottom - 1, top)]
        ImageDraw.Draw(mask).rectangle(outline, outline=round(255 * OPACITY))
        canvas.paste(color, mask=mask)
    return np.asarray(canvas)


def _rectangle(box: np.ndarray, size: tuple[int, int]) -> Rectangle:
    """Returns the pixels that a box touches; `size` is (width, height)."""
    ymin, xmin, ymax, xmax = (float(value) for value in box)
    left = math.floor(xmin * size[0] + ROUNDING)
    top = math.floor(ymin * size[1] + ROUNDING)
    right = max(math.ceil(xmax * size[0] - ROUNDING), left + 1)
    return left, top, right, max(math.ceil(ymax * size[1] - ROUNDING), top + 1)


def _around(rectangle: Rectangle, distance: int) -> list[int]:
    """Returns a rectangle as Pillow takes it, with both ends, that is larger by `distance` on each side."""
    left, top, right, bottom = rectangle
    return [left - distance, top - distance, right + distance - 1, bottom + distance - 1]


def _free_place(
    box: Rectangle, size: tuple[int, int], image_size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Returns a place of `size` (width, height) next to `box` that lies in the image and covers nothing."""
    left, top, right, bottom = box
    width, height = size
    corners = [
        (left - 2, top - height - 2),
        (right - width + 2, top - height - 2),
        (left - 2, bottom + 2),
        (right - width + 2, bottom + 2),
        (right + 2, top),
        (left - width - 2, top),
        (right + 2, bottom - height),
        (left - width - 2, bottom - height),
    ]
    for x, y in corners:
        place = x, y, x + width, y + height
        inside = x >= 0 and y >= 0 and place[2] <= image_size[0] and place[3] <= image_size[1]
        if inside and not any(_overlap(place, rectangle) for rectangle in taken):
            return place
    return None


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
