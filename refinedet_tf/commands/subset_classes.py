"""Writes weights for the classes of another config, picked from a trained detector.

refinedet subset-classes --config coco320.json --weights coco.caffemodel \
    --target voc320.json --output voc320_from_coco.weights.h5
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.commands.options import add_model_options, config_from
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_folder


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, copies the classes and writes the weights."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes weights for the classes of another config, picked from a trained detector. "
        "Classes match by name; VOC's six names that COCO spells differently are known.",
    )
    add_model_options(parser)
    parser.add_argument("--target", required=True, metavar="FILE", help="a config with the wanted classes")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.weights.h5")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="TARGET=TRAINED",
        help="the trained name of a target class, where it differs (repeatable)",
    )
    options = parser.parse_args(arguments)
    if not options.output.name.endswith(".weights.h5"):
        raise InputError(f"--output {options.output}: the name must end in .weights.h5")
    if not is_folder(options.output.parent):
        raise InputError(f"--output: the folder {shortened_text(options.output.parent)} does not exist")
    target_config = load_config(options.target)
    target_names = target_config.class_names

    config = config_from(options)
    trained = load_model(config, options)
    from refinedet_tf.refinedet.network import build_model
    from refinedet_tf.weights import save_weights
    from refinedet_tf.weights.class_names import matching_labels
    from refinedet_tf.weights.transfer import copy_classes

    trained_names = config.class_names
    labels = matching_labels(target_names, trained_names, _parse_map(options.map))
    target = build_model(target_config)
    copy_classes(trained, target, labels)
    save_weights(target, options.output)
    for name, label in zip(target_names, labels, strict=True):
        print(f"{name:>16} <- {trained_names[label - 1]}")
    print(f"{len(labels)} of {len(trained_names)} classes: {options.output}")


def _parse_map(pairs: Sequence[str]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        target, separator, trained = pair.partition("=")
        if not (target and separator and trained):
            raise InputError(f"--map {shortened_text(pair, 200)}: write TARGET=TRAINED, e.g. sofa=couch")
        names[target] = trained
    return names
