"""Makes the detector that comes with the package from a run: python docs/ship_detector.py RUN

RUN is the folder of a run of voc2007_test_photos_2.json. Writes refinedet_tf/pretrained/config.json and, with
numbers of 16 bits, final.weights.h5 there; and docs/pretrained.jpg, its detections on examples/photos.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config.files import PRETRAINED, config_to_json, load_config, run_folder_of
from refinedet_tf.drawing import contact_sheet, draw_detections
from refinedet_tf.errors import InputError
from refinedet_tf.run_folder import RunFolder

CONFIG = "voc2007_test_photos_2.json"
SCORE = 0.5
"""The smallest score of a detection that is drawn."""

HEIGHT = 360
"""The height of each photograph on the sheet in pixels."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    options = parser.parse_args(arguments)
    config, trained = load_config(CONFIG), load_config(options.run)
    same_network = dataclasses.replace(trained.model, weights=config.model.weights) == config.model
    if not same_network or trained.data.classes != config.data.classes:
        raise InputError(f"{options.run} is no run of {CONFIG}: model and classes must be equal")
    shipped = RunFolder(run_folder_of(PRETRAINED))
    shipped.config.write_text(config_to_json(config), encoding="utf-8")
    write_in_16_bits(RunFolder(options.run).trained_weights(), shipped.final_weights)
    import_tensorflow()
    docs = Path(__file__).parent
    draw(sorted((docs.parent / "examples/photos").iterdir()), docs / "pretrained.jpg")


def write_in_16_bits(source: Path, target: Path) -> None:
    """Copies a `.weights.h5` file and rounds its numbers to float16.

    Raises:
        InputError: a number is too large for float16.
    """
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                with np.errstate(over="ignore"):
                    values = np.asarray(item).astype(np.float16)
                if not np.isfinite(values).all():
                    raise InputError(f"{source}: {name} holds a number that float16 cannot hold")
                copied = new.create_dataset(name, data=values)
            else:
                copied = new.require_group(name)
            copied.attrs.update(item.attrs)

        old.visititems(copy)


def draw(photos: Sequence[Path], target: Path) -> None:
    """Draws the detections on photographs, which it puts side by side at the same height."""
    from refinedet_tf.data.images import read_image
    from refinedet_tf.inference.detector import Detector

    columns = []
    for photo, result in zip(photos, Detector.pretrained()(photos), strict=True):
        shown = result.above(SCORE)
        drawn = draw_detections(
            read_image(photo), shown.normalized_boxes, shown.labels, shown.class_names, shown.scores
        )
        picture = Image.fromarray(drawn)
        size = round(picture.width * HEIGHT / picture.height), HEIGHT
        columns.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    Image.fromarray(contact_sheet(columns)).save(target, quality=90)


if __name__ == "__main__":
    run(main)
