import json

import numpy as np
import pytest

from refinedet_tf.data import box_checks
from refinedet_tf.errors import InputError

HEIGHT, WIDTH = 100, 200


@pytest.mark.parametrize(
    ("corners", "has_area", "reason", "box"),
    [
        ((0, 0, 200, 100), True, "", (0, 0, 1, 1)),
        ((20, 10, 60, 30), True, "", (0.1, 0.1, 0.3, 0.3)),
        ((-1, 10, 60, 101), True, box_checks.ROUNDED, (0.1, 0, 1, 0.3)),
        ((-1.5, 10, 60, 30), True, box_checks.CLIPPED, (0.1, 0, 0.3, 0.3)),
        ((20, 10, 300, 30), True, box_checks.CLIPPED, (0.1, 0.1, 0.3, 1)),
        ((20, 10, 60, 30), False, box_checks.NO_AREA, None),
        ((200, 10, 260, 30), True, box_checks.OUTSIDE, None),
        ((20, -9, 60, 0), True, box_checks.OUTSIDE, None),
        ((20, -0.5, 60, 0), True, box_checks.OUTSIDE, None),
        ((20, 10, np.inf, 30), True, box_checks.NOT_FINITE, None),
        ((np.nan, 10, 60, 30), False, box_checks.NOT_FINITE, None),
        # Narrower than float32 can tell: would be a box of width 0.
        ((150, 10, 150 + 1e-9, 30), True, box_checks.NO_AREA, None),
    ],
)
def test_verdict_on_a_box(corners, has_area, reason, box):
    boxes, reasons = box_checks.check_boxes(
        np.array([corners], np.float64), np.array([has_area]), np.array([[HEIGHT, WIDTH]])
    )
    assert box_checks.REASONS[reasons[0]] == reason
    assert box_checks.is_dropped(reasons)[0] == (box is None)
    assert boxes.dtype == np.float32
    if box is not None:
        np.testing.assert_allclose(boxes[0], box, atol=1e-7)


def test_kept_boxes_of_any_input_are_inside_and_have_area():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-60, 260, size=(2000, 4))
    boxes, reasons = box_checks.check_boxes(
        corners, (corners[:, 2:] > corners[:, :2]).all(axis=1), np.tile([[HEIGHT, WIDTH]], (2000, 1))
    )
    kept = boxes[~box_checks.is_dropped(reasons)]
    assert 200 < len(kept) < 1000
    assert kept.min() >= 0
    assert kept.max() <= 1
    assert (kept[:, 2:] > kept[:, :2]).all()


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((0.25, 0.5, 0.5, 1), (20, 40), True),
        ((0, 0, 1, 1), (20, 40), True),
        ((0, -1e-6, 1.0000001, 1), (20, 40), True),
        ((0, 0, 1, 1), (1, 40), False),
        ((0.5, 0.5, 1.5, 1), (20, 40), False),
        ((3.25, 3.25, 3.5, 3.5), (20, 40), False),
        ((0.25, np.nan, 0.5, 1), (20, 40), False),
    ],
)
def test_boxes_in_fractions(box, size, expected):
    assert box_checks.are_fractions(np.array([box], np.float64), np.array([size])).tolist() == [expected]


@pytest.mark.parametrize(
    ("reasons", "refused"),
    [
        ([box_checks.FRACTIONS], "1 of the 1 in second"),
        ([box_checks.FRACTIONS, "", box_checks.NO_AREA, box_checks.NOT_FINITE], "1 of the 2 in second"),
        ([box_checks.FRACTIONS, "", box_checks.CLIPPED], None),
        ([box_checks.NO_AREA], None),
        ([], None),
    ],
)
def test_a_part_is_in_fractions_if_half_of_its_boxes_are(reasons, refused):
    codes = np.array([0, *map(box_checks.REASONS.index, reasons)], np.int8)
    arguments = (codes, np.array([0, *[1] * len(reasons)]), ["first", "second"], "csv", "box {}".format)
    if refused is None:
        box_checks.refuse_part_in_fractions(*arguments)
        return
    with pytest.raises(InputError, match=f"^box 1 lies within 0..1, .*; so do {refused}; data.format csv"):
        box_checks.refuse_part_in_fractions(*arguments)


def test_no_boxes():
    boxes, reasons = box_checks.check_boxes(np.zeros((0, 4)), np.zeros(0, bool), np.zeros((0, 2), int))
    assert boxes.shape == (0, 4) and reasons.shape == (0,)
    assert box_checks.BoxDefects().num_dropped == 0
    assert box_checks.BoxDefects(num_boxes=1).summary() == "1 box, none dropped or clipped"


@pytest.fixture
def report():
    names = (box_checks.NO_AREA, "", box_checks.ROUNDED, box_checks.NO_AREA)
    names += (box_checks.CLIPPED, box_checks.NOT_FINITE)
    return box_checks.find_defects(
        np.array([*map(box_checks.REASONS.index, names)], np.int8),
        np.array([[504, 337, 504, 337.5]] * 5 + [[1, np.nan, 2, np.inf]]),
        ["RBC", "WBC"],
        np.array([0, 0, 0, 1, 1, 0]),
        ["a", "b"],
        np.array([0, 0, 0, 0, 1, 1]),
    )


def test_report_counts_and_lists(report):
    assert report.num_boxes == 6
    assert report.num_dropped == 3
    assert report.counts == {
        box_checks.NO_AREA: 2,
        box_checks.ROUNDED: 1,
        box_checks.CLIPPED: 1,
        box_checks.NOT_FINITE: 1,
    }
    assert [str(issue) for issue in report.issues] == [
        "a RBC [504, 337, 504, 337.5]",
        "a WBC [504, 337, 504, 337.5]",
        "b WBC [504, 337, 504, 337.5]",
        "b RBC [1, nan, 2, inf]",
    ]
    assert report.summary() == (
        "3 boxes dropped: 1 not finite, e.g. b RBC [1, nan, 2, inf]; "
        "2 without area, e.g. a RBC [504, 337, 504, 337.5]; "
        "1 box clipped, e.g. b WBC [504, 337, 504, 337.5]"
    )


def test_report_file_names_each_box(report, tmp_path):
    box_checks.write_defects(report, tmp_path / "boxes.json")
    text = (tmp_path / "boxes.json").read_text()
    tree = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert tree["boxes"] == 6
    assert tree["counts"] == report.counts
    assert tree["issues"][0] == {
        "image": "a",
        "class": "RBC",
        "box": [504, 337, 504, 337.5],
        "reason": "without area",
    }
    assert tree["issues"][3]["box"] == [1, "nan", 2, "inf"]
    assert len(text.splitlines()) == len(report.issues) + 2


def test_report_of_a_clean_dataset_and_one_that_cannot_be_written(tmp_path):
    box_checks.write_defects(box_checks.BoxDefects(num_boxes=2), tmp_path / "boxes.json")
    assert json.loads((tmp_path / "boxes.json").read_text()) == {"boxes": 2, "counts": {}, "issues": []}
    with pytest.raises(InputError, match="missing.boxes.json cannot be written"):
        box_checks.write_defects(box_checks.BoxDefects(), tmp_path / "missing" / "boxes.json")
