"""The authors' networks with weights from formulas, and the distance of their heads from the golden arrays.

The authors' program was run with the same weights on the same image (`tests/golden`), so that the numbers
of any machine can be compared with its numbers, and with those of any other machine.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.tensors import Heads
from refinedet_tf.weights.blobs import assign_blobs

# The formulas belong to the tests, which are no package.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))

import formula_weights
from golden_arrays import GOLDEN_FOLDER

GOLDEN_SIZE = 320
"""The height and width in pixels of the image of the golden arrays."""

LIMIT = 1e-4
"""The largest error of a head in float32, in units of the head's largest value, as in `make fidelity`."""


def fill_by_formula(model: keras.Model, config: Config) -> None:
    """Gives a model of VGG-16 or ResNet-101 the weights that the authors' program was run with.

    Args:
        model: the result of `build_model(config)`.
        config: the backbone and the number of classes are used. Only with 20 classes for VGG-16 and
            80 for ResNet-101 are the heads those of the golden arrays.
    """
    blobs = formula_weights.reference_blobs(config.model.backbone, config.num_classes)
    assign_blobs(model, blobs, "the formulas' weights")


def reference_images(size: int, count: int = 1) -> np.ndarray:
    """Returns `count` times the same image of noise, RGB uint8 [count, size, size, 3]."""
    return np.repeat(formula_weights.reference_image(size)[None], count, axis=0)


def head_errors(heads: Heads, backbone: str) -> dict[str, float]:
    """Compares the heads of the reference image of 320 x 320 pixels with those of the authors' program.

    Args:
        heads: logits and offsets by name, [B, A, values]; the first image of the batch is compared.
        backbone: "vgg16" or "resnet101".

    Returns:
        For each head the largest error in units of the head's largest value; NaN if a value is NaN.
    """
    with np.load(GOLDEN_FOLDER / f"forward_{backbone}_{GOLDEN_SIZE}.npz") as golden:
        every = int(golden["every"])
        return {
            name: float(
                np.abs(np.asarray(values, np.float64)[0, ::every] - golden[name]).max()
                / golden[f"{name}_largest"]
            )
            for name, values in heads.items()
        }


def within_limit(errors: Mapping[str, float]) -> bool:
    """Says whether no head of `head_errors` is farther away than float32 allows."""
    return all(error <= LIMIT for error in errors.values())
