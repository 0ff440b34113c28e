"""The pages: every link leads somewhere, every page is on the site, every public name in the reference."""

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from check_links import dead_links
from markdown_docstrings import as_restructured_text
from markdown_links import read_page
from site_pages import PAGES

import refinedet_tf

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "examples", "refinedet_tf", "serving", "tests")
MARKDOWN = sorted(
    file
    for found in (ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in FOLDERS))
    for file in found
    if not {"_build", "node_modules"} & set(file.parts)
)
ON_SITE = sorted({file for pattern in PAGES for file in ROOT.glob(pattern)})


def wrong_links(file):
    """What is wrong with the links of a Markdown file; an empty list if they all lead somewhere."""
    wrong = []
    for link in read_page(file.read_text(encoding="utf-8")).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            if parts.scheme != "https" or not parts.netloc:
                wrong.append(f"{link}: only https is linked to")
            continue
        target = (file.parent / parts.path).resolve() if parts.path else file
        if not target.exists() or link.startswith("/") or not target.is_relative_to(ROOT):
            wrong.append(f"{link}: no such file of the repository")
        elif parts.fragment and parts.fragment not in read_page(target.read_text(encoding="utf-8")).anchors:
            wrong.append(f"{link}: no such heading")
    return wrong


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links(file):
    assert wrong_links(file) == []


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](b.md) and ![c](d.png)", ["b.md", "d.png"]),
        ("[`code`](b.md#a-heading)", ["b.md#a-heading"]),
        ('[a](<b.md> "title") and [c][d]\n\n[d]: e.md', ["b.md", "e.md"]),
        ('<a href="b.md">b</a> <img alt="" src="c.png">', ["b.md", "c.png"]),
        ("`[a](b.md)` and ``[a](b.md) ` ``", []),
        ("```\n[a](b.md)\n```\n[c](d.md)\n````python\n```\n[a](b.md)\n````\n", ["d.md"]),
    ],
)
def test_links_are_read(text, links):
    assert read_page(text).links == links


def test_headings_are_read():
    text = "# It's `a.b` -> c!\n\n## 5. Train, stop\n## 5. Train, stop\n### [x](y.md)\n```\n# no\n```\n"
    assert read_page(text).anchors == {"its-ab---c", "5-train-stop", "5-train-stop-1", "x"}


def test_wrong_links_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# Here\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#here) [b](#mine) [c](https://a.org)\n# Mine\n"
        "[d](missing.md) [e](other.md#there) [f](#no) [g](http://a.org) [h](/other.md) [i](../page.md)",
        encoding="utf-8",
    )
    found = [line.partition(":")[0] for line in wrong_links(page) if "http" not in line]
    assert found == ["missing.md", "other.md#there", "#no", "/other.md", "../page.md"]
    assert any(line.startswith("http://a.org") for line in wrong_links(page))


def index_entries():
    """The pages that the lists of docs/index.md name, patterns resolved."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    entries = []
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                name = re.sub(r".*<(.*)>", r"\1", line)
                found = sorted((ROOT / "docs").glob(f"{name}.md"))
                assert found or "*" in name, line
                entries += [file.resolve() for file in found]
    return entries


def test_every_page_has_one_place_on_the_site():
    entries = index_entries()
    assert sorted(entries) == [file for file in ON_SITE if file != ROOT / "docs/index.md"]


def test_index_links_to_the_pages_of_docs():
    """Whoever reads docs/index.md in the repository sees no lists of the site."""
    links = read_page((ROOT / "docs/index.md").read_text(encoding="utf-8")).links
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links}
    assert set((ROOT / "docs").glob("*.md")) - linked == {ROOT / "docs/index.md"}


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    for name in refinedet_tf.__all__:
        kind = "class" if name[0].isupper() else "function"
        assert reference.count(f"\n.. auto{kind}:: refinedet_tf.{name}\n") == 1, name


def test_docstrings_become_restructured_text():
    docstring = (
        "Detects with `train` and `[B, A,\n4]`.\n\n```\nx = 1\n\ny\n```\n\nArgs:\n    a: `b`.\n\n"
        "Returns:\n    A dict: of\n    lines.\n\nRaises:\n    InputError: no."
    )
    assert as_restructured_text(docstring) == (
        "Detects with :py:obj:`train <refinedet_tf.train>` and ``[B, A,\n4]``.\n\n"
        ".. code-block:: python\n\n    x = 1\n\n    y\n\nArgs:\n    a: ``b``.\n\n"
        ":returns: A dict: of\n    lines.\n\nRaises:\n    InputError: no."
    )


def test_dead_links_of_a_built_site_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "style.css").write_text("", encoding="utf-8")
    (tmp_path / "index.html").write_text('<h1 id="top-of-it">x</h1>', encoding="utf-8")
    page = (
        '<link href="../style.css"><a href="../index.html#top-of-it"></a><a href="#"></a>'
        '<a href="https://a.org"></a><a href="../index.html#other"></a><img src="no.png">'
        '<a href="../../outside.html"></a><a href="#no"></a>'
    )
    (tmp_path / "docs" / "page.html").write_text(page, encoding="utf-8")
    assert list(dead_links(tmp_path)) == [
        "docs/page.html: ../index.html#other is no anchor of index.html",
        "docs/page.html: no.png is no file of the site",
        "docs/page.html: ../../outside.html is no file of the site",
        "docs/page.html: #no is no anchor of docs/page.html",
    ]
