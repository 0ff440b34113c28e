"""What the outputs of a file in int8 must be, in any runtime."""

import numpy as np

from refinedet_tf.exports.graphs import DetectionGraphs


def assert_int8_heads(outputs, model, config, images):
    """Asserts that the heads are near those of the network, and what follows them is computed in float32."""
    for name, head in model(images, training=False).items():
        error = np.abs(outputs[name] - head.numpy())
        assert 0 < error.mean() < 0.03 * np.abs(head).max(), name
    boxes, scores = DetectionGraphs(model, config).candidates(outputs)
    np.testing.assert_allclose(outputs["boxes"], boxes, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["scores"], scores, atol=1e-6)
