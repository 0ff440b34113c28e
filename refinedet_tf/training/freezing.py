"""Layers that keep their weights during a training (`training.freeze`)."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import keras

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.refinedet.network import Part, RefineDet

FROZEN_PARTS: dict[str, tuple[Part, ...]] = {
    "none": (),
    "backbone": ("backbone",),
    "all_but_heads": ("backbone", "extra", "transfer"),
}
"""The parts of the network that each word of `training.freeze` freezes."""

NUM_EXAMPLES = 6
"""The number of layer names in the message about a pattern that matches none."""


def freeze_layers(network: RefineDet, freeze: str | Sequence[str]) -> list[str]:
    """Makes layers of a network untrainable.

    They have no gradient, and so neither weight decay nor momentum nor a share in the norm of the gradient.
    Their BatchNorm normalises with its stored statistics, which stay as they are.

    Args:
        network: the result of `build_model`, before an optimizer is built for its trainable variables.
        freeze: the value of `training.freeze`: "none", "backbone", "all_but_heads", or patterns of names.
            A pattern (`*`, `?`, `[...]`) stands for the layers of that name and everything inside them; a
            layer inside another may also be given with the names of both, as "tcb3/TL3_1".

    Returns:
        The frozen layers that have variables, each as the names of the layers that contain it and its own
        name, joined by "/".

    Raises:
        InputError: a pattern matches no layer that has variables, or no layer is left to be trained.
    """
    layers = dict(_layers_with_variables(network))
    if isinstance(freeze, str):
        parts = FROZEN_PARTS[freeze]
        frozen = [path for path in layers if parts and network.part_of(path) in parts]
    else:
        frozen = []
        for pattern in freeze:
            matched = [path for path in layers if _matches(pattern, path)]
            if not matched:
                step = max(len(layers) // NUM_EXAMPLES, 1)
                is_word = pattern in ("none", "backbone", "all_but_heads")
                hint = f'as a part, it stands alone: training.freeze="{pattern}"; ' if is_word else ""
                raise InputError(
                    f"training.freeze: no layer has the name {shortened_text(pattern, 100)!r}; {hint}some of "
                    f"{len(layers)} layers: {', '.join(list(layers)[::step])}"
                )
            frozen += matched
        frozen = list(dict.fromkeys(frozen))
    for path in frozen:
        layers[path].trainable = False
    if not network.trainable_variables:
        raise InputError("training.freeze leaves no layer to be trained")
    return frozen


def _layers_with_variables(
    layer: keras.layers.Layer, containers: tuple[str, ...] = ()
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Finds the layers inside a layer that have variables of their own, and their names with containers."""
    # Keras has no public way to the layers inside one that is not a model.
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        path = (*containers, inner.name)
        deeper = list(_layers_with_variables(inner, path))
        if not deeper and inner.weights:
            yield "/".join(path), inner
        yield from deeper


def _matches(pattern: str, path: str) -> bool:
    """Says whether a pattern is that of a layer or of one that contains it, with or without containers."""
    names = path.split("/")
    beginnings = ["/".join(names[:count]) for count in range(1, len(names) + 1)]
    return any(fnmatchcase(name, pattern) for name in [*names, *beginnings])
