"""The parts of a split, opened by the reader of their format, and what two splits must not share."""

from collections.abc import Sequence

from refinedet_tf.config import DataConfig
from refinedet_tf.data.readers.coco import CocoPart
from refinedet_tf.data.readers.csv_tables import CsvPart
from refinedet_tf.data.readers.identity import file_keys
from refinedet_tf.data.readers.reader import Reader
from refinedet_tf.data.readers.shares import (
    check_disjoint,
    may_hide_an_overlap,
    overlap_error,
    part_names,
    split_share,
)
from refinedet_tf.data.readers.voc import VocPart
from refinedet_tf.data.readers.yolo import YoloPart
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_folder

READERS: dict[str, type[Reader]] = {"voc": VocPart, "coco": CocoPart, "yolo": YoloPart, "csv": CsvPart}
"""The reader of each `data.format`."""


def open_parts(data_config: DataConfig, split: str) -> list[Reader]:
    """Opens the parts of a split ("train", "validation" or "test"), at least one of which holds an image.

    Raises:
        InputError: there is no part or no image, a part is missing or broken, two splits overlap, or some
            parts have annotations and others do not.
    """
    names = part_names(data_config)[split]
    if not names:
        needed = ", which names the classes as data.classes is null" if data_config.classes is None else ""
        raise InputError(f"data.{split} is empty: name at least one part{needed}")
    if not is_folder(data_config.root):
        raise InputError(f"data.root: folder {shortened_text(data_config.root)} does not exist")
    check_disjoint(data_config)
    # Without annotations, images would be taken for images without objects, which must happen neither
    # in training nor where validation chooses the best weights.
    parts = [_open(data_config, name, may_be_unlabelled=split == "test") for name in names]
    if len({part.labelled for part in parts}) > 1:
        without = ", ".join(shortened_text(part.name) for part in parts if not part.labelled)
        raise InputError(f"data.{split} joins parts with annotations and without ({without}); name one kind")
    if not any(len(part) for part in parts):
        listed = shortened_text(", ".join(names))
        raise InputError(f"data.{split} ({listed} in {data_config.root}) holds no image")
    return parts


def check_common_files(data_config: DataConfig, split: str, parts: Sequence[Reader]) -> None:
    """Checks that the files of shares are not those of another split, under another name of the part.

    `check_disjoint` compares the parts of equal names, which takes no time. Parts of the other splits that
    cannot be opened are not compared, since whoever reads one split may lack the files of another.

    Raises:
        InputError: a file lies in a part of this split and in one of another split, and one of the two is a
            share.
    """
    names = part_names(data_config)
    for other_split in sorted(names.keys() - {split}):
        for other_name in names[other_split]:
            suspects = [
                (name, part)
                for name, part in zip(names[split], parts, strict=True)
                if may_hide_an_overlap(name, other_name, data_config.split_seed)
            ]
            other_files = _files(data_config, other_name) if suspects else set()
            for name, part in suspects:
                common = [file for file in file_keys(part.image_files()) if file in other_files]
                if common:
                    number = f"{len(common):,} image{'s' if len(common) > 1 else ''}"
                    what = f"have {number} in common, e.g. {shortened_text(common[0])}"
                    raise overlap_error((split, name), (other_split, other_name), what)


def _files(data_config: DataConfig, name: str) -> set[str]:
    """Returns the keys of the image files of a part, none of one that cannot be opened."""
    try:
        return set(file_keys(_open(data_config, name, may_be_unlabelled=True).image_files()))
    except InputError:
        return set()


def _open(data_config: DataConfig, name: str, may_be_unlabelled: bool) -> Reader:
    part, share = split_share(name, data_config.split_seed)
    return READERS[data_config.format](data_config.root, part, may_be_unlabelled, share)
