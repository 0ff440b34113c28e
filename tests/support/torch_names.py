"""The names of the tensors of RefineDet.PyTorch."""

VGG = "conv1_1 0 conv1_2 2 conv2_1 5 conv2_2 7 conv3_1 10 conv3_2 12 conv3_3 14 conv4_1 17 conv4_2 19 "
VGG += "conv4_3 21 conv5_1 24 conv5_2 26 conv5_3 28 fc6 31 fc7 33"

NAMES = {layer: f"vgg.{number}" for layer, number in zip(VGG.split()[::2], VGG.split()[1::2], strict=True)}
NAMES |= {"conv4_3_norm": "conv4_3_L2Norm", "conv5_3_norm": "conv5_3_L2Norm"}
NAMES |= {"conv6_1": "extras.0", "conv6_2": "extras.1"}
for index, source in enumerate(("conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2")):
    level = index + 3
    NAMES |= {f"{source}_mbox_loc": f"arm_loc.{index}", f"{source}_mbox_conf": f"arm_conf.{index}"}
    NAMES |= {f"P{level}_mbox_loc": f"odm_loc.{index}", f"P{level}_mbox_conf": f"odm_conf.{index}"}
    NAMES |= {f"TL{level}_1": f"tcb0.{3 * index}", f"TL{level}_2": f"tcb0.{3 * index + 2}"}
    NAMES |= {f"P{level + 1}-up": f"tcb1.{index}", f"P{level}": f"tcb2.{3 * index + 1}"}
"""RefineDet.PyTorch's name of each layer of the authors' program."""


def tensors_of(layers):
    """The arrays of layers as `random_layers` gives them, by their names in RefineDet.PyTorch."""
    found = {}
    for layer, _, blobs in layers:
        for kind, blob in zip(("weight", "bias"), blobs, strict=False):
            found[f"{NAMES[layer]}.{kind}"] = blob
    return found
