"""A Sphinx extension: the text of files of the repository, on pages of their own.

A link from a page to a file leads to its text, instead of downloading it. In the reference, each function and
class has a link to the line where it is defined.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import desc_signature, download_reference
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

FOLDER = "source"
"""The folder of the site that holds the texts, in the tree of the repository."""


class LinksToSources(SphinxTransform):
    """Makes the links of a page that lead to texts of files."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        """Changes one page."""
        for download in list(self.document.findall(download_reference)):
            file, path = self.env.relfn2path(download["reftarget"], self.env.docname)
            if Path(path).is_file():  # Sphinx warns of the others.
                download.replace_self(self._link(file, "", *download.children))
        for signature in self.document.findall(desc_signature):
            if definition := definition_of(signature.get("module"), signature.get("fullname")):
                path, line = definition
                file = path.relative_to(self.app.srcdir).as_posix()
                text = nodes.inline("", "[source]", classes=["viewcode-link"])
                signature += self._link(file, f"#{anchor_of(line)}", text)

    def _link(self, file: str, anchor: str, *children: nodes.Node) -> nodes.reference:
        page = self.app.builder.get_relative_uri(self.env.docname, page_of(file))
        return nodes.reference("", "", *children, refuri=page + anchor, internal=True, source_file=file)


def page_of(file: str) -> str:
    """Returns the name of the page with the text of a file, which is named by its path in the repository."""
    return f"{FOLDER}/{file}"


def anchor_of(line: int) -> str:
    """Returns the anchor of a line, from 1, on the page of a file."""
    return f"L-{line}"


def definition_of(module: str | None, name: str | None) -> tuple[Path, int] | None:
    """Returns the file and the line, from 1, that define a function or class; None for what has no code.

    Args:
        module: the module from which it is documented, "refinedet_tf".
        name: its name there, "Detector.load".
    """
    if not module or not name:
        return None
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    if isinstance(value, property):
        value = value.fget
    try:
        return Path(inspect.getsourcefile(value) or ""), inspect.getsourcelines(value)[1]
    except TypeError:
        return None


def language_of(file: str) -> str:
    """Returns the name of the language in which a file is highlighted, "text" where there is none for it."""
    try:
        return get_lexer_for_filename(file).aliases[0]
    except ClassNotFound:
        return "text"


def _linked_files(app: Sphinx) -> set[str]:
    return {
        reference["source_file"]
        for docname in app.env.found_docs
        for reference in app.env.get_doctree(docname).findall(nodes.reference)
        if "source_file" in reference
    }


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for file in sorted(_linked_files(app)):
        text = (Path(app.srcdir) / file).read_text(encoding="utf-8")
        code = app.builder.highlighter.highlight_block(text, language_of(file), lineanchors="L")
        yield page_of(file), {"title": file, "body": f"<h1><code>{file}</code></h1>{code}"}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the extension."""
    app.add_transform(LinksToSources)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": True}
