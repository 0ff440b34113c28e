"""The size of an image from the header of its file."""

import struct
import zlib

import pytest
from hostile_images import encoded, readable, unreadable
from PIL import Image

from refinedet_tf.data.reader import MAX_PIXELS, read_image_size
from refinedet_tf.errors import InputError


def png(width, height, *chunks):
    """A PNG file of which only the header, the given (name, content) chunks and an empty image are there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IDAT", b""), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + checksum
    return data


@pytest.fixture
def size_of(tmp_path, recwarn):
    def read(contents):
        (tmp_path / "a.jpg").write_bytes(contents)
        size = read_image_size(tmp_path / "a.jpg")
        assert not list(recwarn)
        return size

    return read


@pytest.mark.parametrize("name", readable())
def test_size(size_of, name):
    contents, size = readable()[name]
    assert size_of(contents) == size


def test_photo_with_a_second_picture(size_of):
    photo, depth = Image.new("RGB", (30, 20)), Image.new("RGB", (15, 10))
    assert size_of(encoded(photo, "MPO", save_all=True, append_images=[depth])) == (20, 30)


def test_limit_of_pixels(size_of):
    assert Image.MAX_IMAGE_PIXELS is None or MAX_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS
    assert size_of(png(13_000, 13_000)) == (13_000, 13_000)
    assert size_of(png(MAX_PIXELS, 1)) == (1, MAX_PIXELS)
    for width, height in ((MAX_PIXELS + 1, 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(InputError, match=r"a\.jpg .* has more than 178,956,970 pixels$"):
            size_of(png(width, height))


def test_limit_of_pixels_does_not_depend_on_pillows(size_of, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(InputError, match=r"a\.jpg .* has more than 178,956,970 pixels$"):
        size_of(png(60_000, 60_000))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"name\0\0" + zlib.compress(bytes(2**21)))],
        [(b"iTXt", b"name\0\1\0\0\0" + zlib.compress(bytes(2**21)))],
        [(b"zTXt", b"name\0\0" + zlib.compress(bytes(2**20 - 9)))] * 70,
        [(b"zTXt", b"name\0\5" + zlib.compress(b"text"))],
        [(b"iCCP", b"name\0\0" + zlib.compress(bytes(2**21)))],
        [(b"tRNS", b"")],
        [(b"pHYs", b"")],
        [(b"gAMA", b"")],
    ],
    ids=["zTXt", "iTXt", "many", "method", "iCCP", "tRNS", "pHYs", "gAMA"],
)
def test_limits_of_metadata(size_of, chunks):
    """Whatever Pillow thinks of the metadata: the size, or one line that names the file."""
    try:
        assert size_of(png(30, 20, *chunks)) == (20, 30)
    except InputError as error:
        assert "a.jpg cannot be read as an image: " in str(error)


@pytest.mark.parametrize("name", ["no bytes", "no image", "an html page", "tiff"])
def test_files_that_are_no_image(size_of, name):
    with pytest.raises(InputError, match=r"a\.jpg cannot be .* it is no JPEG, PNG, BMP or GIF file$"):
        size_of(unreadable()[name])


@pytest.mark.parametrize("contents", [png(0, 5), png(5, 0), unreadable()["bmp without pixels"]])
def test_images_without_pixels(size_of, contents):
    with pytest.raises(InputError, match=r"a\.jpg cannot be read as an image: "):
        size_of(contents)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.jpg", "No such file or directory"),
        (".", "Is a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b.jpg", "the name holds a null character"),
        ("\ud800.jpg", "the name is not Unicode text"),
    ],
)
def test_files_that_cannot_be_opened(tmp_path, name, reason):
    with pytest.raises(InputError, match=f"cannot be read: {reason}$"):
        read_image_size(tmp_path / name)
