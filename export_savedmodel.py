"""Writes a trained model as SavedModel: python export_savedmodel.py --config runs/voc320 --output exports"""

import argparse
from collections.abc import Sequence

from refinedet_tf import cli


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_model_options(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder of all versions")
    parser.add_argument(
        "--version", type=int, metavar="N", help="number of the version's folder (default: the next free)"
    )
    arguments = parser.parse_args(arguments)

    config, model = cli.load_model(arguments)
    from refinedet_tf.export.savedmodel import ExportMismatch, export_saved_model

    try:
        folder, differences = export_saved_model(model, config, arguments.output, arguments.version)
    except ExportMismatch as error:
        raise SystemExit(f"error: {error}; nothing was exported") from None
    print(
        f"{folder}: {differences['detections']} detections on generated images differ from the network's "
        f"by at most {differences['boxes']:.2g} (boxes, normalised) and {differences['scores']:.2g} (scores)"
    )


if __name__ == "__main__":
    cli.run(main)
