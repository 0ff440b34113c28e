"""The images with the most errors, and pictures of them with the boxes of truth and detection."""

import dataclasses

import numpy as np

from refinedet_tf.drawing import draw_boxes, scale_image
from refinedet_tf.fonts import name_font
from refinedet_tf.reports.errors.error_kinds import KINDS, ErrorKinds
from refinedet_tf.reports.errors.matched_detections import MatchedDetections

OBJECT_COLOR, RIGHT_COLOR = (255, 255, 255), (40, 200, 90)
WRONG_COLOR, NOT_FOUND_COLOR = (240, 60, 60), (255, 205, 40)

PICTURE_SIDE = 480
"""The longer side of a picture in pixels. Small images are enlarged, so that names have room in them."""


@dataclasses.dataclass(frozen=True)
class ImageErrors:
    """The errors on one image at given thresholds.

    Attributes:
        image: the index of the image in the dataset.
        weight: the number of objects that are not found plus the scores of the wrong detections.
        right: int64 [r], rows of the matched detections that are right.
        wrong: int64 [w], rows of the matched detections that are wrong.
        not_found: int64 [n], rows of the objects that no detection finds.
    """

    image: int
    weight: float
    right: np.ndarray
    wrong: np.ndarray
    not_found: np.ndarray


def worst_images(matches: MatchedDetections, thresholds: np.ndarray, count: int) -> list[ImageErrors]:
    """Ranks the images by the weight of their errors; of equal ones, the first in the dataset comes first.

    The thresholds are those of `MatchedDetections.kept`. At most `count` images come, none without an error.
    """
    detections, ground_truth = matches.detections, matches.ground_truth
    kept = matches.kept(thresholds)
    right = kept & matches.true_positive
    wrong = kept & ~right
    not_found = ~ground_truth.difficult
    not_found[matches.objects[right]] = False
    num_images = len(ground_truth.image_sizes)
    weights = np.bincount(
        detections.images[wrong], detections.scores[wrong].astype(np.float64), num_images
    ) + np.bincount(ground_truth.images[not_found], minlength=num_images)
    ranked = np.argsort(-weights, kind="stable")[:count]
    return [
        ImageErrors(
            int(image),
            float(weights[image]),
            np.flatnonzero(right & (detections.images == image)),
            np.flatnonzero(wrong & (detections.images == image)),
            np.flatnonzero(not_found & (ground_truth.images == image)),
        )
        for image in ranked
        if weights[image] > 0
    ]


def draw_errors(
    pixels: np.ndarray,
    image_errors: ImageErrors,
    matches: MatchedDetections,
    error_kinds: ErrorKinds,
    class_names: tuple[str, ...],
) -> np.ndarray:
    """Draws the objects of an image, and its right and wrong detections, in different colours.

    Objects are white, right detections green; objects that are not found are yellow with their class, and
    wrong detections red with class, score in percent and kind of error, as far as the names have room.
    Difficult objects are not drawn.

    The image is uint8 [H, W, 3], RGB, and the picture uint8 [h, w, 3] with `PICTURE_SIDE` as its longer side.
    """
    detections, ground_truth = matches.detections, matches.ground_truth
    here = np.flatnonzero((ground_truth.images == image_errors.image) & ~ground_truth.difficult)
    objects = np.setdiff1d(here, image_errors.not_found)
    wrong = image_errors.wrong[::-1]  # The highest score lies on top.
    font = name_font(class_names)
    texts: list[list[str]] = [[] for _ in (*objects, *image_errors.right)]
    texts += [[font.names[label - 1]] for label in ground_truth.labels[image_errors.not_found].tolist()]
    for row in wrong.tolist():
        text = describe_error(row, matches, error_kinds, font.names)
        texts.append([text, text.rpartition(" ")[0]])
    groups = (
        (ground_truth.boxes[objects], OBJECT_COLOR),
        (detections.boxes[image_errors.right], RIGHT_COLOR),
        (ground_truth.boxes[image_errors.not_found], NOT_FOUND_COLOR),
        (detections.boxes[wrong], WRONG_COLOR),
    )
    boxes = np.concatenate([group for group, _ in groups])
    colors = [color for group, color in groups for _ in group]
    return draw_boxes(scale_image(pixels, PICTURE_SIDE), boxes, colors, texts, font)


def describe_error(
    row: int, matches: MatchedDetections, error_kinds: ErrorKinds, class_names: tuple[str, ...]
) -> str:
    """Returns the class, the score in percent and the kind of a wrong detection, `star 87 background`."""
    score = 100 * float(matches.detections.scores[row])
    return f"{class_names[matches.detections.labels[row] - 1]} {score:.0f} {KINDS[error_kinds.kinds[row]]}"
