"""The HTML of a page, read back by a parser."""

import json

import numpy as np
import pytest
from page_text import check_self_contained

from refinedet_tf.errors import InputError
from refinedet_tf.reports import NUMBERS
from refinedet_tf.reports.charts import BarChart, LineChart
from refinedet_tf.reports.pages import (
    Code,
    Columns,
    Details,
    Finding,
    Findings,
    Picture,
    Section,
    Table,
    Text,
    render_page,
    write_report,
)

HOSTILE = """<script>alert("1")</script> & 'x' </svg>"""


def full_page(text=HOSTILE):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    blocks = [
        Text(text),
        Code(f"{text}\n  second line"),
        Findings([Finding("problem", text), Finding("good", "all is well")]),
        Table([text, "objects"], [[text, 12345], ["ring", "0.50"]], caption=text),
        Columns([Picture.from_pixels(image, alt=text, caption=text), Text("beside")]),
        Details(text, [Table(["name"], [["hidden"]])]),
        BarChart(text, ["a", text], {text: [1, 2], "second": [0, 3.5]}, text, text),
        LineChart(text, {text: ([0, 0.5, 1], [1, 0.5, 0]), "b": ([0], [1])}, text, text),
    ]
    return render_page(text, text, [Section("Everything", blocks), Section("Nothing", [])])


def test_texts_are_escaped_everywhere():
    html = full_page()
    page = check_self_contained(html)
    assert "<script" not in html
    assert page.title == HOSTILE
    # Text, code, finding, two cells, two captions, summary, and of each chart its title, titles of the axes,
    # legend, tip or line, and a label.
    assert page.sections["Everything"].count("alert") >= 15


def test_content_is_found_again():
    page = check_self_contained(full_page("plain"))
    assert page.tables["Everything"] == [
        ["plain", "objects"],
        ["plain", "12,345"],
        ["ring", "0.50"],
        ["name"],
        ["hidden"],
    ]
    assert "Problem plain Good all is well" in page.sections["Everything"]
    assert page.references[0:2] == ["#section-1", "#section-2"]
    assert page.references[2].startswith("data:image/jpeg;base64,")
    assert page.sections["Nothing"] == "Nothing"


def test_page_is_written_with_names_that_are_not_unicode(tmp_path):
    page = write_report(tmp_path, full_page("caf\udce9.jpg"), {"file": "caf\udce9.jpg"})
    assert "caf\\udce9.jpg" in page.read_bytes().decode("utf-8")
    assert json.loads((tmp_path / NUMBERS).read_text("utf-8")) == {"file": "caf\udce9.jpg"}
    with pytest.raises(InputError, match="nowhere"):
        write_report(tmp_path / "nowhere", "", {})
