"""Files of weights <-> the variables of our models."""

from refinedet_tf.weights.imagenet import load_imagenet_vgg16
from refinedet_tf.weights.keras_files import load_weights, save_weights

__all__ = ["load_imagenet_vgg16", "load_weights", "save_weights"]
