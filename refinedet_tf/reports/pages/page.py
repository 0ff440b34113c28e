"""A whole page from its sections, and the two files of a report."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from refinedet_tf.files import explain_os_errors, write_aside
from refinedet_tf.reports import NUMBERS, PAGE
from refinedet_tf.reports.pages import charts
from refinedet_tf.reports.pages.blocks import Block


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

    Args:
        title: the heading, and the title of the browser's window.
        subtitle: a sentence below the heading.
        sections: the content, in its order.
    """
    # StrictUndefined turns a wrong name in the template into an error.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refinedet_tf.reports.pages", "."),
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
    """Writes a page and its numbers; each file appears whole or not at all, and replaces an older one.

    Both are UTF-8. What Unicode cannot hold, such as bytes of a file name, becomes an escape.

    Args:
        folder: an existing folder.
        html: the page.
        numbers: what the page shows, as a tree for `json.dumps`.

    Returns:
        The file of the page.

    Raises:
        InputError: a file cannot be written.
    """
    _write(folder / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    _write(folder / PAGE, html)
    return folder / PAGE


def _write(file: Path, text: str) -> None:
    with explain_os_errors(file):
        write_aside(file, lambda aside: aside.write_bytes(text.encode("utf-8", "backslashreplace")))
