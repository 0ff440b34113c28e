import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_arrays import GOLDEN_FOLDER

from refinedet_tf.refinedet.layers import (
    MEAN_RGB,
    L2Normalize,
    ScaleToUnitRange,
    SubtractMean,
    TransferConnectionBlock,
    caffe_xavier,
)

GOLDEN = np.load(GOLDEN_FOLDER / "normalize.npz")


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def assert_close_to_the_largest(tf_test, found, expected):
    """Allows an error of 1e-5 of the largest magnitude that is expected."""
    tf_test.assertAllClose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def randomize(layer, seed=0):
    generator = np.random.default_rng(seed)
    for variable in layer.weights:
        low = 0.5 if "variance" in variable.path else -0.5
        variable.assign(generator.uniform(low, low + 1, variable.shape))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_subtract_mean_bgr(tf_test, dtype):
    images = np.array([[[[255, 0, 10], [1, 2, 3]]]], dtype)
    found = np.asarray(SubtractMean()(images))
    tf_test.assertAllClose(
        found, [[[[10 - 104, 0 - 117, 255 - 123], [3 - 104, 2 - 117, 1 - 123]]]], rtol=1e-7, atol=0
    )
    tf_test.assertDTypeEqual(found, np.float32)
    assert MEAN_RGB == (123, 117, 104)
    tf_test.assertAllEqual(SubtractMean("rgb")(images), found[..., ::-1])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_scale_to_unit_range(tf_test, dtype):
    images = np.array([[[[0, 255, 51]]]], dtype)
    tf_test.assertAllClose(ScaleToUnitRange()(images), [[[[-1, 1, -0.6]]]], rtol=1e-7, atol=1e-6)


def test_preprocessing_subtracts_before_it_rounds(tf_test):
    """A bfloat16 network has steps of 1 from 128 on; the mean is subtracted in float32."""
    images = np.full((1, 1, 1, 3), [130.5, 120.25, 110.75], np.float32)
    found = SubtractMean(dtype="mixed_bfloat16")(images)
    tf_test.assertDTypeEqual(found, tf.bfloat16)
    tf_test.assertAllEqual(tf.cast(found, tf.float32), [[[[6.75, 3.25, 7.5]]]])


def test_l2_normalize_of_nothing_is_zero_with_a_finite_gradient(tf_test):
    features = tf.zeros((1, 2, 2, 3))
    layer = L2Normalize(10.0)
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = layer(features)
    tf_test.assertAllEqual(output, tf.zeros_like(features))
    assert np.isfinite(tape.gradient(output, features)).all()


def test_l2_normalize_epsilon_is_added_to_the_squared_sum(tf_test):
    features = np.full((1, 1, 1, 3), 1e-5, np.float32)
    expected = 1e-5 / np.sqrt(3e-10 + 1e-10)
    tf_test.assertAllClose(L2Normalize(1.0)(features), np.full((1, 1, 1, 3), expected), rtol=1e-5, atol=0)


def test_l2_normalize_against_the_authors_program(compare):
    """Compares output and gradients, with scales that differ. The gradient of the input is compared with
    its true value, since the authors' formula holds for equal scales only."""
    layer = L2Normalize(1.0)
    features = tf.constant(channels_last(GOLDEN["x"]))
    layer.build(features.shape)
    layer.scale.assign(GOLDEN["scale"])
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = layer(features)
    gradients = tape.gradient(
        output, [features, layer.scale.value], output_gradients=channels_last(GOLDEN["dy"])
    )
    for what, found, expected in [
        ("output", output, channels_last(GOLDEN["y"])),
        ("gradient of the input, by the true formula", gradients[0], channels_last(GOLDEN["dx_true"])),
        ("gradient of the scales", gradients[1], GOLDEN["dscale"]),
    ]:
        compare(what, "L2 normalisation, scales that differ", found, expected, 1e-5, relative_to="largest")


def convolve(features, layer):
    """Computes the 3x3 cross-correlation with one pixel of zeros around, tap by tap."""
    kernel, bias = np.asarray(layer.kernel).astype(float), np.asarray(layer.bias).astype(float)
    height, width = features.shape[1:3]
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, y : y + height, x : x + width] @ kernel[y, x] for y in range(3) for x in range(3)]
    return sum(taps) + bias


def upsample(features, layer):
    """Computes the 2x2 deconvolution with stride 2, where every pixel becomes a separate block."""
    kernel, bias = np.asarray(layer.kernel).astype(float), np.asarray(layer.bias).astype(float)
    batch, height, width, _ = features.shape
    output = np.zeros((batch, 2 * height, 2 * width, kernel.shape[2]))
    for y in range(2):
        for x in range(2):
            output[:, y::2, x::2] = features @ kernel[y, x].T
    return output + bias


@pytest.mark.parametrize("is_deepest", [False, True])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (5, 4), (1, 3)])
def test_transfer_connection_block(tf_test, grid, is_deepest):
    generator = np.random.default_rng(1)
    deeper_grid = [-(-side // 2) for side in grid]
    features = generator.normal(size=(2, *grid, 7)).astype(np.float32)
    deeper = None if is_deepest else generator.normal(size=(2, *deeper_grid, 4)).astype(np.float32)
    block = TransferConnectionBlock(3, 4)
    block(features, deeper)
    randomize(block)
    found = block(features, deeper)

    transferred = convolve(np.maximum(convolve(features.astype(float), block.first), 0), block.second)
    if not is_deepest:
        transferred += upsample(deeper.astype(float), block.upsampling)[:, : grid[0], : grid[1]]
    expected = np.maximum(convolve(np.maximum(transferred, 0), block.output_convolution), 0)
    tf_test.assertShapeEqual(found, np.zeros((2, *grid, 4)))
    assert_close_to_the_largest(tf_test, found, expected)
    assert (expected > 0).mean() > 0.1


def test_transfer_connection_block_names_its_parts_as_the_authors_do():
    block = TransferConnectionBlock(4, 8, name="tcb4")
    block(np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 2, 2, 8), np.float32))
    assert {v.path for v in block.weights} == {
        f"tcb4/{part}/{kind}" for part in ("TL4_1", "TL4_2", "P4", "P5-up") for kind in ("kernel", "bias")
    }


def test_batch_norm_stands_after_each_convolution(tf_test):
    generator = np.random.default_rng(4)
    features = generator.normal(size=(2, 3, 3, 5)).astype(np.float32)
    deeper = generator.normal(size=(2, 2, 2, 4)).astype(np.float32)
    block = TransferConnectionBlock(3, 4, batch_norm=True, batch_norm_momentum=0.9)
    block(features, deeper)
    randomize(block, seed=5)
    assert not any(v.name == "bias" for v in block.weights)

    def normalized(part, values):
        norm = getattr(block, f"{part}_norm")
        gamma, beta, mean, variance = (
            np.asarray(v) for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        return gamma * (values - mean) / np.sqrt(variance + 1e-5) + beta

    # The layers themselves were checked above; here only where the normalisation stands.
    first = tf.nn.relu(normalized("first", np.asarray(block.first(features))))
    second = normalized("second", np.asarray(block.second(first)))
    upsampled = normalized("upsampling", np.asarray(block.upsampling(deeper)))[:, :3, :3]
    third = tf.nn.relu(second + upsampled)
    expected = np.maximum(normalized("output", np.asarray(block.output_convolution(third))), 0)
    assert_close_to_the_largest(tf_test, block(features, deeper, training=False), expected)
    before = np.array(block.first_norm.moving_mean)
    inner = np.asarray(block.first(features)).mean(axis=(0, 1, 2))
    block.first_norm.moving_weight.assign(block.first_norm.converged_weight)
    block(features, deeper, training=True)
    tf_test.assertAllClose(block.first_norm.moving_mean, 0.9 * before + 0.1 * inner, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        SubtractMean(name="a"),
        ScaleToUnitRange(name="b"),
        L2Normalize(7.5, name="c"),
        TransferConnectionBlock(5, 12, True, batch_norm_momentum=0.5, batch_norm_frozen=True, name="d"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layer_is_rebuilt_from_its_config(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    attributes = ("initial_scale", "channel_order", "level", "channels", "batch_norm", "batch_norm_momentum")
    for attribute in (*attributes, "batch_norm_frozen"):
        assert getattr(copy, attribute, None) == getattr(layer, attribute, None)


def test_caffe_xavier_is_uniform_by_the_inputs(tf_test):
    bound = np.sqrt(3 / (9 * 50))
    drawn = np.asarray(caffe_xavier()((3, 3, 50, 70)))
    assert np.abs(drawn).max() <= bound
    assert np.abs(drawn).max() > 0.99 * bound
    tf_test.assertAllClose(drawn.std(), bound / np.sqrt(3), rtol=0.02, atol=0)
