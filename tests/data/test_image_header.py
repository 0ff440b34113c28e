"""The size and the orientation of an image from the header of its file."""

import struct
import zlib

import pytest
from hostile_images import encoded, readable, unreadable
from PIL import Image

from refinedet_tf.data.image_header import MAX_PIXELS, ImageHeader, read_image_header, read_image_headers
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
        size = read_image_header(tmp_path / "a.jpg")[:2]
        assert not list(recwarn)
        return size

    return read


def with_orientation(kind, tag, size=(30, 20), **options):
    """An image file of this format, 30 pixels wide and 20 high, whose EXIF data holds the tag."""
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(Image.new("RGB", size), kind, exif=exif, **options)


@pytest.fixture
def header_of(tmp_path, recwarn):
    def read(contents):
        (tmp_path / "a.jpg").write_bytes(contents)
        header = read_image_header(tmp_path / "a.jpg")
        assert not list(recwarn)
        return header

    return read


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
def test_orientation(header_of, kind):
    for tag in range(1, 9):
        header = header_of(with_orientation(kind, tag))
        assert header == ImageHeader(20, 30, tag)
        assert header.upright_size == ((20, 30) if tag < 5 else (30, 20))
    assert header_of(encoded(Image.new("RGB", (30, 20)), kind)) == ImageHeader(20, 30, 1)


def tiff(kind, count, value):
    """EXIF data with one tag: the orientation, of a TIFF type, with four bytes for its values."""
    return struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 0x0112, kind, count, value, 0)


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (3, 1, b"\0\0"),
        (3, 1, b"\x09\0"),
        (3, 1, b"\xff\xff"),
        (3, 0, b"\x06\0"),
        (3, 2, b"\x06\0\x06\0"),
        (4, 1, b"\x06\0\0\0"),
        (2, 2, b"6\0"),
        (11, 1, struct.pack("<f", 6)),
        (99, 1, b"\x06\0"),
    ],
)
def test_tags_that_are_no_orientation(header_of, kind, count, value):
    photo = Image.new("RGB", (30, 20))
    assert header_of(encoded(photo, "JPEG", exif=b"Exif\0\0" + tiff(3, 1, b"\x06\0"))).orientation == 6
    contents = encoded(photo, "JPEG", exif=b"Exif\0\0" + tiff(kind, count, value))
    assert header_of(contents) == ImageHeader(20, 30, 1)


def test_the_order_of_the_bytes_and_further_tags(header_of):
    other = struct.pack(">HHII", 0x0100, 4, 1, 30)
    orientation = struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + other + orientation
    assert header_of(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).orientation == 8


def test_damaged_exif_data_is_ignored(header_of):
    exif = b"Exif\0\0" + tiff(3, 1, b"\x06\0")
    for cut in range(24):
        assert header_of(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif[:cut])).orientation == 1


def test_of_a_png_only_a_chunk_before_the_pixels_counts(header_of):
    before = png(30, 20, (b"eXIf", tiff(3, 1, b"\x06\0")))
    assert header_of(before).orientation == 6
    assert header_of(png(30, 20) + before[33:-24]).orientation == 1
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>"
    assert header_of(png(30, 20, (b"iTXt", xmp))).orientation == 1


def test_webp(header_of, tmp_path):
    photo = Image.new("RGB", (30, 20))
    for options in ({}, {"lossless": True}, {"exif": b"", "icc_profile": b"x" * 10}):
        assert header_of(encoded(photo, "WEBP", **options)) == ImageHeader(20, 30, 1)
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


@pytest.mark.parametrize("name", readable())
def test_size(size_of, name):
    contents, size = readable()[name]
    assert size_of(contents) == size


def test_photo_with_a_second_picture(size_of):
    photo, depth = Image.new("RGB", (30, 20)), Image.new("RGB", (15, 10))
    assert size_of(encoded(photo, "MPO", save_all=True, append_images=[depth])) == (20, 30)


def test_a_gif_has_the_size_of_its_screen_and_first_frame(size_of):
    frames = [Image.new("P", (30, 20), color) for color in (1, 2)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for screen, size in (((40, 50), (50, 40)), ((10, 50), (50, 30)), ((5, 5), (20, 30))):
        assert size_of(gif[:6] + struct.pack("<HH", *screen) + gif[10:]) == size


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
    with pytest.raises(InputError, match=r"a\.jpg cannot be .* it is no JPEG, PNG, BMP, GIF or WebP file$"):
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
        read_image_header(tmp_path / name)
