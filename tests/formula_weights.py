"""The weights and the image that the reference numbers of `golden/forward_vgg16_320.npz` were made with.

Both come from formulas, so that no file of 140 MB is needed: each array is drawn from a generator
that is seeded with the CRC-32 of its name in the authors' Caffe net.
"""

import re
import zlib

import numpy as np

HEAD_GAIN = {"arm_loc": 0.9, "arm_conf": 2.5, "odm_loc": 1.8, "odm_conf": 4.4}
ARM_SOURCES = {3: "conv4_3_norm", 4: "conv5_3_norm", 5: "fc7", 6: "conv6_2"}


def reference_image(size=320):
    """RGB uint8 [size, size, 3]: the sum of blocky noise of six sizes."""
    generator = np.random.default_rng(zlib.crc32(f"image/{size}/0".encode()))
    noise = np.zeros((size, size, 3))
    for block, amplitude in ((64, 0.30), (32, 0.25), (16, 0.25), (8, 0.20), (2, 0.10), (1, 0.05)):
        cells = -(-size // block)
        drawn = generator.uniform(-1.0, 1.0, (cells, cells, 3))
        noise = noise + amplitude * np.kron(drawn, np.ones((block, block, 1)))[:size, :size]
    blue_green_red = np.floor(np.clip(128 + 255 * noise, 0, 255) + 0.5).astype(np.uint8)
    return blue_green_red[..., ::-1]


def set_reference_weights(model, num_classes):
    """Fills every variable of a VGG-16 `model` by the formulas."""
    for variable in model.weights:
        layer, kind = variable.path.split("/")[-2:]
        variable.assign(_array(_caffe_name(layer), layer, kind, tuple(variable.shape), num_classes))


def _caffe_name(layer):
    head = re.fullmatch(r"(arm|odm)_(loc|conf)([3-6])", layer)
    if head is None:
        return layer
    module, values, level = head.groups()
    source = ARM_SOURCES[int(level)] if module == "arm" else f"P{level}"
    return f"{source}_mbox_{values}"


def _array(name, layer, kind, shape, num_classes):
    """One array in the layout of Keras; `name` is its Caffe layer."""
    generator = np.random.default_rng(zlib.crc32(f"{name}/{int(kind == 'bias')}".encode()))
    if kind == "bias":
        values = 0.1 * generator.standard_normal(shape)
        if name.endswith("_mbox_conf"):
            # The background is pushed up, as it is in a trained net.
            classes, push = (2, 5.0) if layer.startswith("arm") else (num_classes, 7.0)
            values[::classes] += push
        return values
    if kind == "scale":
        return (10.0 if name == "conv4_3_norm" else 8.0) * (1 + 0.1 * generator.standard_normal(shape))
    height, width, inputs, outputs = shape
    if name.endswith("-up"):
        # Keras keeps a deconvolution as (height, width, out, in), Caffe as (in, out, height, width).
        outputs, inputs = inputs, outputs
        values = generator.standard_normal((inputs, outputs, height, width)) / np.sqrt(inputs)
        return values.transpose(2, 3, 1, 0)
    deviation = _gain(name, layer) / np.sqrt(inputs * height * width)
    if inputs % 2:
        values = deviation * generator.standard_normal((outputs, inputs, height, width))
        return values.transpose(2, 3, 1, 0)
    # The two halves of the input channels cancel, but for a share that is drawn freely.
    free_share = 0.0 if "_mbox_" in name else 0.4
    half = generator.standard_normal((outputs, inputs // 2, height, width))
    values = np.concatenate([half, -half], axis=1) * (deviation * np.sqrt(1 - free_share))
    if free_share:
        free = generator.standard_normal((outputs, inputs, height, width))
        values += free * (deviation * np.sqrt(free_share))
    return values.transpose(2, 3, 1, 0)


def _gain(name, layer):
    if name == "conv1_1":
        return 1.4142 / 64
    if "_mbox_" in name:
        # L2-normalised features are small.
        return HEAD_GAIN[layer[:-1]] * (3.5 if "_norm_" in name else 1.0)
    return 1.5
