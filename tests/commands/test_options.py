"""The options and arguments that several commands have."""

import argparse

import pytest
from annotated_sets import Photo, write_set

from refinedet_tf.commands import options
from refinedet_tf.errors import InputError
from refinedet_tf.inference.tiles import Tiling


def parse(add_options, *arguments):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


def test_config_and_overrides():
    parsed = parse(
        options.add_config_options,
        *("--config", "voc320.json", "--set", "training.batch_size=8", "--set", "model.backbone=resnet101"),
    )
    config = options.config_from(parsed)
    assert (config.training.batch_size, config.model.backbone) == (8, "resnet101")
    assert config.model.image_size == (320, 320)
    with pytest.raises(SystemExit):
        parse(options.add_config_options)
    assert parse(lambda parser: options.add_config_options(parser, required=False)).config is None


@pytest.mark.parametrize(
    ("arguments", "tiling"),
    [
        ([], None),
        (["--tiles", "640"], Tiling(640, 0.25)),
        (["--tiles", "64", "--tile-overlap", "0"], Tiling(64, 0.0)),
    ],
)
def test_tiles(arguments, tiling):
    assert options.tiling_from(parse(options.add_view_options, *arguments)) == tiling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tile-overlap", "0.5"], "--tile-overlap needs --tiles PIXELS"),
        (["--tiles", "8"], "the side of a tile must be at least 32 pixels, got 8"),
        (["--tiles", "64", "--tile-overlap", "1"], r"the overlap of tiles must lie in 0..0.9, got 1.0"),
    ],
)
def test_tiles_that_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        options.tiling_from(parse(options.add_view_options, *arguments))


def parse_data(*arguments):
    def add(parser):
        options.add_config_options(parser, required=False)
        options.add_data_option(parser)

    return parse(add, *arguments)


def test_data_folder_in_place_of_a_config(tmp_path, capsys):
    root = write_set("flat", tmp_path / "cups", [Photo("a.jpg")]).root
    parsed = parse_data(
        "--data", str(root), "--set", "training.length=3 epochs", "--set", "data.split_seed=5"
    )
    options.take_data_folder(parsed)
    config = options.config_from(parsed)
    assert (config.name, config.data.root, config.data.split_seed) == ("cups", str(root), 5)
    assert (config.training.length, config.model.backbone) == ("3 epochs", "efficientnet_lite0")
    found, parts, base = capsys.readouterr().out.splitlines()
    assert found == f"data: VOC in {root}, told by XML files in annotations"
    assert parts == "training: annotations:images[:80%]; test: annotations:images[80%:]"
    assert base.startswith("config: own_data.json")


def test_data_folder_with_a_config_and_a_format(tmp_path):
    root = write_set("flat", tmp_path / "cups", [Photo("a.jpg")]).root
    (root / "data.yaml").write_text("names: [cup]\ntrain: images\n")
    parsed = parse_data("--config", "shapes.json", "--data", str(root), "--set", "data.format=voc")
    options.take_data_folder(parsed)
    config = options.config_from(parsed)
    assert (config.name, config.data.train) == ("shapes", ("annotations:images[:80%]",))


def test_neither_config_nor_data():
    with pytest.raises(InputError, match="name the photographs by --data FOLDER, or a config"):
        options.take_data_folder(parse_data())
