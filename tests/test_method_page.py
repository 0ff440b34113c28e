"""docs/how-it-works.md: its code runs, and its numbers are those of the shipped detector."""

import re
from pathlib import Path

import draw_method as drawing
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")


def cells_of(row):
    return [cell.strip().replace(",", "") for cell in row.strip("|").split("|")]


def test_numbers_are_those_of_the_detector():
    """A score at a threshold may fall on its other side on another processor."""
    parts = drawing.run_in_parts()
    rows = drawing.numbers(parts)
    assert len(rows) == len(drawing.STAGES) + len(drawing.THRESHOLDS)
    on_page = {cells_of(line)[0]: cells_of(line)[1:] for line in PAGE.splitlines() if line.startswith("| ")}
    for row in rows:
        name, *values = cells_of(row)
        for value, written in zip(values, on_page[name], strict=True):
            assert float(written) == pytest.approx(float(value), rel=0.01, abs=0.011 if "." in value else 1)
    found = re.search(r"The (\d+) candidates of all 20 classes", PAGE)
    assert int(found[1]) == pytest.approx((parts.class_scores > 0).sum(), abs=2)
    found = re.search(r"Its lowest score is ([\d.]+),", PAGE)
    assert float(found[1]) == pytest.approx(parts.object_scores.min(), abs=1e-3)
    assert parts.detections.above(drawing.SHOWN_SCORE).names == ["cat"]


def test_code_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    values = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), values)
    assert values["anchors"].shape == (6375, 4) and values["boxes"].shape == (1, 6375, 4)
    positives = (int(values["terms"][f"num_{module}_positives"]) for module in ("arm", "odm"))
    assert "N is {} for the ARM and {} for the ODM".format(*positives) in PAGE
