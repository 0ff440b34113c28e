import keras
import numpy as np
import pytest
import tensorflow as tf

from refinedet_tf.refinedet.batch_norm import BatchNormalization, batch_normalization
from refinedet_tf.refinedet.tensorflow_batch_norm import normalise_with_batch, normalise_with_stored


def batches(count, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(3, 2, (2, 4, 5, 3)).astype(np.float32) for _ in range(count)]


def built(**kwargs):
    layer = batch_normalization("norm", **{"momentum": 0.9, **kwargs})
    layer.build((None, None, None, 3))
    return layer


class CaffeLayer:
    """Blobs as Caffe's BatchNormLayer accumulates them, in float64."""

    def __init__(self, momentum):
        self.momentum, self.blobs = momentum, [np.zeros(3), np.zeros(3), 0.0]

    def see(self, batch):
        values = batch.reshape(-1, 3).astype(np.float64)
        terms = values.mean(axis=0), values.var(axis=0, ddof=1), 1.0
        self.blobs = [self.momentum * blob + term for blob, term in zip(self.blobs, terms, strict=True)]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_moving_statistics_are_caffes(tf_test, momentum):
    layer, caffe = built(momentum=momentum), CaffeLayer(momentum)
    for batch in batches(5):
        layer(batch, training=True)
        caffe.see(batch)
        mean, variance, weight = caffe.blobs
        tf_test.assertAllClose(layer.moving_weight, [weight], rtol=1e-6, atol=0)
        tf_test.assertAllClose(layer.moving_mean, mean / weight, rtol=1e-5, atol=0)
        tf_test.assertAllClose(layer.moving_variance, variance / weight, rtol=1e-5, atol=0)


@pytest.mark.parametrize("how", ["inference", "frozen", "not trainable"])
def test_stored_statistics(tf_test, how):
    layer, batch = built(frozen=how == "frozen"), batches(1)[0]
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 9.0, 16.0])
    layer.trainable = how != "not trainable"
    found = layer(batch, training=how != "inference")
    tf_test.assertAllClose(found, (batch - [1, 2, 3]) / [2, 3, 4], rtol=1e-4, atol=1e-5)
    tf_test.assertAllEqual(layer.moving_mean, [1, 2, 3])
    tf_test.assertAllEqual(layer.moving_weight, [0])


def test_frozen_statistics_leave_gamma_and_beta_to_training():
    layer = built(frozen=True)
    assert [v.name for v in layer.trainable_variables] == ["gamma", "beta"]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(batches(1)[0], training=True) ** 2)
    for gradient in tape.gradient(loss, [v.value for v in layer.trainable_variables]):
        assert np.abs(gradient).min() > 0


def test_training_is_that_of_keras_own_layer(tf_test):
    ours, reference = built(), keras.layers.BatchNormalization(epsilon=1e-5)
    reference.build((None, None, None, 3))
    batch, target = (tf.constant(batches(1, seed)[0]) for seed in (0, 1))
    results = []
    for layer in (ours, reference):
        layer.gamma.assign([1.0, 2.0, 3.0])
        layer.beta.assign([0.0, 1.0, 2.0])
        with tf.GradientTape() as tape:
            tape.watch(batch)
            outputs = layer(batch, training=True)
        results.append([outputs, tape.gradient(outputs, batch, output_gradients=target)])
    for found, expected in zip(*results, strict=True):
        tf_test.assertAllClose(found, expected, rtol=1e-4, atol=1e-5)


def test_narrow_numbers_are_widened(tf_test):
    layer = batch_normalization("norm", 0.9, dtype="mixed_bfloat16")
    found = layer(tf.constant(batches(1)[0] + 1000), training=True)
    tf_test.assertDTypeEqual(found, tf.bfloat16)
    assert np.abs(tf.cast(found, tf.float32)).max() < 10
    tf_test.assertAllClose(layer.moving_mean, [1003] * 3, rtol=1e-7, atol=3)


def test_converged_weight_makes_the_usual_moving_average(tf_test):
    layer = built(momentum=0.75)
    layer.moving_weight.assign(layer.converged_weight)
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    batch = batches(1)[0]
    layer(batch, training=True)
    expected = 0.75 * np.array([1.0, 2.0, 3.0]) + 0.25 * batch.mean(axis=(0, 1, 2))
    tf_test.assertAllClose(layer.moving_mean, expected, rtol=1e-5, atol=0)
    tf_test.assertAllClose(layer.moving_weight, [4.0], rtol=1e-6, atol=0)


def test_layer_survives_its_config():
    layer = batch_normalization("norm", 0.5, frozen=True, epsilon=1e-3)
    copy = BatchNormalization.from_config(layer.get_config())
    assert (copy.name, copy.momentum, copy.frozen, copy.epsilon) == ("norm", 0.5, True, 1e-3)


def in_float64(features, gamma, beta, of_outputs, stored=None, epsilon=1e-5):
    """Outputs, gradients of features, gamma and beta, and the statistics, by the formulas in float64."""
    x, gamma, beta, dy = (np.asarray(value, np.float64) for value in (features, gamma, beta, of_outputs))
    axes = (0, 1, 2)
    mean, variance = stored or (x.mean(axis=axes), x.var(axis=axes))
    centred, scale = x - mean, gamma / np.sqrt(variance + epsilon)
    normal = centred / np.sqrt(variance + epsilon)
    of_gamma, of_beta = (dy * normal).sum(axis=axes), dy.sum(axis=axes)
    of_features = scale * dy
    if stored is None:
        of_features -= scale * (of_beta + normal * of_gamma) / (x.size / x.shape[-1])
    return scale * centred + beta, of_features, of_gamma, of_beta, mean, variance


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_values_and_gradients_are_those_of_float64(tf_test, stored, offset):
    """The sums do not lose digits, as they would if 25,600 numbers were added up one by one in float32."""
    generator = np.random.default_rng(0)
    features = (generator.normal(offset, 2, (4, 80, 80, 3))).astype(np.float32)
    of_outputs = generator.normal(0.1, 1, features.shape).astype(np.float32)
    gamma, beta = np.float32([0.5, 1, -2]), np.float32([1, 0, 3])
    statistics = (np.float32([offset, 1, 2]), np.float32([4, 5, 6]))
    inputs = [tf.constant(value) for value in (features, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        if stored:
            outputs = normalise_with_stored(*inputs, *statistics, 1e-5)
        else:
            outputs, *found = normalise_with_batch(*inputs, 1e-5, count=4 * 80 * 80, num_replicas=1)
    gradients = tape.gradient(outputs, inputs, output_gradients=tf.constant(of_outputs))
    expected = in_float64(features, gamma, beta, of_outputs, statistics if stored else None)
    size = 1 + offset
    tf_test.assertAllClose(outputs, expected[0], rtol=1e-6, atol=1e-6 * size)
    tf_test.assertAllClose(gradients[0], expected[1], rtol=1e-6, atol=1e-6 * size)
    for gradient, value in zip(gradients[1:], expected[2:4], strict=True):
        tf_test.assertAllClose(gradient, value, rtol=1e-6, atol=1e-4 * size)
    if not stored:
        tf_test.assertAllClose(found[0], expected[4], rtol=1e-7, atol=1e-8)
        tf_test.assertAllClose(found[1], expected[5], rtol=3e-7 * size, atol=0)


def test_nan_passes_a_layer_that_is_not_trainable():
    """A graph may join BatchNorm and ReLU to a kernel whose ReLU of NaN is 0."""
    images = keras.Input((8, 8, 3))
    layer = built()
    layer.trainable = False
    network = keras.Model(images, keras.layers.ReLU()(layer(images)))
    batch = np.ones((2, 8, 8, 3), np.float32)
    batch[0] = np.nan
    found = tf.function(lambda images: network(images, training=True))(tf.constant(batch))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(batch))


@pytest.mark.parametrize("frozen", [False, True])
def test_xla_compiles_what_is_left_to_it(tf_test, frozen):
    """XLA has no kernel of EuclideanNorm, with which the statistics are fast without it."""
    plain, compiled = built(frozen=frozen), built(frozen=frozen)
    compiled.leave_to_compiler()
    (images,) = batches(1)

    def gradients_of(layer, features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_sum(tf.sin(layer(features, training=True)))
        return [loss, *tape.gradient(loss, [features, *layer.trainable_variables])]

    features = tf.constant(images)
    expected = gradients_of(plain, features)
    result = tf.function(gradients_of, jit_compile=True)(compiled, features)
    for value, wanted in zip(result, expected, strict=True):
        tf_test.assertAllClose(value, wanted, rtol=1e-4, atol=1e-5)
    tf_test.assertAllClose(compiled.get_weights(), plain.get_weights(), rtol=1e-5, atol=1e-6)
