"""The tiers of the suite, in which one case of a parametrised test may differ from the others."""

import pytest


def slow(*values):
    """A case of `pytest.mark.parametrize` that only `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)
