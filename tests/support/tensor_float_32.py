"""A processor that computes convolutions in TensorFloat-32 wherever TensorFlow's switch lets it."""

import tensorflow as tf

SPLIT = float(2**13 + 1)
"""float32 has 23 bits of mantissa and TensorFloat-32 has 10, so 13 bits are cut."""


def rounded_to_tf32(values):
    """float32 values rounded to 10 bits of mantissa (Veltkamp's splitting)."""
    scaled = SPLIT * values
    return scaled - (scaled - values)


def emulate_tf32(monkeypatch):
    """Has every convolution that is traced or run while the switch is on round its inputs as a GPU does."""
    convolution = tf.nn.convolution

    def emulated(input, filters, *args, **kwargs):  # noqa: A002 - the names are TensorFlow's
        if tf.config.experimental.tensor_float_32_execution_enabled():
            input, filters = rounded_to_tf32(input), rounded_to_tf32(filters)  # noqa: A001
        return convolution(input, filters, *args, **kwargs)

    monkeypatch.setattr(tf.nn, "convolution", emulated)
