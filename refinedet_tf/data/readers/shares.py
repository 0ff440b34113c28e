"""Shares of a part, such as "all[:80%]", which divide a data set without lists of files."""

import dataclasses
import hashlib
import itertools
import posixpath
import re

from refinedet_tf.config import DataConfig
from refinedet_tf.errors import InputError, shortened_text

_SHARE = re.compile(r"(?P<name>.*)\[(?P<range>[^\[\]]*[:%][^\[\]]*)\]", re.DOTALL)
"""A part with a share. Brackets without a colon or a percent sign belong to the name of the part."""

_PERCENT = r"\s*(?:([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%)?\s*"
_RANGE = re.compile(f"{_PERCENT}:{_PERCENT}")


@dataclasses.dataclass(frozen=True)
class Share:
    """The images of a part whose position lies in start <= position < end.

    The position of an image is a number in 0..100 that its name and the seed alone determine. So shares
    that do not overlap have no image in common, the order of the files does not matter, and the images
    that are added later leave the others where they are. The sizes of the shares are right on average:
    of 300 images, [:80%] holds 240, give or take 7 (the standard deviation).
    """

    start: float = 0.0
    """In percent, 0..100."""
    end: float = 100.0
    """In percent, above `start`, at most 100."""
    seed: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the share holds all images."""
        return self.start <= 0 and self.end >= 100

    def holds(self, name: str) -> bool:
        """Says whether an image belongs to the share.

        Args:
            name: the path of the image file within the image folder of its part, as `image_name` returns
                it, such as "street/000005". It is the same in every format.
        """
        if self.is_whole:
            return True
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogatepass")).digest()
        return self.start <= int.from_bytes(digest[:8], "big") / 2**64 * 100 < self.end

    def overlaps(self, other: "Share") -> bool:
        """Says whether an image may belong to both shares, which have the same seed."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        """Returns "[:80%]", or nothing for the whole part."""
        if self.is_whole:
            return ""
        start = f"{self.start:g}%" if self.start > 0 else ""
        end = f"{self.end:g}%" if self.end < 100 else ""
        return f"[{start}:{end}]"


WHOLE = Share()
"""All images of a part."""


def split_share(part: str, seed: int) -> tuple[str, Share]:
    """Splits "all[:80%]" into the name "all" and its share; a part without a share is whole.

    The seed is `data.split_seed`.

    Raises:
        InputError: the share is none, or is empty.
    """
    match = _SHARE.fullmatch(part)
    if match is None:
        return part, dataclasses.replace(WHOLE, seed=seed)
    numbers = _RANGE.fullmatch(match["range"])
    shown = f'part "{shortened_text(part)}"'
    if numbers is None:
        raise InputError(f"{shown}: write a share as [:80%], [80%:90%] or [90%:]")
    start, end = float(numbers[1] or 0), float(numbers[2] or 100)
    if not start < end <= 100:
        raise InputError(f"{shown}: a share must start before its end, within 0%..100%")
    return match["name"], Share(start, end, seed)


def part_names(data_config: DataConfig) -> dict[str, tuple[str, ...]]:
    """Returns the names of the parts of each split, "train", "validation" and "test", with their shares."""
    return {"train": data_config.train, "validation": data_config.validation, "test": data_config.test}


def check_disjoint(data_config: DataConfig) -> None:
    """Checks that training, validation and test set have no share of a part in common.

    Parts without shares are not compared: whoever names a list of images twice does so on purpose. The files
    are not read: see `parts.check_common_files` for parts of the same files under different names.

    Raises:
        InputError: a share of one set overlaps one of another set, or the whole part.
    """
    sets = part_names(data_config)
    for (key, parts), (other_key, other_parts) in itertools.combinations(sets.items(), 2):
        for part, other_part in itertools.product(parts, other_parts):
            name, share = split_share(part, data_config.split_seed)
            other_name, other_share = split_share(other_part, data_config.split_seed)
            both_whole = share.is_whole and other_share.is_whole
            is_same_part = _normalised(name) == _normalised(other_name)
            if is_same_part and not both_whole and share.overlaps(other_share):
                raise overlap_error((key, part), (other_key, other_part), "overlap")


def may_hide_an_overlap(part: str, other_part: str, seed: int) -> bool:
    """Says whether two parts of different splits have different names, so that only their files can tell.

    It is False where both are whole.
    """
    (name, share), (other_name, other_share) = split_share(part, seed), split_share(other_part, seed)
    both_whole = share.is_whole and other_share.is_whole
    return not both_whole and _normalised(name) != _normalised(other_name)


def overlap_error(first: tuple[str, str], second: tuple[str, str], problem: str) -> InputError:
    """Returns the error of two parts, given as (split, part), that have images in common."""
    (key, part), (other_key, other_part) = first, second
    return InputError(
        f'data.{key} has "{shortened_text(part)}" and data.{other_key} has "{shortened_text(other_part)}", '
        f"which {problem}; they must have no image in common, e.g. [:80%] and [80%:] (to measure on the "
        f"images of data.{key}, set data.{key} to [] for that command)"
    )


def _normalised(name: str) -> str:
    """Returns the name of a part with its paths in their shortest form."""
    return ":".join(posixpath.normpath(path) for path in name.replace("\\", "/").split(":"))
