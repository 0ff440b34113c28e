"""Self-contained pages: HTML files that hold their style, charts and pictures, and load or run nothing.

A page consists of sections of blocks, which are plain data. `page.html` turns each kind of block into HTML
and escapes every text.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union

import jinja2
import numpy as np
from PIL import Image

from refinedet_tf.files import explain_os_errors, write_text
from refinedet_tf.reports import NUMBERS, PAGE, charts

Cell: TypeAlias = str | int
"""The content of a table's cell; a whole number is shown with separators of thousands."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Text in a fixed-width font with its line breaks, such as what to write into a config."""

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

    findings: Sequence[Finding]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, which scrolls sideways on a narrow screen; every row has as many cells as the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    """The number of leading columns of text, aligned left; the columns after them hold numbers."""
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with a caption, made by `Picture.from_pixels`."""

    data_uri: str
    """The image file as a data URI, so that the page refers to no other file."""
    width: int
    height: int
    alt: str
    """What the picture shows, for those who do not see it."""
    caption: str

    @classmethod
    def from_pixels(cls, image: np.ndarray, alt: str, caption: str, quality: int = 85) -> "Picture":
        """Encodes an image, uint8 [H, W, 3], RGB, as JPEG of a quality 1..95; it is deterministic."""
        contents = io.BytesIO()
        Image.fromarray(image).save(contents, "JPEG", quality=quality, optimize=True)
        encoded = base64.b64encode(contents.getvalue()).decode()
        height, width = image.shape[:2]
        return cls(f"data:image/jpeg;base64,{encoded}", width, height, alt, caption)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Blocks side by side where the screen is wide enough, and below each other on a phone."""

    blocks: Sequence["Block"]
    min_width: int = 320
    """The smallest width of a column in CSS pixels."""


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that are hidden until the reader opens them, for long tables."""

    summary: str
    blocks: Sequence["Block"]


Block: TypeAlias = Union[  # noqa: UP007 - two of them are named before they exist
    Text, Code, Findings, Table, Picture, charts.BarChart, charts.LineChart, Columns, Details
]
"""Anything that a section can hold."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page under a heading, which the list at the top of the page links to."""

    title: str
    blocks: Sequence[Block]


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns a page as HTML.

    The page is readable on a phone (from 320 CSS pixels) and follows the reader's light or dark scheme. It
    refers to no file and no address and holds no script, and forbids a browser to load any. All texts are
    escaped. The same arguments give the same page.
    """
    # StrictUndefined turns a wrong name in the template into an error.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refinedet_tf.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, subtitle=subtitle, sections=sections, charts=charts)


def make_report_folder(folder: Path) -> None:
    """Makes the folder of a report.

    Raises:
        InputError: it cannot be made.
    """
    with explain_os_errors(f"folder {folder}", "cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def write_report(folder: Path, html: str, numbers: Mapping[str, Any]) -> Path:
    """Writes a page and its numbers, a tree for `json.dumps`, to a folder; returns the file of the page.

    Each file appears whole or not at all, and replaces an older one. Both are UTF-8. What Unicode cannot
    hold, such as bytes of a file name, becomes an escape.

    Raises:
        InputError: a file cannot be written.
    """
    write_text(folder / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    write_text(folder / PAGE, html, errors="backslashreplace")
    return folder / PAGE
