"""What the index of a data set promises."""

import json
import re

from mutation import EXTREME_NUMBERS, EXTREME_TEXTS, mutate_bytes, pick

from refinedet_tf.config import DataConfig
from refinedet_tf.data.box_checks import write_defects
from refinedet_tf.data.dataset import read_dataset


def hostile_text(rng, text, separator, texts, encodings, damaged=0.4):
    """Returns a text with damaged bytes, or with hostile texts between some of its words or in their places.

    Args:
        rng: the source of all choices.
        text: the valid text.
        separator: a pattern of what divides the words, in a group, so that it is a word as well.
        texts: the hostile texts besides those of `mutation`.
        encodings: one of them is chosen.
        damaged: the probability of damaged bytes.
    """
    if rng.random() < damaged:
        return mutate_bytes(rng, text.encode())
    words = re.split(separator, text)
    for _ in range(rng.integers(1, 3)):
        place = rng.integers(len(words))
        new = pick(rng, (*texts, *EXTREME_TEXTS, *map(repr, EXTREME_NUMBERS)))
        words[place : place + rng.integers(2)] = [new]
    encoding = pick(rng, encodings)
    return "".join(words).encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def read(rng, data_format, root, part, classes=("cat", "dog"), split=None, strict=0.1):
    """Reads a split, by chance with strictness and without the classes, and checks it; returns it."""
    config = DataConfig(
        format=data_format,
        root=str(root),
        train=(part,),
        test=(part,),
        classes=pick(rng, (None, classes)),
    )
    dataset = read_dataset(config, split or pick(rng, ("train", "test")), strict=bool(rng.random() < strict))
    check_dataset(dataset, root)
    return dataset


def check_dataset(dataset, root):
    """Checks everything that a training or an evaluation reads of the index of images below `root`."""
    num_images, num_boxes = len(dataset), len(dataset.boxes)
    assert dataset.image_sizes.shape == (num_images, 2) and (dataset.image_sizes >= 1).all()
    assert dataset.boxes.shape == (num_boxes, 4)
    assert ((dataset.boxes >= 0) & (dataset.boxes <= 1)).all()
    assert (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all()
    assert len(dataset.labels) == len(dataset.difficult) == num_boxes
    assert ((dataset.labels >= 1) & (dataset.labels <= len(dataset.class_names))).all()
    assert dataset.offsets[0] == 0 and dataset.offsets[-1] == num_boxes
    for path in dataset.image_paths:
        assert path.startswith(f"{root}/") and "/../" not in path
    for text in (*dataset.class_names, *dataset.image_ids, dataset.defects.summary()):
        text.encode()
        assert "\0" not in text
    assert len(dataset.defects.summary()) < 2_000
    write_defects(dataset.defects, root / "defects.json")
    json.loads((root / "defects.json").read_text())
