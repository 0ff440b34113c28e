"""How wrong input is refused."""

import pytest

from refinedet_tf.errors import InputError


def message_of(function, *arguments, **options):
    """The message of the `InputError` that a call must raise, which must be one printable line."""
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    message = str(error.value)
    assert message.isprintable(), message
    return message
