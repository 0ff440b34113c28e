"""RefineDet (Zhang et al., CVPR 2018) in TensorFlow and Keras.

The names in `__all__` are the public interface. Each is imported when it is first used, so that the
network can run on another Keras backend where TensorFlow is not installed.
"""

import importlib
import os
from typing import Any

if os.name != "posix":
    # Windows has no `fcntl` and no SIGHUP.
    raise ImportError("refinedet_tf runs on Linux and macOS; on Windows, install it in WSL")

__version__ = "0.1.0"

_MODULES = {
    "load_config": "refinedet_tf.config.files",
    "build_model": "refinedet_tf.refinedet.network",
    "load_weights": "refinedet_tf.weights",
    "tile_anchors": "refinedet_tf.refinedet.anchors",
    "refinedet_loss": "refinedet_tf.refinedet.losses",
    "postprocess": "refinedet_tf.refinedet.postprocessing",
    "Detector": "refinedet_tf.inference.detector",
    "train": "refinedet_tf.verbs",
    "evaluate": "refinedet_tf.verbs",
    "export": "refinedet_tf.verbs",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
