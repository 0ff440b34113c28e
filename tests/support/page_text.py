"""What a page of `refinedet_tf.reports.pages` says, read back by a parser of HTML."""

from html.parser import HTMLParser

REFERENCES = ("src", "href", "action", "data", "poster", "srcset", "xlink:href")
VOID = {"meta", "img", "br", "hr", "input", "link"}


class ParsedPage(HTMLParser):
    """The content of a page.

    Attributes:
        title: the text of <title> in the head.
        sections: heading -> all text of the section, words separated by one space.
        tables: heading -> the rows of all tables of the section, each a list of texts, header first.
        references: the values of all attributes that name something to load or to go to.
        tags: the names of all elements.
    """

    def __init__(self, html):
        super().__init__()
        self.title, self.references, self.tags = "", [], set()
        self.sections, self.tables = {}, {}
        self._open, self._heading, self._words = [], None, []
        self.feed(html)
        self.close()
        assert not self._open, f"elements without an end: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.references += [value for name, value in attributes if name in REFERENCES]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._heading, self._words = None, []
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        opened = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"
        if tag == "section":
            self.sections[self._heading] = " ".join(" ".join(self._words).split())

    def handle_data(self, data):
        if self._open == ["html", "head", "title"]:
            self.title += data
        if "section" not in self._open:
            return
        if self._open[-1] == "h2":
            self._heading = data
        self._words.append(data)
        if self._open[-1] in ("td", "th"):
            self.tables[self._heading][-1][-1] += data


def check_self_contained(html):
    """Asserts that a page loads nothing, runs nothing and links only to itself; returns it parsed."""
    page = ParsedPage(html)
    assert all(value.startswith(("data:", "#")) for value in page.references)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "url(" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    assert "file:" not in html
    return page
