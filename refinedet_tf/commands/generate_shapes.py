"""Writes a generated detection set as a VOC devkit: refinedet generate-shapes data/shapes"""

import argparse
from collections.abc import Sequence

from refinedet_tf.data.shapes import write_shapes


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line and writes the set."""
    parser = argparse.ArgumentParser(prog=prog, description="Writes a generated set as a VOC devkit.")
    parser.add_argument("root", metavar="FOLDER", help="new folder for the set, e.g. data/shapes")
    parser.add_argument("--train", type=int, default=2000, metavar="IMAGES")
    parser.add_argument("--val", type=int, default=100, metavar="IMAGES")
    parser.add_argument("--test", type=int, default=200, metavar="IMAGES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--object-size",
        type=float,
        nargs="+",
        metavar="PIXELS",
        help="longer side of the objects, or its range as two numbers (default: 18 %% to 50 %% of the image)",
    )
    options = parser.parse_args(arguments)
    split_sizes = {"train": options.train, "val": options.val, "test": options.test}
    sizes = options.object_size
    if sizes is not None and len(sizes) > 2:
        parser.error(f"argument --object-size: give one number or two, got {len(sizes)}")
    object_pixels = None if sizes is None else (sizes[0], sizes[-1])
    written = write_shapes(options.root, split_sizes, options.seed, object_pixels)
    what = ", ".join(f"{number} images for {split}" for split, number in split_sizes.items())
    print(f"{options.root}: {what}, seed {options.seed}" + ("" if written else " (already there)"))
