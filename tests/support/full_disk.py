"""A disk without room."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(left):
    """The system refuses to let any file grow beyond `left` bytes, as a full disk refuses any growth."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
