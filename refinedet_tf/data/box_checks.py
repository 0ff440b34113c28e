"""The checks that every box of every format goes through, and the list of the boxes that fail them."""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import write_text

ROUNDING = 1.0
"""A box may cross the border of its image by this many pixels and still count as a rounding error, because
some annotation files are off by one."""

SHARE_OF_FRACTIONS = 0.5
"""From this share of boxes in fractions on, a part is refused as a whole, because its file is wrong."""

NOT_FINITE = "not finite"
NO_AREA = "without area"
FRACTIONS = "in fractions instead of pixels"
OUTSIDE = "outside the image"
CLIPPED = "partly outside, clipped"
ROUNDED = "at most a pixel outside, clipped"

DROPPED = (NOT_FINITE, NO_AREA, FRACTIONS, OUTSIDE)
REASONS = ("", ROUNDED, CLIPPED, *DROPPED)
"""The possible verdicts on a box; "" means that the box is good. `check_boxes` returns indices into
this tuple."""


@dataclasses.dataclass(frozen=True)
class BoxIssue:
    """A box that was dropped, or clipped by more than rounding."""

    image_id: str
    class_name: str
    box: tuple[float, ...]
    """The numbers of the annotation file (VOC and CSV: xmin, ymin, xmax, ymax; COCO: x, y, width, height;
    YOLO: centre x, centre y, width, height)."""
    reason: str
    """One of `REASONS`."""

    def __str__(self) -> str:
        return (
            f"{shortened_text(self.image_id)} {shortened_text(self.class_name, 100)} {format_box(self.box)}"
        )


@dataclasses.dataclass(frozen=True)
class BoxDefects:
    """The result of the checks of all boxes of a dataset."""

    num_boxes: int = 0
    """The number of boxes in the files, good and bad."""
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    """The number of boxes per reason, rounding included; reasons that never occurred are absent."""
    issues: tuple[BoxIssue, ...] = ()
    """Every dropped or clipped box, in the order of the files; rounded boxes are counted but not listed."""
    num_bad_if_swapped: int | None = None
    """The number of boxes that would be dropped or clipped with x and y swapped; None: not computed."""

    @property
    def num_bad(self) -> int:
        """The number of boxes that were dropped or clipped, without rounding."""
        return len(self.issues)

    @property
    def num_dropped(self) -> int:
        """The number of boxes that the dataset leaves out."""
        return sum(self.counts.get(reason, 0) for reason in DROPPED)

    def summary(self) -> str:
        """Returns one line such as "2 boxes dropped: 2 without area, e.g. img RBC [504, 337, 504, 337]"."""
        sentences = []
        if self.num_dropped:
            reasons = [
                f"{self.counts[reason]} {reason}, e.g. {self._example(reason)}"
                for reason in DROPPED
                if self.counts.get(reason)
            ]
            sentences.append(f"{_count(self.num_dropped, 'box')} dropped: {'; '.join(reasons)}")
        if clipped := self.counts.get(CLIPPED):
            sentences.append(f"{_count(clipped, 'box')} clipped, e.g. {self._example(CLIPPED)}")
        return "; ".join(sentences) or f"{_count(self.num_boxes, 'box')}, none dropped or clipped"

    def _example(self, reason: str) -> BoxIssue:
        return next(issue for issue in self.issues if issue.reason == reason)


def are_fractions(file_boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Says which boxes of a format that counts pixels are written in fractions of the image.

    All numbers of such a box lie within 0..1. In pixels it would be a speck in the corner of the image,
    which nobody annotates.

    Args:
        file_boxes: float64 [M, 4], the numbers of the file, in any order.
        sizes: int [M, 2], height and width in pixels of each box's image; a box within 0..1 is that of
            the whole image where a side is one pixel.

    Returns:
        bool [M].
    """
    rounding = 1e-3
    within = (file_boxes >= -rounding) & (file_boxes <= 1 + rounding)
    return np.logical_and(within.all(axis=1), (np.asarray(sizes) > 1).all(axis=1))


def check_boxes(
    corners: np.ndarray, has_area: np.ndarray, sizes: np.ndarray, fractions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Normalises boxes and says what is wrong with each.

    A box that is not finite, has no area, is in fractions, or lies wholly outside its image is to be
    dropped, because a box in fractions and one in pixels do not mean the same. A box that
    crosses the border is clipped; if it does so by at most `ROUNDING` pixels, this counts as rounding.

    Args:
        corners: float64 [M, 4], xmin, ymin, xmax, ymax in continuous pixels (the left edge of the
            image is 0, the right edge is its width).
        has_area: bool [M], whether the box has an area by the convention of its format.
        sizes: int [M, 2], height and width of each box's image.
        fractions: bool [M], which boxes are in fractions instead of pixels (see `are_fractions`); None: no
            box is.

    Returns:
        boxes: float32 [M, 4], normalised ymin, xmin, ymax, xmax in 0..1; the rows of boxes that are to
            be dropped have no meaning.
        reasons: int8 [M], indices into `REASONS`.
    """
    finite = np.isfinite(corners).all(axis=1)
    corners = np.where(finite[:, None], corners, 0.0)
    limits = np.asarray(sizes, np.float64)[:, [1, 0, 1, 0]]
    overhang = np.maximum(-corners, corners - limits).max(axis=1, initial=0.0)
    boxes = (np.clip(corners, 0.0, limits) / limits)[:, [1, 0, 3, 2]].astype(np.float32)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)

    fractions = np.zeros(len(corners), bool) if fractions is None else fractions
    conditions = [~finite, ~has_area, fractions, ~visible & (overhang > 0), ~visible]
    verdicts = [NOT_FINITE, NO_AREA, FRACTIONS, OUTSIDE, NO_AREA]
    conditions += [overhang > ROUNDING, overhang > 0]
    verdicts += [CLIPPED, ROUNDED]
    codes = [REASONS.index(verdict) for verdict in verdicts]
    return boxes, np.select(conditions, codes, default=0).astype(np.int8)


def is_dropped(reasons: np.ndarray) -> np.ndarray:
    """Returns bool [M]: which of the reasons [M] of `check_boxes` mean that the box is not used."""
    return np.isin(reasons, [REASONS.index(reason) for reason in DROPPED])


def count_bad(reasons: np.ndarray) -> int:
    """Returns how many of the reasons [M] of `check_boxes` mean that the box is dropped or clipped."""
    return int(np.count_nonzero(reasons > REASONS.index(ROUNDED)))


def refuse_bad_box(reasons: np.ndarray, describe: Callable[[int], str]) -> None:
    """Refuses a set with a box that would be dropped or clipped by more than rounding.

    Args:
        reasons: int8 [M], as `check_boxes` returns them.
        describe: returns the file, the numbers, the class and the image of a box, given its index.

    Raises:
        InputError: there is such a box; the message names the first.
    """
    bad = np.flatnonzero(reasons > REASONS.index(ROUNDED))
    if bad.size:
        reason = REASONS[reasons[bad[0]]]
        raise InputError(
            f"{describe(bad[0])} is {reason.removesuffix(', clipped')}; "
            f"{'remove' if reason in DROPPED else 'correct'} it, or read without strict"
        )


def refuse_part_in_fractions(
    reasons: np.ndarray,
    part_of: np.ndarray,
    part_names: Sequence[str],
    data_format: str,
    describe: Callable[[int], str],
) -> None:
    """Refuses a part whose boxes are in fractions where the format counts pixels.

    Args:
        reasons: int8 [M], as `check_boxes` returns them.
        part_of: int [M], the index of each box's part.
        part_names: the names of the parts.
        data_format: `data.format`.
        describe: returns the file, the numbers, the class and the image of a box, given its index.

    Raises:
        InputError: at least `SHARE_OF_FRACTIONS` of the boxes of a part that have an area are in fractions.
    """
    fractions = reasons == REASONS.index(FRACTIONS)
    has_area = ~np.isin(reasons, [REASONS.index(NOT_FINITE), REASONS.index(NO_AREA)])
    for part, name in enumerate(part_names):
        found, boxes = (np.flatnonzero(rows & (part_of == part)) for rows in (fractions, has_area))
        if found.size and found.size >= SHARE_OF_FRACTIONS * boxes.size:
            raise InputError(
                f"{describe(found[0])} lies within 0..1, as fractions of the image do; so do {found.size} "
                f"of the {boxes.size} in {shortened_text(name)}; data.format {data_format} takes pixels: "
                "multiply them by width and height (only data.format yolo takes fractions)"
            )


def find_defects(
    reasons: np.ndarray,
    file_boxes: np.ndarray,
    class_names: Sequence[str],
    name_of: np.ndarray,
    image_ids: Sequence[str],
    image_of: np.ndarray,
) -> BoxDefects:
    """Lists the boxes that `check_boxes` objected to, with their images and classes.

    Args:
        reasons: int8 [M], as `check_boxes` returns them.
        file_boxes: float64 [M, 4], the numbers of the files.
        class_names, name_of: box i has the class `class_names[name_of[i]]`.
        image_ids, image_of: box i belongs to the image `image_ids[image_of[i]]`.
    """
    counts = collections.Counter(REASONS[code] for code in reasons[reasons > 0])
    listed = np.flatnonzero(reasons > REASONS.index(ROUNDED))
    issues = tuple(
        BoxIssue(
            image_ids[image_of[i]],
            class_names[name_of[i]],
            tuple(file_boxes[i].tolist()),
            REASONS[reasons[i]],
        )
        for i in listed
    )
    return BoxDefects(len(reasons), dict(counts), issues)


def write_defects(defects: BoxDefects, path: str | Path) -> None:
    """Writes the defects as JSON, with one line per dropped or clipped box.

    Raises:
        InputError: the file cannot be written.
    """
    head = {"boxes": defects.num_boxes, "counts": defects.counts}
    lines = [
        json.dumps(
            {
                "image": issue.image_id,
                "class": issue.class_name,
                # JSON has no NaN or infinity.
                "box": [value if np.isfinite(value) else str(value) for value in issue.box],
                "reason": issue.reason,
            }
        )
        for issue in defects.issues
    ]
    text = json.dumps(head)[:-1] + ', "issues": [\n' + ",\n".join(lines) + "\n]}\n"
    write_text(path, text)


def format_box(box: Iterable[float]) -> str:
    """Writes a box as `[504, 337, 504.5, 337]`: whole numbers have no decimal point."""
    return f"[{', '.join(f'{value:.10g}' for value in box)}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun if number == 1 else noun + 'es'}"
