"""Names of classes: synonyms, and the names that the authors' files leave out."""

import difflib
from collections.abc import Mapping, Sequence

from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError, shortened_text

VOC_TO_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""COCO's names of the VOC classes that have another name there; the other 14 have the same names."""

KNOWN_SETS = {20: ("VOC", "voc320.json"), 80: ("COCO", "coco320.json")}
"""The sets of classes of the authors' models by their number of classes, and a config that names them."""


def same_class(first: str, second: str) -> bool:
    """Says whether two names are equal, or those that VOC and COCO give the same class."""
    return VOC_TO_COCO.get(first, first) == VOC_TO_COCO.get(second, second)


def pair_classes(target: Sequence[str], source: Sequence[str]) -> dict[int, int]:
    """Returns the label (1..C) in the source of each label of the target whose class the source has.

    An equal name counts before a synonym.
    """
    pairs = {}
    for label, name in enumerate(target, 1):
        equal = [number for number, other in enumerate(source, 1) if other == name]
        similar = [number for number, other in enumerate(source, 1) if same_class(other, name)]
        if equal or similar:
            pairs[label] = (equal or similar)[0]
    return pairs


def matching_labels(target: Sequence[str], source: Sequence[str], names: Mapping[str, str]) -> list[int]:
    """Returns, for each target class, label 1 first, the label of the same class in the source.

    `names` holds the source's names of the target classes that have another one there, besides the names that
    VOC and COCO give the same class.

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
        found = pair_classes([counterpart], source)
        if not found:
            name, counterpart = shortened_text(name, 100), shortened_text(counterpart, 100)
            near = difflib.get_close_matches(counterpart, source, n=1, cutoff=0.4)
            hint = f"; is it {near[0]}? Then --map {name!r}={near[0]!r}" if near else ""
            raise InputError(f"the class {name} has no counterpart {counterpart!r} among the trained{hint}")
        labels.append(found[1])
    return labels


def known_set(num_classes: int) -> tuple[str, tuple[str, ...]] | None:
    """Returns the name of the set, "VOC" or "COCO", that has so many classes, and their names; else None."""
    if num_classes not in KNOWN_SETS:
        return None
    name, config = KNOWN_SETS[num_classes]
    return name, load_config(config).class_names
