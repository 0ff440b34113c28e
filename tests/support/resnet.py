"""RefineDet with ResNet-101: as the config makes it, or with few channels and quick to build."""

import importlib

import pytest
from config_of import config_of

from refinedet_tf.refinedet.network import build_model

THIN = {"STAGES": ((3, 4), (4, 4), (23, 4), (3, 4)), "RES6_CHANNELS": (4, 8), "HEAD_BLOCK_CHANNELS": (4, 12)}
"""All the layers with few channels. Inputs per stage stay a multiple of the expansion."""


def resnet(thin=True, classes=2, **model):
    """A ResNet-101 RefineDet, as the config makes it or with few channels."""
    config = config_of(
        [f"class {i}" for i in range(classes)],
        model={"backbone": "resnet101", "tcb_channels": 8 if thin else 256, **model},
    )
    module = importlib.import_module("refinedet_tf.refinedet.backbones.resnet101")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in THIN.items() if thin else ():
            patch.setattr(module, name, value)
        return build_model(config)
