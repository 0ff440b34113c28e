"""Configs: frozen dataclasses with types, defaults and ranges. The only place that knows key names."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from refinedet_tf.errors import InputError

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Range = tuple[NotNegative, NotNegative]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _check_range(name: str, value: Sequence[float]) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{name} must be [smallest, largest], got {list(value)}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The network (paper, section 3.1)."""

    backbone: Literal[
        "vgg16",
        "resnet101",
        "resnet50",
        "resnext101",
        "inception_v3",
        "inception_resnet_v2",
        "mobilenet_v2",
        "efficientnet_v2_s",
        "convnext_tiny",
    ] = "vgg16"
    design: Literal["refinedet", "tiled_anchors", "single_stage"] = "refinedet"
    """What is left of RefineDet (paper, Table 3): "tiled_anchors": no cascade, the ODM classifies and
    moves the tiled anchors; "single_stage": no transfer connection blocks and no ODM either, the ARM
    detects all classes directly, as SSD does. Without negative filtering: `objectness_threshold` 0."""
    image_size: tuple[Annotated[int, Field(ge=64)], Annotated[int, Field(ge=64)]] | None = (320, 320)
    """[height, width] in pixels; null: any size at call time."""
    width_multiplier: Positive = 1.0
    """Scales the channels of MobileNetV2 (its `alpha`); the other backbones ignore it."""
    channel_order: Literal["bgr", "rgb"] = "bgr"
    """What VGG-16 and the ResNets see: "bgr" as trained by Caffe, "rgb" by RefineDet.PyTorch."""
    tcb_channels: PositiveInt = 256
    tcb_batch_norm: bool | None = None
    """BatchNorm in the transfer connection blocks, which training from random weights needs; null: as
    the authors have it, with ResNet-101 only."""
    head_blocks: bool | None = None
    """A bottleneck block before the heads of every level and module; null: with ResNet-101 only."""
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the moving statistics of every BatchNorm; short trainings need less than the default."""
    batch_norm_statistics: Literal["moving", "frozen_backbone", "frozen"] = "moving"
    """"moving": training normalises with the statistics of the batch and averages them, as Caffe does
    where `use_global_stats` is not set; "frozen": with those of the initial weights, which never
    change; "frozen_backbone": frozen there, moving in the layers that RefineDet adds."""
    weights: str | None = None
    """Initial weights: "imagenet" (downloaded by Keras), a file of ImageNet weights (Keras' own of the
    backbone, Caffe's VGG_ILSVRC_16_layers, VGG_ILSVRC_16_layers_fc_reduced or ResNet-101-model), a
    file for `load_weights` (a whole RefineDet), or null: random."""

    @property
    def has_tcb_batch_norm(self) -> bool:
        """`tcb_batch_norm`, resolved."""
        return self._is_authors_resnet if self.tcb_batch_norm is None else self.tcb_batch_norm

    @property
    def has_head_blocks(self) -> bool:
        """`head_blocks`, resolved."""
        return self._is_authors_resnet if self.head_blocks is None else self.head_blocks

    @property
    def _is_authors_resnet(self) -> bool:
        return self.backbone == "resnet101"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Where images and boxes lie."""

    format: Literal["voc", "coco"] = "voc"
    root: str = "data/VOCdevkit"
    """VOC: the folder that holds VOC2007, VOC2012...; COCO: the folder that holds annotations/."""
    train: tuple[str, ...] = ()
    """VOC: "2007/trainval" and the like; COCO: "train2017", or "file.json:image_folder". Joined."""
    validation: tuple[str, ...] = ()
    """Measured at intervals while training, to choose the best weights; empty: the last weights count."""
    test: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    """Class names in label order (label 1 first); null: those of the training data, sorted."""
    use_difficult: bool = True
    """Train on objects marked difficult (VOC: yes, COCO crowd regions: never)."""

    def __post_init__(self):
        if self.classes is not None:
            if not self.classes:
                raise ValueError("classes must name at least one class, or be null")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("classes names a class twice")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentationConfig:
    """Training augmentation (paper, section 3.2: data augmentation), in the order of the keys."""

    distortion_probability: Fraction = 0.5
    """Of each of brightness, contrast, saturation and hue."""
    brightness: NotNegative = 32.0
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: NotNegative = 18.0
    """Largest shift in OpenCV's 8-bit hue units (2 degrees each; 18 is a tenth of the circle)."""
    expand_probability: Fraction = 0.5
    expand_ratio: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 4.0)
    crop_min_ious: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """One sampler each, besides the whole image and the unconstrained one; empty: no crops at all."""
    crop_scale: Range = (0.3, 1.0)
    crop_aspect_ratio: Range = (0.5, 2.0)
    crop_trials: PositiveInt = 50
    random_interpolation: bool = True
    """One of five kernels at random; otherwise bilinear."""
    horizontal_flip_probability: Fraction = 0.5
    vertical_flip_probability: Fraction = 0.0

    def __post_init__(self):
        for name in ("contrast", "saturation", "expand_ratio", "crop_scale", "crop_aspect_ratio"):
            _check_range(name, getattr(self, name))
        if self.crop_scale[0] <= 0 or self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must lie in (0, 1], got {list(self.crop_scale)}")
        if self.crop_aspect_ratio[0] <= 0:
            raise ValueError(f"crop_aspect_ratio must be above 0, got {list(self.crop_aspect_ratio)}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """Matching, hard negative mining and loss (paper, sections 3.2 and 3.3)."""

    positive_iou: Fraction = 0.5
    negatives_per_positive: NotNegative = 3.0
    objectness_threshold: Fraction = 0.01
    """Anchors that the ARM gives less are no ODM negatives: 1 - theta, theta = 0.99 in the paper."""
    classification: Literal["mining", "focal"] = "mining"
    """"focal": every anchor counts, weighted by the focal loss (Lin et al., ICCV 2017, equation 5)."""
    focal_alpha: Fraction = 0.25
    """Weight of positives; negatives have 1 - alpha."""
    focal_gamma: NotNegative = 2.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """Optimisation (paper, section 3.4)."""

    steps: PositiveInt = 120_000
    batch_size: PositiveInt = 32
    """Images a step over all replicas."""
    learning_rate: Positive = 1e-3
    milestones: tuple[PositiveInt, ...] = (80_000, 100_000)
    """Steps at which the rate is multiplied by `decay_factor`."""
    decay_factor: Positive = 0.1
    warmup_steps: Count = 0
    """Steps of linear warm-up from 0 to the rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    gradient_clip_norm: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    jit_compile: bool = False
    strategy: Literal["mirrored", "multi_worker"] = "mirrored"
    seed: Count = 0
    deterministic: bool = False
    """Ask TensorFlow for deterministic kernels too; the data order is deterministic always."""
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 1_000
    validate_every: PositiveInt = 5_000

    def __post_init__(self):
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase, got {list(self.milestones)}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PostprocessConfig:
    """From heads to detections (paper, section 3.4; numbers that differ in the code: README)."""

    objectness_threshold: Fraction = 0.01
    score_threshold: Fraction = 0.01
    pre_nms_per_image: PositiveInt | None = 400
    pre_nms_per_class: PositiveInt | None = None
    nms_iou: Fraction = 0.45
    max_detections: PositiveInt = 200


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig:
    """How accuracy is measured."""

    metric: Literal["voc07", "voc", "coco"] = "voc07"
    """"voc07": 11-point AP, "voc": area under the curve (2010 on), "coco": AP at IoU 0.50:0.95."""
    batch_size: PositiveInt = 8
    soft_nms: bool = False
    """Linear soft-NMS at IoU 0.30 behind the post-processing, as the authors test COCO at one scale."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExpectedConfig:
    """What the config is known to reach: the claim it stands for."""

    metric: str
    value: Fraction
    source: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """A whole experiment."""

    name: str = "refinedet"
    description: str = ""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    postprocess: PostprocessConfig = dataclasses.field(default_factory=PostprocessConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    expected: ExpectedConfig | None = None

    @property
    def num_classes(self) -> int:
        """Number of object classes C, without background.

        Raises:
            InputError: `data.classes` is null; read them from the data first (`with_classes`).
        """
        if self.data.classes is None:
            raise InputError(
                "data.classes is null: name the classes in the config, or train first "
                "(a run folder's config.json holds those found in the data)"
            )
        return len(self.data.classes)


def with_classes(config: Config, classes: Sequence[str]) -> Config:
    """The same config with the class names (label order) filled in."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=tuple(classes)))


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The keys (`section.key`) in which two configs differ, with both values."""
    pairs = {}
    for key, value in dataclasses.asdict(old).items():
        other = dataclasses.asdict(new)[key]
        if isinstance(value, dict) and isinstance(other, dict):
            pairs |= {f"{key}.{name}": (value[name], other[name]) for name in value}
        else:
            pairs[key] = (value, other)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
