"""The values of a config: numbers with their ranges, durations, and the anchors of a level."""

import fractions
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.dataclasses import dataclass

from refinedet_tf.errors import shortened

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How every dataclass of a config reads its keys: none is unknown, and no value is converted."""

MAX_STEPS = 10**9
"""The largest number of steps."""

MAX_EPOCHS = 10**6
"""The largest number of epochs."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# The upper bounds lie far above useful values. They turn typing errors and foreign files, which would exhaust
# the memory or overflow the integers of a graph, into one line.
StepCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
ImageSide = Annotated[int, Field(ge=64, le=10_000)]
Images = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=10_000)]
Anchors = Annotated[int, Field(ge=0, le=1_000_000)]
Trials = Annotated[int, Field(ge=1, le=10_000)]
Candidates = Annotated[int, Field(ge=1, le=10_000)]
CandidatesOfClass = Annotated[int, Field(ge=1, le=100_000)]
Detections = Annotated[int, Field(ge=1, le=100_000)]
Range = tuple[NotNegative, NotNegative]

Duration: TypeAlias = int | str
"""A number of steps, or a text such as "65 epochs"."""

_EPOCHS = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,30})?) epochs?", re.ASCII)


def epochs_of(duration: Duration) -> fractions.Fraction | None:
    """Returns the number of epochs of a duration, exactly; None if it is in steps, or no duration."""
    found = _EPOCHS.fullmatch(duration) if isinstance(duration, str) else None
    return None if found is None else fractions.Fraction(found[1])


def steps_of(duration: Duration) -> int:
    """Returns the number of steps of a duration.

    Raises:
        ValueError: it is in epochs, whose steps follow from the number of images (`in_steps`).
    """
    if isinstance(duration, str):
        raise ValueError(f"{shortened(duration)} is not in steps: see `in_steps`")
    return duration


def in_epochs(number: float | str) -> str:
    """Returns a number of epochs as a duration: "65 epochs"."""
    digits = f"{Decimal(str(number)).normalize():f}"
    return f"{digits} epoch" if digits == "1" else f"{digits} epochs"


def _duration(smallest: int) -> Callable[[Any], Duration]:
    """Makes the function that checks a duration, and gives equal ones the same spelling."""

    def check(value: Any) -> Duration:
        if isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= MAX_STEPS:
            return value
        epochs = epochs_of(value)
        if epochs is not None and 0 < epochs <= MAX_EPOCHS:
            return in_epochs(value.split()[0])
        raise ValueError(
            f"must be a whole number of steps from {smallest} to {MAX_STEPS}, or a number of epochs up to "
            f'{MAX_EPOCHS} such as "65 epochs"'
        )

    return check


def _schema(smallest: int) -> WithJsonSchema:
    steps = {"type": "integer", "minimum": smallest, "maximum": MAX_STEPS}
    return WithJsonSchema({"anyOf": [steps, {"type": "string", "format": "N epochs"}]})


PositiveDuration = Annotated[Duration, PlainValidator(_duration(1)), _schema(1)]
NotNegativeDuration = Annotated[Duration, PlainValidator(_duration(0)), _schema(0)]


Stride: TypeAlias = Literal[4, 8, 16, 32, 64]

STRIDES: tuple[Stride, ...] = (8, 16, 32, 64)
"""The distance in pixels between neighbouring cells, for each of the paper's four levels."""

STRIDES_WITH_4: tuple[Stride, ...] = (4, *STRIDES)
"""The strides if a config asks for a finer level."""

SCALE = 4
"""The side of a level's square anchor in units of its stride, which gives 32, 64, 128 and 256 pixels."""

ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""Width / height, in the order of the heads' channels. All anchors of a level have the same area."""

MAX_PER_CELL = 24
"""The largest number of anchors in a cell."""

MAX_ANCHORS = 1_000_000
"""The largest number of anchors of an image, if a config has anchors of its own. The overlaps of so many with
50 objects are 200 MB per image."""

Scale = Annotated[float, Field(ge=1, le=10_000)]
AspectRatio = Annotated[float, Field(ge=0.02, le=50)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnchorLevel:
    """The anchors of one level: every cell of its grid has each scale with each aspect ratio."""

    stride: Stride
    """The distance between neighbouring cells, in pixels of the network's input."""
    scales: tuple[Scale, ...]
    """The sides of the level's square anchors, in pixels of the network's input."""
    aspect_ratios: tuple[AspectRatio, ...]
    """Width / height of the anchors; an anchor of another ratio has the area of the square of its scale."""

    def __post_init__(self) -> None:
        for name, values in (("scales", self.scales), ("aspect_ratios", self.aspect_ratios)):
            if not values:
                raise ValueError(f"{name} of stride {self.stride} must hold at least one number")
            if len(set(values)) != len(values):
                raise ValueError(f"{name} of stride {self.stride} holds a number twice: {list(values)}")
        if self.per_cell > MAX_PER_CELL:
            raise ValueError(
                f"stride {self.stride} has {len(self.scales)} scales x {len(self.aspect_ratios)} aspect "
                f"ratios = {self.per_cell} anchors per cell; at most {MAX_PER_CELL} are possible"
            )

    @property
    def per_cell(self) -> int:
        """The number of anchors in a cell."""
        return len(self.scales) * len(self.aspect_ratios)

    @property
    def number(self) -> int:
        """The number of the level, which is part of the names of its layers: the stride is 2 ** number."""
        return int(math.log2(self.stride))

    def shapes(self) -> np.ndarray:
        """Returns the (height, width) of a cell's anchors in pixels, float64 [n, 2], in the heads' order.

        They are ordered by scale, then by aspect ratio.
        """
        return np.array(
            [
                (scale / math.sqrt(ratio), scale * math.sqrt(ratio))
                for scale in self.scales
                for ratio in self.aspect_ratios
            ]
        )


DEFAULT_LEVELS = tuple(
    AnchorLevel(stride=stride, scales=(float(SCALE * stride),), aspect_ratios=ASPECT_RATIOS)
    for stride in STRIDES
)
"""The paper's anchors."""


def check_levels(anchor_levels: Sequence[AnchorLevel], image_size: tuple[int, int] | None) -> None:
    """Checks the levels of a config together, for an image size (height, width) in pixels that may be known.

    Raises:
        ValueError: the strides are not those of the network, the scales decrease from a level to the next,
            a scale exceeds the image, or there are too many anchors. The message begins with "anchors".
    """
    strides = [level.stride for level in anchor_levels]
    if strides not in ([*STRIDES], [*STRIDES_WITH_4]):
        raise ValueError(
            f"anchors must be levels of the strides {list(STRIDES)} or {list(STRIDES_WITH_4)}, in this "
            f"order, got {strides}"
        )
    for finer, coarser in zip(anchor_levels, anchor_levels[1:], strict=False):
        if max(finer.scales) > max(coarser.scales):
            raise ValueError(
                f"anchors: the largest scale of stride {coarser.stride}, {max(coarser.scales):g}, is below "
                f"that of stride {finer.stride}, {max(finer.scales):g}; scales must not decrease from level "
                "to level"
            )
    if image_size is None:
        return
    for level in anchor_levels:
        if max(level.scales) > max(image_size):
            raise ValueError(
                f"anchors: scale {max(level.scales):g} of stride {level.stride} is larger than the image, "
                f"image_size {list(image_size)}"
            )
    count = sum(
        rows * columns * level.per_cell
        for level, (rows, columns) in zip(anchor_levels, level_grids(image_size, anchor_levels), strict=True)
    )
    if count > MAX_ANCHORS:
        raise ValueError(
            f"anchors: {count:,} anchors at image_size {list(image_size)}; at most {MAX_ANCHORS:,} are "
            "possible"
        )


def level_grids(
    image_size: tuple[int, int], anchor_levels: Sequence[AnchorLevel] | None = None
) -> list[tuple[int, int]]:
    """Returns (rows, columns) of each level's grid, the smallest stride first; None: of the paper's levels.

    The image size is (height, width) in pixels.
    """
    height, width = image_size
    levels = DEFAULT_LEVELS if anchor_levels is None else anchor_levels
    return [(math.ceil(height / level.stride), math.ceil(width / level.stride)) for level in levels]
