"""The parts of a page, as plain data; `page.html` turns each kind into HTML and escapes every text."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias, Union

import numpy as np
from PIL import Image

from refinedet_tf.errors import InputError
from refinedet_tf.reports.pages.charts import BarChart, LineChart

Cell: TypeAlias = str | int
"""The content of a table's cell; a whole number is shown with separators of thousands."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Text in a fixed-width font with its line breaks, such as what to write into a config."""

    kind: ClassVar = "code"
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """One sentence that the reader can act on."""

    level: Literal["problem", "advice", "good"]
    """"problem": something makes the result wrong or poor; "advice": something may be improved; "good":
    something was checked and is as it should be."""
    text: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """The list of findings, in the given order; a mark and a word show the level of each."""

    kind: ClassVar = "findings"
    findings: Sequence[Finding]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, which scrolls sideways on a narrow screen.

    Raises:
        InputError: a row has not as many cells as the header.
    """

    kind: ClassVar = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    """The number of leading columns of text, aligned left; the columns after them hold numbers."""
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise InputError(
                    f"row {number} of the table has {len(row)} cells, but the header has {len(self.header)}"
                )


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with a caption, made by `Picture.from_pixels`."""

    kind: ClassVar = "picture"
    data_uri: str
    """The image file as a data URI, so that the page refers to no other file."""
    width: int
    height: int
    alt: str
    """What the picture shows, for those who do not see it."""
    caption: str = ""

    @classmethod
    def from_pixels(
        cls, image: np.ndarray, alt: str, caption: str = "", max_side: int | None = None, quality: int = 85
    ) -> "Picture":
        """Encodes an image as JPEG; the same pixels give the same bytes.

        Args:
            image: uint8 [H, W, 3], RGB.
            alt: what the picture shows.
            caption: the text under the picture.
            max_side: the largest side in pixels; a larger image is reduced to it. None: any size.
            quality: JPEG's quality, 1..95.

        Raises:
            InputError: the image is not uint8 RGB.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        picture = Image.fromarray(image)
        if max_side is not None and max(picture.size) > max_side:
            picture.thumbnail((max_side, max_side))
        contents = io.BytesIO()
        picture.save(contents, "JPEG", quality=quality, optimize=True)
        encoded = base64.b64encode(contents.getvalue()).decode()
        return cls(f"data:image/jpeg;base64,{encoded}", picture.width, picture.height, alt, caption)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Blocks side by side where the screen is wide enough, and below each other on a phone."""

    kind: ClassVar = "columns"
    blocks: Sequence["Block"]
    min_width: int = 320
    """The smallest width of a column in CSS pixels."""


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that are hidden until the reader opens them, for long tables."""

    kind: ClassVar = "details"
    summary: str
    blocks: Sequence["Block"]


Block: TypeAlias = Union[Text, Code, Findings, Table, Picture, BarChart, LineChart, Columns, Details]  # noqa: UP007 - two of them are named before they exist
"""Anything that a section can hold."""
