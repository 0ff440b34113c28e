"""Options and arguments that several commands have."""

import argparse

from refinedet_tf.config import Config
from refinedet_tf.config.files import load_config, overridden_value
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.inference.tiles import Tiling


def add_config_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config` and `--set`."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="a config file, a run folder, the name of a file in configs/, or "
        '"pretrained" for the detector that comes with the package',
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a config value, e.g. training.batch_size=16 (repeatable)",
    )


def config_from(options: argparse.Namespace) -> Config:
    """The config that `--config` and `--set` describe."""
    return load_config(options.config, options.overrides)


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--data`."""
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="a folder of annotated photographs in one of the layouts of docs/data.md; its format and parts "
        "are found out, and --config may be left out",
    )


def take_data_folder(options: argparse.Namespace) -> None:
    """Puts what lies in the folder of `--data` into the options, and says on the terminal what was found.

    Without `--config`, `BASE_CONFIG` is taken.

    Raises:
        InputError: there is neither `--data` nor `--config`, or the reasons are those of `discover`.
    """
    if options.data is None:
        if options.config is None:
            raise InputError("name the photographs by --data FOLDER, or a config by --config FILE")
        return
    from refinedet_tf.data.discovery import BASE_CONFIG, discover, name_override

    found = discover(options.data, overridden_value(options.overrides, "data.format"))
    name = [name_override(options.data)] if options.config is None else []
    options.config = options.config or BASE_CONFIG
    options.overrides = [*found.overrides(), *name, *options.overrides]
    for line in (*found.lines(), f"config: {shortened_text(options.config)} with these keys of data"):
        print(line, flush=True)


def add_model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config`, `--set` and `--weights`."""
    add_config_options(parser, required)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights: .weights.h5, .keras, .caffemodel or .pth; with a run folder as --config, "
        "its best ones by default",
    )


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--multi-scale`, `--tiles` and `--tile-overlap`."""
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="detect on each image at many sizes, mirrored as well, and merge the detections (the + of the "
        "paper's tables); many times slower",
    )
    parser.add_argument(
        "--tiles",
        type=int,
        metavar="PIXELS",
        help="detect on overlapping tiles of each image as well, and merge the detections: for small objects "
        "in large photographs; PIXELS is the side of a tile in pixels of the image, e.g. that of the network",
    )
    parser.add_argument(
        "--tile-overlap",
        type=float,
        metavar="SHARE",
        help="the share of its side that a tile has in common with the next one (default: 0.25); objects up "
        "to that size lie wholly in a tile",
    )


def tiling_from(options: argparse.Namespace) -> Tiling | None:
    """Returns what `--tiles` and `--tile-overlap` describe, or None without them.

    Raises:
        InputError: a value is out of its range, or there is an overlap without tiles.
    """
    if options.tiles is None:
        if options.tile_overlap is not None:
            raise InputError("--tile-overlap needs --tiles PIXELS")
        return None
    overlap = {} if options.tile_overlap is None else {"overlap": options.tile_overlap}
    try:
        return Tiling(options.tiles, **overlap)
    except InputError as error:
        raise InputError(f"--tiles, --tile-overlap: {error}") from None


def add_score_threshold_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--score-threshold`."""
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections of at least this score (default: 0.5)",
    )


def check_score_threshold(score_threshold: float) -> None:
    """Refuses a `--score-threshold` outside 0..1 by an InputError."""
    if not 0 <= score_threshold <= 1:
        raise InputError(f"--score-threshold must lie in 0..1, got {score_threshold}")
