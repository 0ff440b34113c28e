"""Reading and writing of files of weights."""

from refinedet_tf.weights.keras_files import save_weights
from refinedet_tf.weights.loading import load_initial_weights, load_weights, transfer_weights
from refinedet_tf.weights.transfer import InitialWeights

__all__ = ["InitialWeights", "load_initial_weights", "load_weights", "save_weights", "transfer_weights"]
