"""The fixture `tf_test`: the assertions of `tf.test.TestCase` for tests that are plain functions.

A test of tensor code compares with `tf_test.assertAllClose`, `assertAllEqual` and `assertDTypeEqual`, which
take tensors, variables and arrays, require equal shapes, and print the elements that differ. Both tolerances
of `assertAllClose` are always given, because its own defaults are wider than those of NumPy.
"""

import pytest
import tensorflow as tf


class TensorAssertions(tf.test.TestCase):
    """A test case that is used for its assertions alone."""

    def runTest(self):
        """Does nothing; `unittest` requires a test method of every test case."""


@pytest.fixture
def tf_test():
    """A `tf.test.TestCase` that is set up, with TensorFlow's seeds reset, and torn down around one test."""
    case = TensorAssertions()
    case.setUp()
    yield case
    case.tearDown()
    case.doCleanups()
