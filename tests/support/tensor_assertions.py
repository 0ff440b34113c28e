"""The assertions of `tf.test` for tests that are plain functions; see the fixture `tf_test`."""

import tensorflow as tf


class TensorAssertions(tf.test.TestCase):
    """A test case of its own for each test function, which calls the assertions."""

    def runTest(self):
        """unittest wants a method to run; here pytest runs the test."""

    def assertAllClose(self, a, b, *, rtol, atol, msg=None):
        """As in `tf.test`, but both tolerances must be given: its defaults would hide an error of 1e-6."""
        super().assertAllClose(a, b, rtol=rtol, atol=atol, msg=msg)
