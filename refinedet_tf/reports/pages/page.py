"""A whole page from its sections."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jinja2

from refinedet_tf.files import explain_os_errors, write_aside
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


def write_page(path: Path, html: str) -> None:
    """Writes a page as UTF-8; what Unicode cannot hold, such as bytes of a file name, becomes an escape.

    Raises:
        InputError: the file cannot be written.
    """
    with explain_os_errors(path):
        write_aside(path, lambda aside: aside.write_bytes(html.encode("utf-8", "backslashreplace")))
