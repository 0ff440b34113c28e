"""JSON text that is read, and JSON text that is refused with one short line."""

import json

import pytest
from refusals import message_of

from refinedet_tf.errors import InputError
from refinedet_tf.json_files import MAX_NESTING, JsonSyntaxError, check_text, parse_json, read_json


def error_of(text, **options):
    message = message_of(parse_json, text, "file.json", **options)
    assert message.startswith("file.json ") and len(message) < 600
    return message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(encoding, tmp_path):
    file = tmp_path / "tree.json"
    file.write_bytes('{"name": "Käse 🐈 \\ud83d\\ude00 \\\\u0000"}'.encode(encoding))
    assert read_json(file) == {"name": "Käse 🐈 😀 \\u0000"}


def test_object_hook():
    assert parse_json('{"a": {"b": 1}}', "file.json", object_hook=list) == ["a"]

    def refuse(entry):
        raise InputError("the hook's")

    with pytest.raises(InputError, match="^the hook's$"):
        parse_json("{}", "file.json", object_hook=refuse)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '"\0"', b"\xff\xfe\0{}", b'"\xed\xa0\x80"'])
def test_text_that_is_not_json(text):
    assert "file.json is not valid JSON: " in error_of(text)
    with pytest.raises(JsonSyntaxError):
        parse_json(text, "file.json")


def test_an_error_in_a_large_file_is_one_short_line():
    error_of('{"key": ' + "x" * 10_000_000)
    error_of(b'{"key": "' + b"\xff" * 1_000_000)


def test_nesting():
    for opened, closed in (("[", "]"), ('{"a": ', "}"), ('[{"a": ', "}]")):
        levels = MAX_NESTING // (len(closed))
        parse_json(opened * levels + "1" + closed * levels, "file.json")
        for count in (levels + 1, 10 * levels, 100_000):
            message = error_of(opened * count + "1" + closed * count)
            assert message.endswith("at most 100 levels of lists and objects are read")
    error_of("[" * 1_000_000)


def test_digits():
    assert parse_json("9" * 4000, "file.json") == int("9" * 4000)
    assert error_of('{"a": ' + "9" * 5000 + "}") == "file.json holds a number of too many digits"


@pytest.mark.parametrize("text", ["a\0b", "\0", "\ud83d", "\udcff", "\ude00\ud83d"])
def test_characters_that_name_nothing(text):
    for tree in (text, [text], {text: 1}, {"a": [{"b": text}]}):
        message = error_of(json.dumps(tree))
        assert "holds a null character: " in message or "holds half of a character: " in message
    if "\0" not in text:
        assert "holds half of a character" in error_of(json.dumps(text, ensure_ascii=False))
    assert len(message_of(check_text, "x" * 10_000_000 + text, "--set")) < 300


def test_files_that_cannot_be_read(tmp_path):
    for name, reason in (
        ("none", "No such file or directory"),
        (".", "Is a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "the name holds a null character"),
        ("\ud800", "the name is not Unicode text"),
    ):
        with pytest.raises(InputError, match=f"cannot be read: {reason}$"):
            read_json(tmp_path / name)


def test_largest_size(tmp_path):
    file = tmp_path / "list.json"
    file.write_text("[1, 2, 3]")
    assert read_json(file, max_bytes=9) == [1, 2, 3]
    with pytest.raises(InputError, match=r"list\.json is larger than 8 bytes$"):
        read_json(file, max_bytes=8)
    with pytest.raises(InputError, match="is larger than 1,000 bytes$"):
        read_json("/dev/zero", max_bytes=1000)
