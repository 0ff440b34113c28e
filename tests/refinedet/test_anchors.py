import dataclasses
import json

import numpy as np
import pytest
from golden_arrays import GOLDEN_FOLDER
from own_anchors import FIVE_LEVELS, FOUR_LEVELS, tile_by_loops
from refusals import message_of

from refinedet_tf.config.files import config_to_json, load_config
from refinedet_tf.config.values import DEFAULT_LEVELS, level_grids
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.anchors import tile_anchors

GOLDEN = np.load(GOLDEN_FOLDER / "priors.npz")


@pytest.mark.parametrize(("size", "count"), [(320, 6375), (512, 16320)])
def test_against_the_authors_priors(tf_test, size, count, compare):
    anchors = tile_anchors((size, size))
    tf_test.assertShapeEqual(anchors, np.zeros((count, 4)))
    tf_test.assertDTypeEqual(anchors, np.float32)
    x_first = GOLDEN[f"boxes_{size}"]
    compare("anchors", f"{size} x {size}", anchors, x_first[:, [1, 0, 3, 2]], 1e-6)


def test_level_grids_round_up():
    assert level_grids((100, 130)) == [(13, 17), (7, 9), (4, 5), (2, 3)]
    assert level_grids((320, 512)) == [(40, 64), (20, 32), (10, 16), (5, 8)]


PAPERS = [
    {"stride": 8, "scales": [32], "aspect_ratios": [1, 2, 0.5]},
    {"stride": 16, "scales": [64], "aspect_ratios": [1, 2, 0.5]},
    {"stride": 32, "scales": [128], "aspect_ratios": [1, 2, 0.5]},
    {"stride": 64, "scales": [256], "aspect_ratios": [1, 2, 0.5]},
]
"""The paper's anchors as a config says them."""


@pytest.mark.parametrize("levels", [DEFAULT_LEVELS, FOUR_LEVELS, FIVE_LEVELS], ids=["paper", "4", "5"])
@pytest.mark.parametrize("size", [(192, 320), (320, 192), (100, 130), (97, 65), (64, 64)])
def test_against_a_plain_loop(tf_test, levels, size):
    expected = tile_by_loops(size, [dataclasses.asdict(level) for level in levels])
    anchors = tile_anchors(size, levels)
    tf_test.assertDTypeEqual(anchors, np.float32)
    tf_test.assertAllClose(anchors, expected, rtol=0, atol=1e-6)
    grids = level_grids(size, levels)
    assert len(anchors) == sum(r * c * level.per_cell for (r, c), level in zip(grids, levels, strict=True))


def with_anchors(anchors, size=(320, 320)):
    return load_config(
        "voc320.json", [f"model.anchors={json.dumps(anchors)}", f"model.image_size={json.dumps(size)}"]
    )


@pytest.mark.parametrize("size", [(320, 320), (512, 512), (288, 304)])
def test_the_papers_anchors_said_in_a_config_are_the_default_bit_for_bit(size):
    config = with_anchors(PAPERS, size)
    assert config.model.anchors == config.model.anchor_levels == DEFAULT_LEVELS
    default = load_config("voc320.json").model
    assert default.anchors is None and default.anchor_levels == DEFAULT_LEVELS
    np.testing.assert_array_equal(
        tile_anchors(size, config.model.anchors), tile_anchors(size, default.anchors)
    )


def test_own_anchors_survive_the_way_through_a_file(tmp_path):
    anchors = [{"stride": 4, "scales": [8.5, 12], "aspect_ratios": [1]}, *PAPERS]
    config = with_anchors(anchors)
    assert [level.number for level in config.model.anchors] == [2, 3, 4, 5, 6]
    assert config.model.has_stride_4 and not with_anchors(PAPERS).model.has_stride_4
    file = tmp_path / "copy.json"
    file.write_text(config_to_json(config), encoding="utf-8")
    assert load_config(file) == config


def changed(number, **values):
    return [{**entry, **values} if place == number else entry for place, entry in enumerate(PAPERS)]


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([], "must be levels of the strides [8, 16, 32, 64] or [4, 8, 16, 32, 64], in this order, got []"),
        (PAPERS[::-1], "in this order, got [64, 32, 16, 8]"),
        (PAPERS[:3], "in this order, got [8, 16, 32]"),
        (changed(1, stride=8), "in this order, got [8, 8, 32, 64]"),
        (changed(1, stride=12), "model.anchors.1.stride: Input should be 4, 8, 16, 32 or 64, got 12"),
        (changed(0, scales=[-8]), "model.anchors.0.scales.0: Input should be greater than or equal to 1"),
        (changed(2, aspect_ratios=[1, 0]), "model.anchors.2.aspect_ratios.1: Input should be greater than"),
        (changed(0, scales=[]), "scales of stride 8 must hold at least one number"),
        (changed(3, aspect_ratios=[]), "aspect_ratios of stride 64 must hold at least one number"),
        (changed(0, scales=[8, 16, 8]), "scales of stride 8 holds a number twice: [8.0, 16.0, 8.0]"),
        (
            changed(0, scales=list(range(1, 10))),
            "9 scales x 3 aspect ratios = 27 anchors per cell; at most 24",
        ),
        (changed(1, scales=[20]), "the largest scale of stride 16, 20, is below that of stride 8, 32"),
        (
            changed(3, scales=[256, 400]),
            "scale 400 of stride 64 is larger than the image, image_size [320, 320]",
        ),
        (changed(0, scales="32"), "model.anchors.0.scales: Input should be a valid array"),
        (changed(0, scale=[32]), "unknown key model.anchors.0.scale; did you mean model.anchors.0.scales?"),
        ([{"stride": 8}], "model.anchors.0.scales: Field required"),
        (7, "model.anchors: Input should be a valid array, got 7"),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:30],
)
def test_impossible_anchors_are_one_line(anchors, message):
    assert message in message_of(with_anchors, anchors)


def test_too_many_anchors():
    many = [{"stride": 4, "scales": [8, 12], "aspect_ratios": [1, 2, 0.5]}, *PAPERS]
    assert len(tile_anchors((1024, 1024), with_anchors(many, (1024, 1024)).model.anchors)) < 1_000_000
    with pytest.raises(
        InputError, match=r"1,833,984 anchors at image_size \[2048, 2048\]; at most 1,000,000"
    ):
        with_anchors(many, (2048, 2048))
