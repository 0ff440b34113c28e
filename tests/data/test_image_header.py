"""The size and the orientation of an image from the header of its file."""

import struct
import zlib

import pytest
from hostile_images import readable, unreadable
from image_files import encoded, exif_with
from PIL import Image

from refinedet_tf.data.image_header import (
    MAX_PIXELS,
    UNKNOWN_FORMAT,
    ImageHeader,
    read_image_header,
    read_image_headers,
)
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
def header_of(tmp_path, recwarn):
    def read(contents):
        (tmp_path / "a.jpg").write_bytes(contents)
        header = read_image_header(tmp_path / "a.jpg")
        assert not list(recwarn)
        return header

    return read


PHOTO = Image.new("RGB", (30, 20))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
def test_orientation(header_of, kind):
    """`test_exif.py` tells which tags count."""
    for tag in range(1, 9):
        header = header_of(encoded(PHOTO, kind, exif=exif_with(tag)))
        assert header == ImageHeader(20, 30, tag)
        assert header.upright_size == ((20, 30) if tag < 5 else (30, 20))
    assert header_of(encoded(PHOTO, kind)) == ImageHeader(20, 30, 1)


def test_the_xmp_data_of_a_png_does_not_count(header_of):
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>"
    assert header_of(png(30, 20, (b"iTXt", xmp))).orientation == 1


def test_webp(header_of):
    for options in ({}, {"lossless": True}, {"exif": b"", "icc_profile": b"x" * 10}):
        assert header_of(encoded(PHOTO, "WEBP", **options)) == ImageHeader(20, 30, 1)
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    with pytest.raises(InputError, match=r"a\.jpg cannot be .*: it is an animated WebP; save one of its"):
        header_of(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))


def test_headers_of_many_files_keep_their_order(tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(200)]
    for number, path in enumerate(paths):
        if number % 50:
            Image.new("1", (number + 1, 3)).save(path)
    for number, header in enumerate(read_image_headers(paths)):
        if number % 50:
            assert header == ImageHeader(3, number + 1, 1)
        else:
            assert isinstance(header, InputError) and f"{number}.png cannot be read" in str(header)


def test_size(header_of):
    for contents, size in readable().values():
        assert header_of(contents)[:2] == size
    depth = Image.new("RGB", (15, 10))
    assert header_of(encoded(PHOTO, "MPO", save_all=True, append_images=[depth]))[:2] == (20, 30)


def test_a_gif_has_the_header_of_its_screen_and_first_frame(header_of):
    frames = [Image.new("P", (30, 20), color) for color in (1, 2)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for screen, size in (((40, 50), (50, 40)), ((10, 50), (50, 30)), ((5, 5), (20, 30))):
        assert header_of(gif[:6] + struct.pack("<HH", *screen) + gif[10:])[:2] == size


@pytest.mark.parametrize("limit_of_pillow", [Image.MAX_IMAGE_PIXELS, None])
def test_limit_of_pixels(header_of, monkeypatch, limit_of_pillow):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_of_pillow)
    assert limit_of_pillow is None or 2 * limit_of_pillow >= MAX_PIXELS
    assert header_of(png(13_000, 13_000))[:2] == (13_000, 13_000)
    assert header_of(png(MAX_PIXELS, 1))[:2] == (1, MAX_PIXELS)
    for width, height in ((MAX_PIXELS + 1, 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(InputError, match=r"a\.jpg .* has more than 178,956,970 pixels$"):
            header_of(png(width, height))


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
def test_limits_of_metadata(header_of, chunks):
    """Whatever Pillow thinks of the metadata: the size, or one line that names the file."""
    try:
        assert header_of(png(30, 20, *chunks))[:2] == (20, 30)
    except InputError as error:
        assert "a.jpg cannot be read as an image: " in str(error)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [(unreadable()[name], UNKNOWN_FORMAT + "$") for name in ("no bytes", "no image", "an html page", "tiff")]
    + [(contents, "") for contents in (png(0, 5), png(5, 0), unreadable()["bmp without pixels"])],
)
def test_files_that_are_no_image_or_have_no_pixels(header_of, contents, reason):
    with pytest.raises(InputError, match=rf"a\.jpg cannot be read as an image: {reason}"):
        header_of(contents)


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
        read_image_header(tmp_path / name)
