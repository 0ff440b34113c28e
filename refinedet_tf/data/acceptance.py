"""The defects of a whole data set that stop a command unless the config accepts them, or that it tells."""

import numpy as np

from refinedet_tf.config import DataConfig, LossConfig
from refinedet_tf.data.dataset import DetectionDataset, read_dataset
from refinedet_tf.errors import InputError, listed, shortened_text


def read_labelled(data_config: DataConfig, split: str) -> DetectionDataset:
    """Reads the images and objects of a split on which accuracy is measured.

    Raises:
        InputError: the split is empty, cannot be read, has too many bad boxes, or has no annotations.
    """
    dataset = read_dataset(data_config, split)
    check_share_of_bad_boxes(dataset, data_config, split)
    check_labelled(dataset, data_config, split)
    return dataset


def check_labelled(dataset: DetectionDataset, data_config: DataConfig, split: str, advice: str = "") -> None:
    """Checks that a split has annotations; the message ends with the advice.

    Raises:
        InputError: it is a set of images alone.
    """
    if not dataset.labelled:
        names = ", ".join(getattr(data_config, split))
        raise InputError(f"data.{split} ({names}) has no annotations to measure against{advice}")


def check_share_of_bad_boxes(dataset: DetectionDataset, data_config: DataConfig, split: str) -> None:
    """Checks that not too many boxes of a split were clipped or dropped.

    Raises:
        InputError: the share of the boxes that were clipped or dropped is larger than `max_bad_boxes`.
    """
    defects = dataset.defects
    if defects.num_bad <= data_config.max_bad_boxes * defects.num_boxes:
        return
    swapped = defects.num_bad_if_swapped
    hint = ""
    if swapped is not None and swapped < defects.num_bad / 2:
        hint = f"; with x and y swapped it would be {swapped}, so they may be in the wrong order"
    raise InputError(
        f"data.{split}: of {defects.num_boxes} boxes {defects.num_bad} are clipped or dropped "
        f"({defects.summary()}){hint}; correct the files, or accept this by "
        f"--set data.max_bad_boxes={np.ceil(100 * defects.num_bad / defects.num_boxes) / 100:g}"
    )


def empty_classes(dataset: DetectionDataset) -> list[str]:
    """Returns the names of the classes that have no object in a set."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names) + 1)[1:]
    return [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]


def check_empty_classes(dataset: DetectionDataset, data_config: DataConfig) -> str | None:
    """Checks that the training set has objects of every class that the config names.

    Returns:
        A line that names the classes without objects, where the config does not name the classes or
        accepts this; else None.

    Raises:
        InputError: the config names a class without objects.
    """
    empty = empty_classes(dataset)
    if not empty:
        return None
    names = listed(f'"{name}"' for name in empty)
    if data_config.classes is None or data_config.accept_empty_classes:
        return f"note: the training set has no object of {names}, which the network cannot learn then"
    parts = shortened_text(", ".join(data_config.train))
    raise InputError(
        f"data.classes names {names}, of which data.train ({parts}) has no object; leave it out, or accept "
        "this by --set data.accept_empty_classes=true"
    )


def use_of_backgrounds(loss_config: LossConfig) -> str:
    """Returns a sentence on what training does with images without objects."""
    if loss_config.classification == "focal":
        return "The focal loss counts all of their anchors as negatives."
    if loss_config.background_negatives:
        return (
            f"Training takes {loss_config.background_negatives} negatives of each of them "
            "(loss.background_negatives)."
        )
    return (
        "Training learns nothing from them, as in the paper; with loss.background_negatives, for example 10, "
        "it does."
    )
