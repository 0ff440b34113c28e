"""The keys of the config's sections on the data: `data` and `augmentation`."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from refinedet_tf.config.values import STRICT, Fraction, NotNegative, Range, Trials
from refinedet_tf.errors import shortened

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_class_name(name: str) -> None:
    """Refuses a class name that cannot be drawn, or written as one line of a file.

    Raises:
        ValueError: it is empty, or holds a line break or another control character.
    """
    if not name.strip() or _CONTROL_CHARACTER.search(name):
        raise ValueError(
            f"the class name {shortened(name)} must be one line of text, without control characters"
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """The data sets and the names of the classes."""

    format: Literal["voc", "coco", "yolo", "csv"] = "voc"
    """The layout of the data, of which docs/data.md has an example each: XML files of PASCAL VOC, JSON files
    of COCO, data.yaml and text files of YOLO, or a table."""
    root: str = "data/VOCdevkit"
    """For VOC, the folder that holds VOC2007, VOC2012 and so on, or flat folders; for COCO, the folder of
    annotations/; for YOLO, the folder of data.yaml; for CSV, the folder of the tables."""
    train: tuple[str, ...] = ()
    """The parts of the training set: for VOC "2007/trainval" and the like, or "annotations:images"; for COCO
    "train2017" or "file.json:image_folder"; for YOLO "train"; for CSV "train.csv" or
    "train.csv:image_folder". A part may end with a share of its images, "[:80%]", "[80%:90%]" or "[90%:]"."""
    validation: tuple[str, ...] = ()
    """The parts of the set on which training chooses the best weights; without any, the final ones count."""
    test: tuple[str, ...] = ()
    """The parts of the set that evaluation uses."""
    split_seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """The seed that assigns images to shares, together with the name of each image."""
    classes: tuple[str, ...] | None = None
    """The class names in label order (label 1 first); null: those that the files list, or those of the
    objects in the training data, sorted."""
    accept_empty_classes: bool = False
    """Whether to train although a class of `classes` has no object in the training set."""
    max_bad_boxes: Fraction = 0.1
    """The largest share of the boxes of a set that may be clipped or dropped. With more, training and
    evaluation stop, because the numbers of the files probably mean something else."""
    use_difficult: bool = True
    """Whether to train on objects that VOC marks as difficult. COCO's crowd regions are never used."""

    def __post_init__(self) -> None:
        if self.classes is not None:
            if not self.classes:
                raise ValueError("classes must name at least one class, or be null")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("classes names a class twice")
            for name in self.classes:
                check_class_name(name)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentationConfig:
    """The augmentation of training images (paper, section 3.2), applied in the order of the keys."""

    distortion_probability: Fraction = 0.5
    """The probability of each of the changes of brightness, contrast, saturation and hue."""
    brightness: NotNegative = 32.0
    """The largest shift of brightness, in units of 0..255."""
    contrast: Range = (0.5, 1.5)
    """The range of the factor on the contrast."""
    saturation: Range = (0.5, 1.5)
    """The range of the factor on the saturation."""
    hue: NotNegative = 18.0
    """The largest shift in OpenCV's 8-bit hue units (2 degrees each; 18 is a tenth of the circle)."""
    expand_probability: Fraction = 0.5
    """The probability that an image is placed on a larger canvas."""
    expand_ratio: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 4.0)
    """The range of the sides of the expanded canvas in units of the image's sides."""
    crop_min_ious: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """The smallest IoU with an object of each kind of crop. Whole images and unconstrained crops are chosen
    as well, unless this is empty: then images are never cropped."""
    crop_scale: Range = (0.3, 1.0)
    """The range of the square root of the crop's share of the image's area, within (0, 1]."""
    crop_aspect_ratio: Range = (0.5, 2.0)
    """The range of width / height of the crop, above 0."""
    crop_trials: Trials = 50
    """The number of random windows that each kind of crop tries."""
    random_interpolation: bool = True
    """Whether to resize with one of five kernels at random; otherwise the kernel is bilinear."""
    horizontal_flip_probability: Fraction = 0.5
    """The probability that an image is mirrored, left to right."""
    vertical_flip_probability: Fraction = 0.0
    """The probability that an image is mirrored, top to bottom."""

    def __post_init__(self) -> None:
        for name in ("contrast", "saturation", "expand_ratio", "crop_scale", "crop_aspect_ratio"):
            _check_range(name, getattr(self, name))
        if self.crop_scale[0] <= 0 or self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must lie in (0, 1], got {list(self.crop_scale)}")
        if self.crop_aspect_ratio[0] <= 0:
            raise ValueError(f"crop_aspect_ratio must be above 0, got {list(self.crop_aspect_ratio)}")


def _check_range(name: str, value: Sequence[float]) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{name} must be [smallest, largest], got {list(value)}")
