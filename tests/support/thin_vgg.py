"""VGG-16 with few channels up to conv5_3; it has all the layers of the real network and is quick to build."""

import importlib

import pytest
from config_of import config_of

from refinedet_tf.refinedet.network import build_model

STAGES = ((2, 4), (2, 8), (3, 8), (3, 16), (3, 16))


def thin_vgg(num_classes=3, precision="float32", **model):
    """A RefineDet for images of any size, with random weights; `model` holds fields of its config."""
    config = config_of(
        num_classes, model={"image_size": None, "tcb_channels": 8, **model}, training={"precision": precision}
    )
    # By its full name, since the package's attribute of that name is the function.
    module = importlib.import_module("refinedet_tf.refinedet.backbones.vgg16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STAGES", STAGES)
        return build_model(config)
