"""The sections of the config on a training: `data`, `augmentation` and `training`."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from refinedet_tf.config.values import (
    STRICT,
    Fraction,
    Images,
    NotNegative,
    NotNegativeDuration,
    Positive,
    PositiveDuration,
    Range,
    StepCount,
    Trials,
    epochs_of,
    steps_of,
)
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


LayerPatterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def _explain_freeze(value: Any, handler: pydantic.ValidatorFunctionWrapHandler) -> Any:
    """Gives one message for a value that is of none of the types, where pydantic gives one per type."""
    try:
        # The strict mode takes no list for a tuple here, unlike elsewhere in JSON.
        return handler(tuple(value) if isinstance(value, list) else value)
    except pydantic.ValidationError:
        raise ValueError(
            'must be "none", "backbone", "all_but_heads" or a list of names of layers, such as ["conv1_*"]'
        ) from None


Freeze = Annotated[
    Literal["none", "backbone", "all_but_heads"] | LayerPatterns, pydantic.WrapValidator(_explain_freeze)
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """The optimisation (paper, section 3.4)."""

    length: PositiveDuration = 120_000
    """The length of the whole training, in steps, or in passes over the training images such as "65 epochs".
    N epochs are N x images / `batch_size` steps, rounded up, and the run's config.json holds the steps. The
    other durations are given in the same two ways."""
    batch_size: Images = 32
    """Images per step, which is one update, over all replicas and micro-batches."""
    accumulation_steps: Annotated[int, Field(ge=1, le=1_000)] = 1
    """The number of micro-batches into which each replica divides its share of a batch, to save memory; the
    authors' `iter_size`. `batch_size` must be a multiple of it, times the number of replicas."""
    learning_rate: Positive = 1e-3
    """The learning rate after the warm-up."""
    schedule: Literal["steps", "cosine"] = "steps"
    """With "steps", the learning rate drops at `milestones`. With "cosine", it falls from the end of the
    warm-up to 0 at the last step along half a period of the cosine, and there are no milestones."""
    milestones: tuple[PositiveDuration, ...] = (80_000, 100_000)
    """When the learning rate is multiplied by `decay_factor`, in increasing order."""
    decay_factor: Positive = 0.1
    """The factor on the learning rate at each milestone."""
    warmup: NotNegativeDuration = 0
    """The length of the linear warm-up from 0 to the learning rate; 0: there is none."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The momentum of the solver."""
    weight_decay: NotNegative = 5e-4
    """The factor of the L2 regularisation, which is part of the gradient."""
    gradient_clip_norm: Positive | None = None
    """The largest norm of the gradient of all variables together; null: no limit."""
    freeze: Freeze = "none"
    """The layers that keep their initial weights and BatchNorm statistics, which saves their gradients: the
    backbone without the levels that RefineDet adds, all but the heads, or those of the names in a list,
    such as ["conv[1-3]_*", "tcb3"]. It cannot change when a run is resumed."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The decay per step of an exponential moving average of the weights, which validation, the written
    weights and everything after the training use; null: they use the weights themselves. After k steps the
    decay is min(ema_decay, (1 + k) / (10 + k))."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """The precision of the network's computations; weights and loss are always float32. "tf32" lets NVIDIA's
    GPUs from Ampere on use TensorFloat-32, and is the same as "float32" on other devices."""
    jit_compile: bool = False
    """Whether XLA compiles the training step, which works on a single device."""
    strategy: Literal["mirrored", "multi_worker"] = "mirrored"
    """The devices that share a batch: those of this machine, or those of the machines in TF_CONFIG."""
    wait_for_workers: Positive = 600.0
    """The number of seconds that a machine of TF_CONFIG waits at its start until all the others are up."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """The seed of the initial weights, of the order of the data and of its augmentation."""
    deterministic: bool = False
    """Whether TensorFlow uses deterministic kernels. A GPU needs them so that two runs are equal bit for bit;
    on a CPU two runs are equal without them. The order of the data is always deterministic."""
    log_every: StepCount = 10
    """The number of steps from one logged step to the next."""
    checkpoint_every: PositiveDuration = 1_000
    """The steps or epochs from one checkpoint to the next."""
    validate_every: PositiveDuration = 5_000
    """The steps or epochs from one validation to the next."""
    patience: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The training ends when the mAP of so many validations in a row has not exceeded the best one; null: it
    takes all steps."""

    def __post_init__(self) -> None:
        for unit in (int, str):
            milestones = [milestone for milestone in self.milestones if isinstance(milestone, unit)]
            values = [epochs_of(milestone) or milestone for milestone in milestones]
            if values != sorted(set(values)):
                raise ValueError(f"milestones must increase, got {shortened(milestones)}")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulation_steps "
                f"{self.accumulation_steps}"
            )

    @property
    def steps(self) -> int:
        """`length`, which must be in steps."""
        return steps_of(self.length)

    @property
    def warmup_steps(self) -> int:
        """`warmup`, which must be in steps."""
        return steps_of(self.warmup)
