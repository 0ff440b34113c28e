"""Checks that no link of a built site leads nowhere: python docs/site/check_links.py FOLDER

Links to other hosts are not followed.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "srcset", "iframe": "src"}
"""The attributes that hold links, by tag."""


class Page(HTMLParser):
    """The links and anchors of a page.

    Attributes:
        links: the targets, as the page writes them.
        anchors: the names to which a link with "#" may lead.
    """

    def __init__(self, text: str) -> None:
        """Reads a page."""
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the link and the anchor of an element."""
        for name, value in attrs:
            if value is not None and name in ("id", "name"):
                self.anchors.add(value)
            if value is not None and name == LINKS.get(tag):
                self.links.append(value)


def dead_links(folder: Path) -> Iterator[str]:
    """Yields a line for each link of a page in a folder that leads to no file or no anchor of it."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = path.relative_to(folder)
            if not target.is_file() or not target.is_relative_to(folder):
                yield f"{where}: {link} is no file of the site"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where}: {link} is no anchor of {target.relative_to(folder)}"


def main(folder: str) -> int:
    """Prints the dead links of a site; returns 1 if there are any."""
    found = list(dead_links(Path(folder).resolve()))
    print("\n".join(found) or "every link of the site leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
