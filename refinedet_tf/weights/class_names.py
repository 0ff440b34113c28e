"""Names of classes: synonyms, and the names that the authors' files leave out."""

from collections.abc import Sequence

from refinedet_tf.config.files import load_config

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


def known_set(num_classes: int) -> tuple[str, tuple[str, ...]] | None:
    """Returns the name of the set, "VOC" or "COCO", that has so many classes, and their names.

    Returns:
        (set, class names in label order), or None for any other number of classes.
    """
    if num_classes not in KNOWN_SETS:
        return None
    name, config = KNOWN_SETS[num_classes]
    return name, load_config(config).class_names
