"""Weights for some of the classes of a trained detector, e.g. COCO -> VOC (paper, section 4.4, Table 4):

python -m refinedet_tf.weights.class_subset --config coco320.json --weights coco.caffemodel \
    --target voc320.json --output voc320_from_coco.weights.h5
"""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf import cli
from refinedet_tf.anchors import ANCHORS_PER_CELL
from refinedet_tf.config import Config, load_config
from refinedet_tf.errors import InputError

VOC_TO_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""The VOC classes that COCO knows by another name; the other 14 have the same."""


def matching_labels(target: Sequence[str], source: Sequence[str], names: Mapping[str, str]) -> list[int]:
    """For each target class, label 1 first, the label of the same class in the source.

    Args:
        target, source: class names in label order.
        names: the source's name of a target class where it differs.

    Raises:
        InputError: a target class has no counterpart; names it and the nearest.
    """
    if unknown := [name for name in names if name not in target]:
        raise InputError(f"--map: {unknown[0]} is none of the target's classes ({', '.join(target)})")
    labels = []
    for name in target:
        counterpart = names.get(name, name)
        if counterpart not in source:
            near = difflib.get_close_matches(counterpart, source, n=1, cutoff=0.4)
            hint = f"; is it {near[0]}? Then --map {name!r}={near[0]!r}" if near else ""
            raise InputError(f"the class {name} has no counterpart {counterpart!r} among the trained{hint}")
        labels.append(source.index(counterpart) + 1)
    return labels


def copy_classes(trained, target, labels: Sequence[int]) -> None:
    """Copies the weights of one RefineDet to another one with other classes.

    Args:
        trained: the model with the weights.
        target: a model that differs in the number of classes only; it is filled.
        labels: for each class of `target`, its label (1..C) in `trained`. The background is kept.

    Raises:
        InputError: the models differ elsewhere; names the first variable.
    """
    rows = [0, *labels]
    trained_values = {variable.path: np.asarray(variable) for variable in trained.weights}
    values = {}
    for variable in target.weights:
        value = trained_values.get(variable.path)
        if value is not None and variable.path.split("/")[-2].startswith("odm_conf"):
            # Channels are (anchor of the cell, class).
            value = value.reshape(*value.shape[:-1], ANCHORS_PER_CELL, -1)[..., rows]
            value = value.reshape(*value.shape[:-2], -1)
        if value is None or value.shape != tuple(variable.shape):
            raise InputError(
                f"--target is another network: {variable.path} is {list(variable.shape)}, "
                f"trained {'is none' if value is None else list(value.shape)}"
            )
        values[variable.path] = value
    for variable in target.weights:
        variable.assign(values[variable.path])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m refinedet_tf.weights.class_subset",
        description="Writes weights for the classes of another config, picked from a trained detector. "
        "Classes match by name; VOC's six names that COCO spells differently are known.",
    )
    cli.add_model_options(parser)
    parser.add_argument("--target", required=True, metavar="FILE", help="a config with the wanted classes")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.weights.h5")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="TARGET=TRAINED",
        help="the trained name of a target class, where it differs (repeatable)",
    )
    arguments = parser.parse_args(arguments)
    if not arguments.output.name.endswith(".weights.h5"):
        raise InputError(f"--output {arguments.output}: the name must end in .weights.h5")
    if not arguments.output.parent.is_dir():
        raise InputError(f"--output: the folder {arguments.output.parent} does not exist")
    target_config = _without_initial_weights(load_config(arguments.target))
    target_config.num_classes  # noqa: B018 - refuses open classes before the models are built

    config, trained = cli.load_model(arguments)
    from refinedet_tf.model import build_model
    from refinedet_tf.weights import save_weights

    source, wanted = config.data.classes, target_config.data.classes
    known = {name: other for name, other in VOC_TO_COCO.items() if name in wanted and other in source}
    labels = matching_labels(wanted, source, known | _parse_map(arguments.map))
    target = build_model(target_config)
    copy_classes(trained, target, labels)
    save_weights(target, arguments.output)
    for name, label in zip(wanted, labels, strict=True):
        print(f"{name:>16} <- {source[label - 1]}")
    print(f"{len(labels)} of {len(source)} classes: {arguments.output}")


def _parse_map(pairs: Sequence[str]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        target, separator, trained = pair.partition("=")
        if not (target and separator and trained):
            raise InputError(f"--map {pair}: write TARGET=TRAINED, e.g. sofa=couch")
        names[target] = trained
    return names


def _without_initial_weights(config: Config) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))


if __name__ == "__main__":
    cli.run(main)
