"""Links and headings of Markdown files, as GitHub reads them."""

import re
from dataclasses import dataclass

FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^ *\2`* *$", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]*)>?(?: +\"[^\"]*\")?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: +<?([^\s>]+)", re.MULTILINE)
HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']*)", re.IGNORECASE)
HEADING = re.compile(r"^ {0,3}#{1,6} +(.+?) *#* *$", re.MULTILINE)
HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """Attributes: `links`, the targets in their order; `anchors`, the names that headings give."""

    links: list[str]
    anchors: set[str]


def read_page(text):
    """Reads the links and headings of a Markdown text; those in code are none."""
    text = FENCED.sub("", HEADER.sub("", text))
    anchors = set()
    for heading in HEADING.findall(text):
        anchor, number = slug(heading), 0
        while anchor in anchors:
            number += 1
            anchor = f"{slug(heading)}-{number}"
        anchors.add(anchor)
    # A link may have code as its text, so that code becomes a word.
    prose = INLINE_CODE.sub("code", text)
    return Page([link for kind in (LINK, REFERENCE, HTML_LINK) for link in kind.findall(prose)], anchors)


def slug(heading):
    """The anchor of a heading on GitHub."""
    shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
