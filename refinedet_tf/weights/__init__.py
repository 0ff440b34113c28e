"""Reading and writing of files of weights."""

from refinedet_tf.weights.keras_files import save_weights
from refinedet_tf.weights.loading import load_initial_weights, load_weights

__all__ = ["load_initial_weights", "load_weights", "save_weights"]
