"""The assertions of `tf.test.TestCase` for tests that are plain functions; see the fixture `tf_test`."""

import tensorflow as tf


class TensorAssertions(tf.test.TestCase):
    """A test case that is used for its assertions alone."""

    def runTest(self):
        """Does nothing; `unittest` requires a test method of every test case."""

    def assertAllClose(self, a, b, *, rtol, atol, msg=None):
        """Requires both tolerances, because the defaults of `tf.test` are wider than those of NumPy."""
        super().assertAllClose(a, b, rtol=rtol, atol=atol, msg=msg)
