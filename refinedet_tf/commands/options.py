"""Options and arguments that several commands have."""

import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config_files import load_config
from refinedet_tf.data.image_folders import is_image
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.inference.tiles import Tiling


def add_config_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config` and `--set`."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="a config file, a run folder, or the name of a file in configs/",
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--set` and `--weights`."""
    add_config_options(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights: .weights.h5, .keras, .caffemodel or .pth; with a run folder as --config, "
        "its best ones by default",
    )


def add_multi_scale_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--multi-scale`."""
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="detect on each image at many sizes, mirrored as well, and merge the detections (the + of the "
        "paper's tables); many times slower",
    )


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--tiles` and `--tile-overlap`."""
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
    try:
        if options.tile_overlap is None:
            return Tiling(options.tiles)
        return Tiling(options.tiles, options.tile_overlap)
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
    """Refuses a `--score-threshold` outside 0..1.

    Raises:
        InputError: it lies outside.
    """
    if not 0 <= score_threshold <= 1:
        raise InputError(f"--score-threshold must lie in 0..1, got {score_threshold}")


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that `names` (files, folders, patterns with `*`, `?`, `[]`, `**`) stand for.

    A folder stands for the files directly in it that have an ending of an image (`is_image`); files that are
    named, also by a pattern, may have any ending. Each file comes once, in the given order.

    Raises:
        InputError: a name stands for no image.
    """
    images: list[Path] = []
    for name in names:
        # Path.glob refuses absolute patterns, and Path.exists raises for a name that no file can have.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH110, PTH207
        files = []
        for path in map(Path, matches):
            if path.is_dir():
                inside = (file for file in path.iterdir() if is_image(file.name))
                files += sorted(file for file in inside if file.is_file())
            else:
                files.append(path)
        if not files:
            raise InputError(
                f"no image found: {shortened_text(name)}; name files, folders with images, or patterns"
            )
        images += files
    return list({os.path.realpath(path): path for path in reversed(images)}.values())[::-1]
