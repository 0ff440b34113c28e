"""Trains a RefineDet: python train.py --config voc320.json --output runs/voc320."""

import argparse

from refinedet_tf import cli


def main(arguments=None):
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_options(parser)
    parser.add_argument("--output", metavar="FOLDER", help="run folder (default: runs/NAME of the config)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--strict", action="store_true", help="fail on an unusable box, do not drop it")
    options = parser.parse_args(arguments)
    config = cli.config_from(options)

    cli.import_tensorflow()
    from refinedet_tf.training.loop import train

    folder = train(config, options.output or f"runs/{config.name}", options.resume, options.strict)
    print(f"done: {folder.path}; next: python evaluate.py --config {folder.path}")


if __name__ == "__main__":
    cli.run(main)
