"""Configs: frozen dataclasses that define every key with its type, default and range."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from refinedet_tf.anchors import DEFAULT_LEVELS, AnchorLevel, check_levels
from refinedet_tf.errors import InputError, shortened

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
MAX_STEPS = 10**9
"""The largest number of steps."""

Count = Annotated[int, Field(ge=0)]
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]
StepCount = Annotated[int, Field(ge=0, le=MAX_STEPS)]
PositiveStepCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
ImageSide = Annotated[int, Field(ge=64, le=10_000)]
Images = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=10_000)]
Trials = Annotated[int, Field(ge=1, le=10_000)]
Candidates = Annotated[int, Field(ge=1, le=10_000)]
CandidatesOfClass = Annotated[int, Field(ge=1, le=100_000)]
Detections = Annotated[int, Field(ge=1, le=100_000)]
# The upper bounds lie far above useful values. They turn typing errors and foreign files, which would exhaust
# the memory or overflow the integers of a graph, into one line.
Range = tuple[NotNegative, NotNegative]
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
    """The initial weights: "imagenet" (downloaded by Keras); a file of ImageNet weights (Keras' file of the
    backbone, or Caffe's VGG_ILSVRC_16_layers, VGG_ILSVRC_16_layers_fc_reduced or ResNet-101-model); a
    file of a whole RefineDet or a run folder, whose classes may differ (docs/weights.md); or null for
    random weights."""

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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """The matching, hard negative mining and loss (paper, sections 3.2 and 3.3)."""

    positive_iou: Fraction = 0.5
    """The smallest IoU of an anchor with its object, unless it is the object's best anchor."""
    negatives_per_positive: NotNegative = 3.0
    """The largest number of negatives per positive of an image in hard negative mining."""
    objectness_threshold: Fraction = 0.01
    """Anchors to which the ARM gives less are not negatives of the ODM. It is 1 - theta, where theta is 0.99
    in the paper."""
    classification: Literal["mining", "focal"] = "mining"
    """With "focal", all anchors count and the focal loss weights them (Lin et al., ICCV 2017, equation 5)."""
    focal_alpha: Fraction = 0.25
    """The weight of positives in the focal loss; that of negatives is 1 - alpha."""
    focal_gamma: NotNegative = 2.0
    """The exponent of the focal loss."""


IN_EPOCHS = {
    "steps": "epochs",
    "milestones": "milestone_epochs",
    "warmup_steps": "warmup_epochs",
    "validate_every": "validate_every_epochs",
}
"""The keys of `training` in steps, and those that say the same in epochs and take their place."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """The optimisation (paper, section 3.4)."""

    steps: PositiveStepCount = 120_000
    """The number of steps of the whole training."""
    epochs: Epochs | None = None
    """The length of the training in passes over the training images; null: `steps` says it. The number of
    steps is epochs x images / `batch_size`, rounded up, and the run's config.json holds it. This and the
    other keys in epochs take the place of the key in steps: a file may hold one of the two."""
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
    milestones: tuple[PositiveStepCount, ...] = (80_000, 100_000)
    """The steps at which the learning rate is multiplied by `decay_factor`, in increasing order."""
    milestone_epochs: tuple[Epochs, ...] | None = None
    """`milestones` in epochs; null: `milestones` says it."""
    decay_factor: Positive = 0.1
    """The factor on the learning rate at each milestone."""
    warmup_steps: StepCount = 0
    """The number of steps of linear warm-up from 0 to the learning rate."""
    warmup_epochs: Epochs | None = None
    """`warmup_steps` in epochs; null: `warmup_steps` says it."""
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
    log_every: PositiveStepCount = 10
    """The number of steps from one logged step to the next."""
    checkpoint_every: PositiveStepCount = 1_000
    """The number of steps from one checkpoint to the next."""
    validate_every: PositiveStepCount = 5_000
    """The number of steps from one validation to the next."""
    validate_every_epochs: Epochs | None = None
    """`validate_every` in epochs; null: `validate_every` says it."""
    patience: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The training ends when the mAP of so many validations in a row has not exceeded the best one; null: it
    takes all steps."""

    def __post_init__(self) -> None:
        for name in ("milestones", "milestone_epochs"):
            milestones = list(getattr(self, name) or ())
            if milestones != sorted(set(milestones)):
                raise ValueError(f"{name} must increase, got {shortened(milestones)}")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulation_steps "
                f"{self.accumulation_steps}"
            )


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
    """The number, 0..1."""
    source: str
    """The publication or measurement that gives the value."""
    hours: Positive | None = None
    """The hours that the training takes on two cores of an AMD EPYC server (AVX-512) without a GPU; null
    where the source does not say."""


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


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the keys (`section.key`) in which two configs differ, with the old and the new value."""
    pairs: dict[str, tuple[Any, Any]] = {}
    new_values = dataclasses.asdict(new)
    for key, old_value in dataclasses.asdict(old).items():
        new_value = new_values[key]
        if isinstance(old_value, dict) and isinstance(new_value, dict):
            pairs |= {f"{key}.{name}": (old_value[name], new_value[name]) for name in old_value}
        else:
            pairs[key] = (old_value, new_value)
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
