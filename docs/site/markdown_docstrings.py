"""A Sphinx extension that turns docstrings, which are Google style with Markdown, into reStructuredText."""

import re
from typing import TYPE_CHECKING, Any

import refinedet_tf

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BEFORE_NAPOLEON = 400
"""Sphinx's own extension for the sections of Google style has the priority 500."""

INLINE_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
FENCE = re.compile(r"^( *)```\w*\n(.*?)\n *```$", re.DOTALL | re.MULTILINE)
RESULT = re.compile(r"^( *)(Returns|Yields):\n +", re.MULTILINE)


def as_restructured_text(docstring: str) -> str:
    """Turns the Markdown of a docstring into reStructuredText; sections such as "Args:" stay as they are.

    Inline code stays code, and a name of the public interface becomes a link to its reference. "Returns:" and
    "Yields:" become fields: what they say is no "type: description", as napoleon reads it.
    """
    text = FENCE.sub(_code_block, docstring)
    text = RESULT.sub(lambda found: f"{found[1]}:{found[2].lower()}: ", text)
    return INLINE_CODE.sub(lambda found: _code(found[1]), text)


def _code_block(found: re.Match) -> str:
    indent, code = found[1], found[2]
    lines = [f"    {line}" if line.strip() else "" for line in code.split("\n")]
    return "\n".join([f"{indent}.. code-block:: python", "", *lines])


def _code(text: str) -> str:
    if text in refinedet_tf.__all__:
        return f":py:obj:`{text} <refinedet_tf.{text}>`"
    return f"``{text}``"


def _process(app: "Sphinx", what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured_text("\n".join(lines)).split("\n")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Connects the extension."""
    app.connect("autodoc-process-docstring", _process, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}
