"""Copying the weights of some classes of a trained detector (paper, section 4.4, Table 4: COCO to VOC)."""

import difflib
import runpy
from collections.abc import Mapping, Sequence

import numpy as np

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.refinedet.network import RefineDet


def matching_labels(target: Sequence[str], source: Sequence[str], names: Mapping[str, str]) -> list[int]:
    """Returns, for each target class, label 1 first, the label of the same class in the source.

    Args:
        target: the class names of the target in label order.
        source: the class names of the source in label order.
        names: the source's names of the target classes that have another name there.

    Raises:
        InputError: a target class has no counterpart. The message names it and the most similar class.
    """
    if unknown := [name for name in names if name not in target]:
        raise InputError(
            f"--map: {shortened_text(unknown[0], 100)} is none of the target's classes "
            f"({shortened_text(', '.join(target))})"
        )
    labels = []
    for name in target:
        counterpart = names.get(name, name)
        if counterpart not in source:
            name, counterpart = shortened_text(name, 100), shortened_text(counterpart, 100)
            near = difflib.get_close_matches(counterpart, source, n=1, cutoff=0.4)
            hint = f"; is it {near[0]}? Then --map {name!r}={near[0]!r}" if near else ""
            raise InputError(f"the class {name} has no counterpart {counterpart!r} among the trained{hint}")
        labels.append(source.index(counterpart) + 1)
    return labels


def copy_classes(trained: RefineDet, target: RefineDet, labels: Sequence[int]) -> None:
    """Copies the weights of a RefineDet to another RefineDet with other classes.

    Args:
        trained: the model that has the weights.
        target: the model that is filled; it may differ only in the number of classes.
        labels: the label (1..C) in `trained` of each class of `target`. The background is always copied.

    Raises:
        InputError: the models differ in another way. The message names the first variable that differs.
    """
    rows = [0, *labels]
    num_logits = trained.config.num_classes + 1
    trained_values = {variable.path: np.asarray(variable) for variable in trained.weights}
    values = {}
    for variable in target.weights:
        value = trained_values.get(variable.path)
        if value is not None and variable.path.partition("/")[0] in trained.classifiers:
            value = value.reshape(*value.shape[:-1], -1, num_logits)[..., rows]
            value = value.reshape(*value.shape[:-2], -1)
        if value is None or value.shape != tuple(variable.shape):
            raise InputError(
                f"--target is another network: {variable.path} is {list(variable.shape)}, "
                f"trained {'is none' if value is None else list(value.shape)}"
            )
        values[variable.path] = value
    for variable in target.weights:
        variable.assign(values[variable.path])


if __name__ == "__main__":
    # The command had this name before it moved.
    runpy.run_module("refinedet_tf.commands.subset_classes", run_name="__main__")
