"""The files that describe an exported model: labels.txt and model.json."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from refinedet_tf import __version__
from refinedet_tf.config import Config, ModelConfig
from refinedet_tf.config.values import ASPECT_RATIOS, SCALE
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.json_files import read_json
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import VARIANCES
from refinedet_tf.run_folder import RunFolder


def labels_text(class_names: Sequence[str]) -> str:
    """Returns the text of labels.txt: one class name per line, label 1 first."""
    return "".join(f"{name}\n" for name in class_names)


def describe(
    config: Config,
    image_size: tuple[int, int],
    precision: str,
    measured: dict[str, Any] | None,
    max_pixels: int,
) -> str:
    """Returns the text of model.json, which has the keys

    ```
    name, description     those of the config
    classes               names, label 1 first
    image_size            [height, width] in pixels, to which images are warped
    precision             "float32" or "bfloat16"
    max_pixels            largest number of pixels of an image file that is decoded
    postprocess           thresholds and limits that are part of the graph
    anchors               what is needed to decode the heads: strides, levels (stride, scales in pixels and
                          aspect ratios of each), variances, and the number of anchors; for the paper's
                          anchors also their scale in units of the stride, and their aspect ratios
    measured              accuracy: "mAP" 0..1, "AP" by class, "metric", "source"; null: not measured
    config                the whole training config
    versions              those of this package, TensorFlow and Keras
    ```

    Args:
        config: the config of the network.
        image_size: (height, width) of the network's input in pixels.
        precision: "float32" or "bfloat16".
        measured: the value of the key "measured".
        max_pixels: the value of the key "max_pixels".
    """
    tree = {
        "name": config.name,
        "description": config.description,
        "classes": config.data.classes,
        "image_size": image_size,
        "precision": precision,
        "max_pixels": max_pixels,
        "postprocess": dataclasses.asdict(config.postprocess),
        "anchors": _describe_anchors(config.model, image_size),
        "measured": measured,
        "config": dataclasses.asdict(config),
        "versions": {"refinedet_tf": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _describe_anchors(model_config: ModelConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """Returns the value of the key "anchors" in model.json, which `describe` describes."""
    levels = model_config.anchor_levels
    papers = {"scale": SCALE, "aspect_ratios": ASPECT_RATIOS} if model_config.anchors is None else {}
    return {
        "strides": [level.stride for level in levels],
        **papers,
        "levels": [dataclasses.asdict(level) for level in levels],
        "variances": VARIANCES,
        "count": len(tile_anchors(image_size, levels)),
    }


def validation_of_run(run: RunFolder, config: Config) -> dict[str, Any] | None:
    """Returns the accuracy of a run's best weights on its validation data, in the form of `describe`.

    Metric and data are those of the log, because `config` may have other ones after a resume; they are
    those of `config` where an earlier version wrote the log. It is None if the run has not validated.
    """
    entry = run.best_validation()
    if entry is None:
        return None
    validation = entry["validation"]
    data = validation.get("data", config.data.validation)
    return {
        "metric": validation.get("metric", config.evaluation.metric),
        "mAP": validation["mAP"],
        "AP": validation["AP"],
        "source": f"validation after {entry['step']} steps, {', '.join(data)}",
    }


def read_measured(file: Path, config: Config) -> dict[str, Any]:
    """Reads the accuracy that `evaluate.py --json FILE` wrote, and returns it in the form of `describe`.

    Raises:
        InputError: the file cannot be read, is not such a file, or has other classes than the config.
    """
    tree = read_json(file)
    if not isinstance(tree, dict) or not {"metric", "mAP", "AP"} <= tree.keys():
        raise InputError(f"{file} has no metric, mAP and AP: give what evaluate.py --json wrote")
    if not isinstance(tree["metric"], str) or not isinstance(tree["AP"], dict):
        raise InputError(f"{file}: metric must be text and AP an object of classes")
    for name, value in [("mAP", tree["mAP"]), *tree["AP"].items()]:
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise InputError(
                f"{file}: {shortened(name)} must be a number 0..1 or null, got {shortened(value)}"
            )
    try:
        json.dumps(tree, allow_nan=False)
    except ValueError:
        raise InputError(f"{file} holds NaN or an infinite number, which JSON has not") from None
    if config.data.classes is not None and list(tree["AP"]) != list(config.data.classes):
        measured = shortened_text(", ".join(tree["AP"]))
        expected = shortened_text(", ".join(config.data.classes))
        raise InputError(f"{file} is about the classes {measured}, not {expected}")
    # The speed was measured with another program and perhaps on another machine.
    tree.pop("throughput", None)
    return {**tree, "source": f"evaluate.py, {', '.join(config.data.test) or 'test data'}"}
