"""Weights of a detector with other classes: everything that fits is taken over.

A training starts from what fits. `subset-classes` picks classes for which everything must fit (paper,
section 4.4, Table 4: COCO to VOC).
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.errors import InputError, listed, shortened_text
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.class_names import pair_classes
from refinedet_tf.weights.sources import Source
from refinedet_tf.weights.values import assign_checked

MISSING = "not in the file"
OTHER_SHAPE = "of another shape in the file"


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What a network has taken from a file.

    Attributes:
        layers: the names of the network's layers that were filled, wholly or in part.
        summary: a few lines for the terminal.
        details: one line per variable.
    """

    layers: list[str]
    summary: list[str]
    details: list[str] = dataclasses.field(default_factory=list)


def transfer(model: RefineDet, source: Source) -> InitialWeights:
    """Fills a network with everything of a trained detector that fits; the rest keeps its values.

    A layer fits if all its arrays in the file have the shapes of its variables. The classification
    layers of the ODM take the rows of the background and of the classes that both detectors have.

    Raises:
        InputError: the backbone does not fit, or a value is not finite, larger than any weight or a
            negative variance. The network is unchanged.
    """
    config = model.config
    pairs = pair_classes(config.class_names, source.class_names or ())
    variables = {variable.path: variable for variable in model.weights}
    old = {path: np.asarray(variable) for path, variable in variables.items()}
    different = {path: text for path in old if (text := _different_design(model, path, source))}
    new, reasons = _fitting(model, old, source.values, source.classifiers, {0: 0, **pairs}, different)
    for path, reason in reasons.items():
        if model.part_of(path) == "backbone":
            raise InputError(
                f"{shortened_text(source.path)} holds another backbone than the config: {path} is {reason}"
            )
    assign_checked(source.path, [(path, variables[path], value) for path, value in new.items()])
    layers = [layer.name for layer in model.layers if any(v.path in new for v in layer.weights)]
    has_all_rows = len(pairs) == config.num_classes
    in_part = {path for path in new if _layer(path) in model.classifiers and not has_all_rows}
    states = {path: f"new, {reason}" for path, reason in reasons.items()} | dict.fromkeys(
        in_part, "some rows"
    )
    lines = [f"{path}: {states.get(path, 'taken')}" for path in old]
    trained = source.class_names or ()
    origins = {label: f"taken from label {row}, {trained[row - 1]}" for label, row in pairs.items()}
    names = enumerate(config.class_names, 1)
    classes = [f"{name}: {origins.get(label, 'new class')}" for label, name in names]
    return InitialWeights(
        layers, _summary(config, source, pairs, len(new) - len(in_part), old, reasons), [*classes, *lines]
    )


def copy_classes(trained: RefineDet, target: RefineDet, labels: Sequence[int]) -> None:
    """Copies the weights of a RefineDet to another one, which may differ only in the number of classes.

    `labels` holds the label (1..C) in `trained` of each class of `target`. The background is always copied.

    Raises:
        InputError: the models differ in another way. The message names the first variable that differs.
    """
    values = {variable.path: np.asarray(variable) for variable in trained.weights}
    variables = {variable.path: variable for variable in target.weights}
    old = {path: np.asarray(variable) for path, variable in variables.items()}
    rows = dict(enumerate([0, *labels]))
    new, reasons = _fitting(target, old, values, trained.classifiers, rows, {})
    for path in reasons:
        found = list(values[path].shape) if path in values else "is none"
        raise InputError(f"--target is another network: {path} is {list(old[path].shape)}, trained {found}")
    for path, value in new.items():
        variables[path].assign(value)


def _fitting(
    model: RefineDet,
    old: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    classifiers: Mapping[str, int],
    rows: Mapping[int, int],
    different: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the new values of variables by path, and the reason of every other variable.

    `old` holds the values of the network, `values` and `classifiers` those of the detector, and `rows` the
    row in the detector of each row of a classification layer that is taken over. Variables in `different`
    are not taken, even where their shapes fit.
    """
    new, reasons = {}, {}
    for path, value in old.items():
        found = values.get(path)
        if path in different:
            reasons[path] = different[path]
        elif found is None:
            reasons[path] = MISSING
        else:
            fitted: np.ndarray | None = found
            if anchors := model.classifiers.get(_layer(path)):
                fitted = _with_rows(value, found, rows, anchors, classifiers.get(_layer(path), 0))
            if fitted is not None and fitted.shape == value.shape:
                new[path] = fitted
            else:
                reasons[path] = f"{OTHER_SHAPE} ({list(found.shape)} instead of {list(value.shape)})"
    # A bias is of no use without its kernel.
    misfits = {_layer(path) for path, reason in reasons.items() if reason != MISSING}
    for path in [path for path in new if _layer(path) in misfits]:
        del new[path]
        reasons[path] = OTHER_SHAPE
    return new, reasons


def _with_rows(
    old: np.ndarray, found: np.ndarray, rows: Mapping[int, int], old_anchors: int, found_anchors: int
) -> np.ndarray | None:
    """Returns a copy of `old` [..., anchors * (C + 1)] with some rows of `found`; None if it has another
    number of anchors or input channels.

    The channels of both are ordered by (anchor of the cell, class).
    """
    fits = old.shape[:-1] == found.shape[:-1] and old_anchors == found_anchors > 0
    if not fits or found.shape[-1] % found_anchors:
        return None
    into = old.reshape(*old.shape[:-1], old_anchors, -1).copy()
    taken = found.reshape(*found.shape[:-1], found_anchors, -1)
    into[..., list(rows)] = taken[..., list(rows.values())]
    return into.reshape(old.shape)


def _different_design(model: RefineDet, path: str, source: Source) -> str | None:
    """Says why a layer means something else in the source, even where its shapes are equal; None if not."""
    part, designs = model.part_of(path), (source.model_config, model.config.model)
    single_stage = [model_config.design == "single_stage" for model_config in designs]
    if part in ("heads", "transfer") and single_stage[0] != single_stage[1]:
        return f"of model.design {source.model_config.design} in the file"
    blocks = [model_config.has_head_blocks for model_config in designs]
    if part == "heads" and blocks[0] != blocks[1]:
        return f"{'after' if blocks[0] else 'without'} a block of model.head_blocks in the file"
    return None


def _summary(
    config: Config,
    source: Source,
    pairs: Mapping[int, int],
    num_taken: int,
    variables: Collection[str],
    reasons: Mapping[str, str],
) -> list[str]:
    """Returns the lines for the terminal; `num_taken` variables are taken as they are."""
    names, trained = config.class_names, source.class_names or ()
    head = f"initial weights: {num_taken} of {len(variables)} variables are those of {source.path}"
    lines = ["; ".join([head, *source.notes])]
    taken = [_taken(names[label - 1], trained[row - 1]) for label, row in pairs.items()]
    lines.append(f"  classes taken over: {listed(['(background)', *taken])}")
    if new := [name for label, name in enumerate(names, 1) if label not in pairs]:
        why = "not in the file" if source.class_names else "the file names no classes"
        lines.append(f"  new classes, {why}: {listed(new)}")
    used = set(pairs.values())
    if unused := [name for row, name in enumerate(trained, 1) if row not in used]:
        lines.append(f"  classes of the file that are not used: {listed(unused)}")
    layers: dict[str, dict[str, None]] = {}
    for path, reason in reasons.items():
        layers.setdefault(reason.partition(" (")[0], {})[_layer(path)] = None
    lines += [f"  new layers, {reason}: {listed(list(group))}" for reason, group in layers.items()]
    left_over = [*source.left_over, *(path for path in source.values if path not in variables)]
    if left_over:
        lines.append(f"  arrays of the file that are not used: {listed(left_over)}")
    return lines


def _taken(name: str, trained: str) -> str:
    return name if name == trained else f"{name} (from {trained})"


def _layer(path: str) -> str:
    return path.rpartition("/")[0]
