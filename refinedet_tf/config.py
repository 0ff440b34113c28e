"""Configs: frozen dataclasses read strictly from JSON. The only place that knows key names.

A config file may say `"extends": "voc320.json"` and then holds only what differs. Every key can be
overridden on the command line, `--set training.batch_size=16`.
"""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from refinedet_tf.errors import InputError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "configs"

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Range = tuple[NotNegative, NotNegative]

_strict = dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
)


def _check_range(name: str, value: Sequence[float]) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{name} must be [smallest, largest], got {list(value)}")


@_strict
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


@_strict
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


@_strict
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


@_strict
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


@_strict
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


@_strict
class PostprocessConfig:
    """From heads to detections (paper, section 3.4; numbers that differ in the code: README)."""

    objectness_threshold: Fraction = 0.01
    score_threshold: Fraction = 0.01
    pre_nms_per_image: PositiveInt | None = 400
    pre_nms_per_class: PositiveInt | None = None
    nms_iou: Fraction = 0.45
    max_detections: PositiveInt = 200


@_strict
class EvaluationConfig:
    """How accuracy is measured."""

    metric: Literal["voc07", "voc", "coco"] = "voc07"
    """"voc07": 11-point AP, "voc": area under the curve (2010 on), "coco": AP at IoU 0.50:0.95."""
    batch_size: PositiveInt = 8
    soft_nms: bool = False
    """Linear soft-NMS at IoU 0.30 behind the post-processing, as the authors test COCO at one scale."""


@_strict
class ExpectedConfig:
    """What the config is known to reach: the claim it stands for."""

    metric: str
    value: Fraction
    source: str


@_strict
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


_ADAPTER = TypeAdapter(Config)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config.

    Args:
        path: a JSON file, a run folder (its `config.json`), or a bare name looked up in `configs/`.
        overrides: `"section.key=value"` strings; the value is JSON, or a plain string.

    Raises:
        InputError: the file is missing or not JSON, or a key or value is wrong; names the key and,
            for an unknown one, the nearest valid key.
    """
    file = _find(path, base=None)
    tree = _read_with_parents(file, seen=())
    tree.setdefault("name", file.stem if file.name != "config.json" else file.parent.name)
    for override in overrides:
        _apply_override(tree, override)
    try:
        return _ADAPTER.validate_json(json.dumps(tree))
    except ValidationError as error:
        raise InputError("; ".join(f"{file.name}: {_explain(e)}" for e in error.errors())) from None


def config_to_json(config: Config) -> str:
    """The whole config as JSON text that `load_config` reads back to an equal config."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


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


def _find(path: str | Path, base: Path | None) -> Path:
    path = Path(path)
    candidates = [path, CONFIG_FOLDER / path, CONFIG_FOLDER / f"{path}.json"]
    if base is not None:
        candidates.insert(0, base / path)
    for candidate in candidates:
        if candidate.is_dir() and (candidate / "config.json").is_file():
            return candidate / "config.json"
        if candidate.is_file():
            return candidate
    known = sorted(p.name for p in CONFIG_FOLDER.glob("*.json"))
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known configs: {', '.join(known)}"
    raise InputError(f"config not found: {path}; {hint}")


def _read_with_parents(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    file = file.resolve()
    if file in seen:
        raise InputError(f"{file.name} extends itself: {' -> '.join(p.name for p in (*seen, file))}")
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{file} must hold a JSON object")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise InputError(f"{file.name}: extends must be a file name, got {parent!r}")
    return _merge(_read_with_parents(_find(parent, file.parent), (*seen, file)), tree)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _apply_override(tree: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    keys = name.strip().split(".")
    if not separator or not all(keys):
        raise InputError(f"--set {override}: write section.key=value, e.g. training.batch_size=16")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    for key in keys[:-1]:
        child = tree.get(key)
        tree[key] = dict(child) if isinstance(child, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def _explain(error: dict[str, Any]) -> str:
    """One validation error as `section.key: what is wrong`."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "unexpected_keyword_argument":
        valid = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.4)
        hint = (
            f"did you mean {'.'.join([*location[:-1], near[0]])}?"
            if near
            else f"valid keys: {', '.join(valid)}"
        )
        return f"unknown key {'.'.join(location)}; {hint}"
    given = error.get("input")
    shown = (
        ""
        if isinstance(given, dict) or error["type"] == "missing"
        else f", got {json.dumps(given, default=str)}"
    )
    message = error["msg"].removeprefix("Value error, ")
    near = difflib.get_close_matches(str(given), _choices(error), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{'.'.join(location) or 'config'}: {message}{shown}{hint}"


def _choices(error: dict[str, Any]) -> list[str]:
    if error["type"] != "literal_error":
        return []
    return [part.strip(" '") for part in error["ctx"]["expected"].replace(" or ", ",").split(",")]


def _keys_at(location: Sequence[str]) -> list[str]:
    """The valid keys of the section that a location leads to."""
    section = Config
    for part in location:
        hint = get_type_hints(section).get(part)
        section = next((t for t in (hint, *get_args(hint)) if dataclasses.is_dataclass(t)), section)
    return [field.name for field in dataclasses.fields(section)]
