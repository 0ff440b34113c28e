"""Keras' own files: `.weights.h5` and `.keras`."""

import warnings
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import keras

from refinedet_tf.anchors import ANCHORS_PER_CELL
from refinedet_tf.errors import InputError
from refinedet_tf.files import write_aside


def load_keras_weights(model: keras.Model, path: Path) -> list[str]:
    """Fills every variable of `model` from a file.

    Args:
        model: of `build_model`.
        path: a `.weights.h5` file, or a whole model saved as `.keras`.

    Returns:
        The names of the layers that were filled, all those of the model that have weights.

    Raises:
        InputError: the file is damaged, or of another model; then it lists the shapes that are
            missing or left over, and the class counts where they differ.
    """
    try:
        if path.name.endswith(".keras"):
            saved = keras.saving.load_model(path, compile=False)
            _compare(path, Counter(tuple(v.shape) for v in saved.weights), model)
            model.set_weights(saved.get_weights())
        else:
            _compare(path, _shapes_in(path), model)
            with warnings.catch_warnings():
                # Keras warns of bookkeeping containers that never held weights.
                warnings.filterwarnings("ignore", message="Skipping nested container")
                model.load_weights(path)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"{path} cannot be read as weights (damaged?): {reason}") from None
    return [layer.name for layer in model.layers if layer.weights]


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes a `.weights.h5` file; the old one stays until the new one is whole."""
    write_aside(Path(path), model.save_weights)


def _shapes_in(path: Path) -> Counter:
    shapes = Counter()

    def count(name, item):
        if isinstance(item, h5py.Dataset) and "/vars/" in f"/{name}" and not name.startswith("optimizer"):
            shapes[tuple(item.shape)] += 1

    with h5py.File(path) as file:
        file.visititems(count)
    return shapes


def _compare(path: Path, found: Counter, model: keras.Model) -> None:
    wanted = Counter(tuple(variable.shape) for variable in model.weights)
    missing, left_over = wanted - found, found - wanted
    if not missing and not left_over:
        return
    own_classes, file_classes = _classes(missing, model), _classes(left_over, model)
    if None not in (own_classes, file_classes) and sum(missing.values()) == sum(left_over.values()):
        raise InputError(
            f"{path} holds weights for {file_classes} classes, the model has {own_classes}: "
            "use the config that they were trained with, or pick classes with "
            "python -m refinedet_tf.weights.class_subset"
        )
    # Keras' files name layers by class and number, so that only shapes can be compared; a layer is sure
    # to be missing if no array of its shape is there.
    names = [v.path for v in model.weights if tuple(v.shape) in missing and tuple(v.shape) not in found]
    raise InputError(
        f"{path} holds weights of another model: {sum(missing.values())} arrays are missing "
        f"({_some(names or sorted(missing))}), {sum(left_over.values())} are left over "
        f"(shapes {_some(sorted(left_over))})"
    )


def _classes(shapes: Counter, model: keras.Model) -> int | None:
    """The number of classes by the shape of the ODM's classification convolutions."""
    inputs = next(v.shape[2] for v in model.weights if v.path.endswith("odm_conf3/kernel"))
    for shape in shapes:
        if shape[:3] == (3, 3, inputs) and shape[-1] % ANCHORS_PER_CELL == 0:
            return shape[-1] // ANCHORS_PER_CELL - 1
    return None


def _some(items) -> str:
    return ", ".join(str(item) for item in items[:4]) + (", ..." if len(items) > 4 else "")
