"""The weights and the image that the authors' program was run with to get the numbers in `golden/`.

Both come from formulas, so that no file of 140 MB is needed: each blob is drawn from a generator that
is seeded with the CRC-32 of its layer's name and its number. `golden/blobs.json` lists the blobs of
both networks in the order of Caffe's files: layer, type, number, shape, CRC-32 of the float32 bytes.
"""

import json
import re
import zlib

import numpy as np
from golden_arrays import GOLDEN_FOLDER

BLOBS = json.loads((GOLDEN_FOLDER / "blobs.json").read_text(encoding="utf-8"))

TRAINED_CLASSES = {"vgg16": 20, "resnet101": 80}
"""The number of object classes of the networks in `golden/`."""

HEAD_GAIN = {"arm_loc": 0.9, "arm_conf": 2.5, "odm_loc": 1.8, "odm_conf": 4.4}


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


def reference_blobs(network, num_classes=None):
    """{(layer, number): float32 array} of "vgg16" or "resnet101", in the layouts of Caffe."""
    num_classes = num_classes or TRAINED_CLASSES[network]
    blobs = {}
    for layer, kind, number, shape, _ in BLOBS[network]:
        if re.match(r"(res)?P\d_\w*mbox_conf", layer):
            shape = [3 * (num_classes + 1), *shape[1:]]
        generator = np.random.default_rng(zlib.crc32(f"{layer}/{number}".encode()))
        blobs[layer, number] = _array(layer, kind, number, shape, num_classes, generator).astype(np.float32)
    return blobs


def reference_layers(network, num_classes=None):
    """The same as (layer, type, [arrays]) in the order of Caffe's files."""
    blobs, layers = reference_blobs(network, num_classes), {}
    for layer, kind, number, *_ in BLOBS[network]:
        layers.setdefault(layer, (layer, kind, []))[2].append(blobs[layer, number])
    return list(layers.values())


def _array(layer, kind, number, shape, num_classes, generator):
    if kind == "Convolution" and number == 0:
        return _kernel(layer, shape, generator)
    if kind == "BatchNorm" and number == 2:
        return np.full(shape, 2.0)
    drawn = generator.standard_normal(shape)
    if kind == "Convolution":
        if not layer.endswith("_mbox_conf"):
            return 0.1 * drawn
        # The background is pushed up, as it is in a trained net.
        classes, push = (2, 5.0) if _is_arm(layer) else (num_classes + 1, 7.0)
        return 0.1 * drawn + push * (np.arange(shape[0]) % classes == 0)
    if kind == "Deconvolution":
        return drawn / np.sqrt(shape[0]) if number == 0 else 0.1 * drawn
    if kind == "Normalize":
        return {"conv4_3_norm": 10.0, "conv5_3_norm": 8.0}[layer] * (1 + 0.1 * drawn)
    if kind == "BatchNorm":
        return 2 * 0.1 * drawn if number == 0 else 2 * np.exp(0.3 * drawn)
    # Scale: the end of a residual branch is small, which keeps the sum bounded.
    size = 0.15 if layer.endswith("_branch2c") else 1.0
    return size * (1 + 0.2 * drawn) if number == 0 else 0.1 * drawn


def _kernel(layer, shape, generator):
    outputs, inputs, height, width = shape
    deviation = _gain(layer) / np.sqrt(inputs * height * width)
    if inputs % 2:
        return deviation * generator.standard_normal(shape)
    # The two halves of the input channels cancel, but for a share that is drawn freely.
    free_share = 0.0 if "_mbox_" in layer else 0.4
    half = generator.standard_normal((outputs, inputs // 2, height, width))
    values = np.concatenate([half, -half], axis=1) * (deviation * np.sqrt(1 - free_share))
    if free_share:
        values = values + generator.standard_normal(shape) * (deviation * np.sqrt(free_share))
    return values


def _is_arm(layer):
    return re.match(r"(res)?P[3-6]_", layer) is None


def _gain(layer):
    if layer in ("conv1_1", "conv1"):
        return 1.4142 / 64
    if head := re.fullmatch(r".*_mbox_(loc|conf)", layer):
        gain = HEAD_GAIN[("arm_" if _is_arm(layer) else "odm_") + head[1]]
        # L2-normalised features are small, the ODM's of ResNet large.
        return gain * (3.5 if "_norm_mbox_" in layer else 0.4 if layer.startswith("resP") else 1.0)
    return 1.4 if layer.startswith("res") else 1.5
