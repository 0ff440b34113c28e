"""Reading of JSON, strictly and within limits, for every file and argument that holds JSON."""

import json
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import read_bytes

Model = TypeVar("Model", bound=BaseModel)

MAX_NESTING = 100
"""The largest number of lists and objects within each other. No file of this project needs more than ten,
and Python's own writers fail at some hundreds."""

_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
"""The escapes in JSON text that may stand for a null character or for half of a character."""


class JsonSyntaxError(InputError):
    """The text is not JSON."""


def read_json(
    file: str | os.PathLike,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    max_bytes: int | None = None,
) -> Any:
    """Reads a JSON file.

    Args:
        file: the file, in UTF-8, UTF-16 or UTF-32.
        object_hook: a function that is given every object and returns what takes its place.
        max_bytes: the largest size of the file; None: any size.

    Raises:
        InputError: the file cannot be read, is larger, or holds no JSON within the limits of
            `parse_json`. The message names the file.
    """
    return parse_json(read_bytes(file, max_bytes), file, object_hook)


def parse_json(
    text: str | bytes, source: object, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Parses JSON. The constants NaN, Infinity and -Infinity are accepted, as Python writes them.

    Args:
        text: the JSON text; bytes may be UTF-8, UTF-16 or UTF-32.
        source: the file or argument that holds it, for the messages.
        object_hook: as for `read_json`.

    Raises:
        JsonSyntaxError: the text is not JSON.
        InputError: lists and objects are nested in more than `MAX_NESTING` levels, a whole number has
            more digits than Python reads (4,300 by default), or a string holds a null character or half
            of a character, with which neither a file nor a line of output can be named.
    """
    source = shortened_text(source)
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        tree = json.loads(text, object_hook=object_hook)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JsonSyntaxError(f"{source} is not valid JSON: {shortened_text(error)}") from None
    except RecursionError:
        raise InputError(_too_deep(source)) from None
    except ValueError as error:
        if isinstance(error, InputError):  # It comes from `object_hook`.
            raise
        raise InputError(f"{source} holds a number of too many digits") from None
    _check_nesting(tree, source)
    if _SUSPECT_ESCAPE.search(text) or not _is_unicode(text):
        _check_texts(tree, source)
    return tree


def check_tree(tree: Any, model: type[Model], source: object) -> Model:
    """Checks parsed JSON against a model of pydantic, and returns it as that.

    Raises:
        InputError: a value is wrong or missing; the message names the source and the key.
    """
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
    key, what = ".".join(map(str, mistake["loc"])), mistake["msg"].removeprefix("Value error, ")
    given = shortened(mistake["input"])
    raise InputError(f"{shortened_text(source)}: {key or 'all of it'}: {what}, got {given}")


def check_text(text: str, source: object) -> None:
    """Refuses a text that is no name of anything.

    Raises:
        InputError: it holds a null character, or half of a character (a surrogate).
    """
    if "\0" in text:
        raise InputError(f"{shortened_text(source)} holds a null character: {shortened_text(text, 200)}")
    if not _is_unicode(text):
        raise InputError(f"{shortened_text(source)} holds half of a character: {shortened_text(text, 200)}")


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(source: str) -> str:
    return f"{source} is nested too deeply: at most {MAX_NESTING} levels of lists and objects are read"


def _check_nesting(tree: Any, source: str) -> None:
    level = [tree]
    for _ in range(MAX_NESTING):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InputError(_too_deep(source))


def _check_texts(tree: Any, source: str) -> None:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str):
            check_text(node, source)
