"""The entries of detections.json, and of what other programs write in the same form."""

import pytest


def assert_same_entries(found, expected, score, box):
    """Asserts that two lists of entries hold the same detections.

    Args:
        found, expected: the entries of the same images.
        score: the largest difference of two scores. box: of two coordinates, in pixels.
    """
    for entry, expected_entry in zip(found, expected, strict=True):
        for key in ("image", "height", "width"):
            assert entry[key] == expected_entry[key]
        for detection, other in zip(entry["detections"], expected_entry["detections"], strict=True):
            assert list(detection) == list(other) == ["class", "score", "box"]
            assert detection["class"] == other["class"]
            assert detection["score"] == pytest.approx(other["score"], abs=score)
            assert list(detection["box"]) == list(other["box"])
            assert detection["box"] == pytest.approx(other["box"], abs=box)
