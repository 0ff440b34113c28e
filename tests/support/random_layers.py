"""Random weights in the form in which Caffe's files hold them."""

import numpy as np

from refinedet_tf.weights.blobs import blob_shape, variables_by_blob


def random_layers(model, seed=0, statistics_weight=4.0):
    """Blobs that fit the model, (layer, type, [arrays]), as Caffe writes them."""
    generator, layers = np.random.default_rng(seed), {}
    for (layer, number), variable in sorted(variables_by_blob(model).items(), key=lambda pair: pair[0]):
        values = generator.uniform(0.5, 1.5, blob_shape(variable)).astype(np.float32)
        if variable.name == "moving_weight":
            values[:] = statistics_weight
        layers.setdefault(layer, {})[number] = values
    return [(layer, "Any", [blobs[i] for i in range(len(blobs))]) for layer, blobs in layers.items()]
