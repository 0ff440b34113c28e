"""Pure functions on boxes.

A box is normalised `[ymin, xmin, ymax, xmax]`, float32. An offset is `[cx, cy, w, h]`, the order of
the authors' program, so that imported weights keep their meaning.
"""

from keras import ops

from refinedet_tf.tensors import Tensor

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""The units of the offsets (cx, cy, w, h), as in SSD and the authors' code."""

MAX_LOG_SCALE = 10.0
"""The upper bound of ln(w / w_anchor) in decoding. It keeps exp from overflowing."""


def area(boxes: Tensor) -> Tensor:
    """Returns the areas of `boxes` [..., 4] as float [...]; an inverted box has area 0."""
    height = ops.maximum(boxes[..., 2] - boxes[..., 0], 0.0)
    width = ops.maximum(boxes[..., 3] - boxes[..., 1], 0.0)
    return height * width


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Returns the intersection over union (IoU) of every box of `a` with every box of `b`.

    Coordinates are continuous: a box is xmax - xmin wide, without "+1".

    Args:
        a: float32 [..., N, 4].
        b: float32 [..., M, 4]; its leading axes broadcast with those of `a`.

    Returns:
        float32 [..., N, M] in 0..1, and 0 where the union is empty.
    """
    a_column, b_row = ops.expand_dims(a, -2), ops.expand_dims(b, -3)
    top = ops.maximum(a_column[..., 0], b_row[..., 0])
    left = ops.maximum(a_column[..., 1], b_row[..., 1])
    bottom = ops.minimum(a_column[..., 2], b_row[..., 2])
    right = ops.minimum(a_column[..., 3], b_row[..., 3])
    intersection = ops.maximum(bottom - top, 0.0) * ops.maximum(right - left, 0.0)
    union = area(a_column) + area(b_row) - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def _center_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (cx, cy, width, height) of `boxes` [..., 4], each [...]."""
    ymin, xmin, ymax, xmax = (boxes[..., i] for i in range(4))
    return (xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Returns the offsets that move `anchors` onto `boxes`, in SSD's encoding with variances.

    Args:
        boxes: float32 [..., 4], of positive width and height.
        anchors: float32 [..., 4], of positive width and height.

    Returns:
        float32 [..., 4], `(dx/w/0.1, dy/h/0.1, ln(w'/w)/0.2, ln(h'/h)/0.2)`, where w and h are the
        anchor's sides and w' and h' the box's.
    """
    cx, cy, width, height = _center_form(boxes)
    anchor_cx, anchor_cy, anchor_width, anchor_height = _center_form(anchors)
    offsets = ops.stack(
        [
            (cx - anchor_cx) / anchor_width,
            (cy - anchor_cy) / anchor_height,
            ops.log(width / anchor_width),
            ops.log(height / anchor_height),
        ],
        axis=-1,
    )
    return offsets / ops.convert_to_tensor(VARIANCES, offsets.dtype)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Moves `anchors` by `offsets`; this is the inverse of `encode`.

    Args:
        offsets: float32 [..., 4], `(cx, cy, w, h)` in units of `VARIANCES`.
        anchors: float32 [..., 4], which broadcasts with `offsets`.

    Returns:
        float32 [..., 4], boxes that are not clipped to the image. Finite offsets give finite boxes.
    """
    scaled = offsets * ops.convert_to_tensor(VARIANCES, offsets.dtype)
    anchor_cx, anchor_cy, anchor_width, anchor_height = _center_form(anchors)
    cx = anchor_cx + scaled[..., 0] * anchor_width
    cy = anchor_cy + scaled[..., 1] * anchor_height
    width = anchor_width * ops.exp(ops.minimum(scaled[..., 2], MAX_LOG_SCALE))
    height = anchor_height * ops.exp(ops.minimum(scaled[..., 3], MAX_LOG_SCALE))
    return ops.stack([cy - height / 2, cx - width / 2, cy + height / 2, cx + width / 2], axis=-1)


def clip(boxes: Tensor) -> Tensor:
    """Cuts normalised `boxes` [..., 4] to the image, 0..1."""
    return ops.clip(boxes, 0.0, 1.0)
