"""What an exported model says of itself: labels.txt and model.json."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from refinedet_tf import __version__
from refinedet_tf.anchors import ASPECT_RATIOS, SCALE, STRIDES, tile_anchors
from refinedet_tf.boxes import VARIANCES
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.json_files import read_json
from refinedet_tf.run_folder import RunFolder


def labels_text(class_names: Sequence[str]) -> str:
    """labels.txt: a class name a line, label 1 first.

    Raises:
        InputError: a name is not one line.
    """
    broken = [name for name in class_names if len(name.splitlines()) != 1]
    if broken:
        raise InputError(
            f"data.classes: {shortened(broken[0])} must be one line, as labels.txt has a name a line"
        )
    return "".join(f"{name}\n" for name in class_names)


def describe(config: Config, image_size: tuple[int, int], precision: str, measured: dict | None) -> str:
    """model.json, JSON text of

    ```
    name, description     of the config
    classes               names, label 1 first
    image_size            [height, width] in pixels, to which images are warped
    precision             "float32" or "bfloat16"
    postprocess           thresholds and limits that are part of the graph
    anchors               strides, scale, aspect ratios and variances: what decodes the raw heads, with
                          the number of anchors
    measured              accuracy: "mAP" 0..1, "AP" by class, "metric", "source"; null: not measured
    config                the whole training config
    versions              of this package, TensorFlow and Keras
    ```
    """
    tree = {
        "name": config.name,
        "description": config.description,
        "classes": config.data.classes,
        "image_size": image_size,
        "precision": precision,
        "postprocess": dataclasses.asdict(config.postprocess),
        "anchors": {
            "strides": STRIDES,
            "scale": SCALE,
            "aspect_ratios": ASPECT_RATIOS,
            "variances": VARIANCES,
            "count": len(tile_anchors(image_size)),
        },
        "measured": measured,
        "config": dataclasses.asdict(config),
        "versions": {"refinedet_tf": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def validation_of_run(run: RunFolder, config: Config) -> dict | None:
    """The accuracy of a run's best weights on `data.validation`, for `describe`; None: not validated."""
    entry = run.best_validation()
    if entry is None:
        return None
    return {
        "metric": config.evaluation.metric,
        "mAP": entry["validation"]["mAP"],
        "AP": entry["validation"]["AP"],
        "source": f"validation after {entry['step']} steps, {', '.join(config.data.validation)}",
    }


def read_measured(file: Path, config: Config) -> dict:
    """The accuracy that `evaluate.py --json FILE` wrote, for `describe`.

    Raises:
        InputError: the file cannot be read, is none of those, or is about other classes.
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
    # The speed is that of another program and machine.
    tree.pop("throughput", None)
    return {**tree, "source": f"evaluate.py, {', '.join(config.data.test) or 'test data'}"}
