"""ImageNet classification weights as the start of training (paper, section 3.1)."""

import keras

from refinedet_tf.backbones.vgg16 import STAGES
from refinedet_tf.errors import InputError

KEPT_TAPS = slice(0, 7, 3)
"""Of the 7x7 taps of VGG-16's fc6, numbers 0, 3 and 6 become the 3x3 dilated convolution."""

KEPT_CHANNELS = slice(0, None, 4)
"""Of the 4096 channels of fc6 and fc7, every fourth stays."""


def load_imagenet_vgg16(model: keras.Model, source: str) -> None:
    """Fills conv1_1 to fc7 of a VGG-16 RefineDet; the layers that RefineDet adds stay as they are.

    fc6 (7x7x512x4096) and fc7 (4096x4096) become convolutions by subsampling, as in the authors'
    initial weights.

    Args:
        model: of `build_model` with the backbone vgg16.
        source: "imagenet", which Keras downloads, or the path of Keras' own file with the fully
            connected layers, `vgg16_weights_tf_dim_ordering_tf_kernels.h5`.

    Raises:
        InputError: the download fails, or the file is missing or another one.
    """
    try:
        classifier = keras.applications.VGG16(weights=source)
    except Exception as error:
        # Keras raises whatever its download or file code meets: any of it means no weights.
        raise InputError(
            f"model.weights {source}: {str(error).splitlines()[0][:200]}; give the path of "
            "vgg16_weights_tf_dim_ordering_tf_kernels.h5, or null for random weights"
        ) from None
    for stage, (convolutions, _) in enumerate(STAGES, 1):
        for index in range(1, convolutions + 1):
            weights = classifier.get_layer(f"block{stage}_conv{index}").get_weights()
            model.get_layer(f"conv{stage}_{index}").set_weights(weights)
    kernel, bias = classifier.get_layer("fc1").get_weights()
    kernel = kernel.reshape(7, 7, 512, 4096)[KEPT_TAPS, KEPT_TAPS, :, KEPT_CHANNELS]
    model.get_layer("fc6").set_weights([kernel, bias[KEPT_CHANNELS]])
    kernel, bias = classifier.get_layer("fc2").get_weights()
    kernel = kernel[KEPT_CHANNELS, KEPT_CHANNELS][None, None]
    model.get_layer("fc7").set_weights([kernel, bias[KEPT_CHANNELS]])
