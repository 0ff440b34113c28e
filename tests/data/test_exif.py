"""The EXIF orientation in the bytes of a file, as the graph and the index of a dataset read it."""

import struct

import pytest
import tensorflow as tf
import upright
from image_files import encoded
from PIL import Image

from refinedet_tf.data.exif import MAX_BLOCKS, read_orientation
from refinedet_tf.data.image_header import read_image_header

SHORT, LONG, TEXT = 3, 4, 2
XMP = b"<x:xmpmeta tiff:Orientation='6'/>"


def tiff(*entries, order="<", offset=8, count=None):
    """EXIF data whose entries are (tag, type, count, value of four bytes or a number of two)."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", offset)
    data = start + bytes(offset - 8) + struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        raw = value if isinstance(value, bytes) else struct.pack(order + "HH", value, 0)
        data += struct.pack(order + "HHI", tag, kind, number) + raw
    return data + bytes(4)


def orientation(value, kind=SHORT, number=1):
    return (0x0112, kind, number, value)


SIX = orientation(6)
MAKER = (0x010F, TEXT, 4, b"abc\0")
CASES = {
    "big-endian": (tiff(SIX, order=">"), 6),
    "little-endian": (tiff(SIX), 6),
    "after others": (tiff(MAKER, (0x0110, SHORT, 1, 3), SIX), 6),
    "after a gap": (tiff(SIX, offset=300), 6),
    "four bytes": (tiff(orientation(struct.pack("<I", 8), LONG)), 1),
    "twice": (tiff(SIX, orientation(3)), 6),
    "twice, the first time 0": (tiff(orientation(0), SIX), 1),
    "two values": (tiff(orientation(6, number=2)), 1),
    "0": (tiff(orientation(0)), 1),
    "9": (tiff(orientation(9)), 1),
    "262": (tiff(orientation(262)), 1),
    "65535": (tiff(orientation(65535)), 1),
    "text": (tiff(orientation(b"6\0\0\0", TEXT, 2)), 1),
    "a floating-point number": (tiff(orientation(struct.pack("<f", 6), 11)), 1),
    "an unknown type": (tiff(orientation(6, 99)), 1),
    "no values": (tiff(orientation(6, number=0)), 1),
    "other tags only": (tiff(MAKER), 1),
    "no entries": (tiff(), 1),
    "more entries claimed than there are": (tiff(SIX, count=60000), 6),
    "entries beyond the end": (tiff(SIX)[:4] + b"\xff\xff\xff\xff" + tiff(SIX)[8:], 1),
    "unknown byte order": (b"XX" + tiff(SIX)[2:], 1),
} | {f"cut after {count} bytes": (tiff(SIX)[:count], 1) for count in range(20)}
PHOTO = Image.new("RGB", (30, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", CASES)
def test_exif_data(tmp_path, name, kind):
    data, expected = CASES[name]
    contents = encoded(PHOTO, kind, exif=b"Exif\0\0" + data)
    assert_orientation(tmp_path, contents, expected)


def assert_orientation(folder, contents, expected):
    """The graph, the index of a data set, and the programs of `serving` read the same."""
    (folder / "a").write_bytes(contents)
    with Image.open(folder / "a") as image:
        of_serving = upright.orientation(image)
    of_index = read_image_header(folder / "a").orientation
    assert (read_orientation(contents).numpy(), of_index, of_serving) == (expected,) * 3


def segment(marker, data):
    return bytes([255, marker]) + struct.pack(">H", len(data) + 2) + data


EXIF = segment(0xE1, b"Exif\0\0" + tiff(SIX))
JPEG = encoded(PHOTO, "JPEG")


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (b"", 1),
        (EXIF, 6),
        (segment(0xFE, b"comment") + segment(0xE2, bytes(65000)) * 3 + EXIF, 6),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), 1),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP) + EXIF, 6),
        (b"\xff\xff\xff" + EXIF, 6),
        (EXIF + segment(0xE1, b"Exif\0\0" + tiff(orientation(3))), 6),
        (segment(0xE2, EXIF), 1),
        (segment(0xE1, b"Exif\0\0Exif\0\0" + tiff(SIX)), 1),
    ],
    ids=(
        "none",
        "alone",
        "later",
        "XMP",
        "after XMP",
        "after fill bytes",
        "two",
        "within another",
        "doubled",
    ),
)
@pytest.mark.parametrize("with_jfif", [True, False])
def test_segments_of_a_jpeg(tmp_path, segments, expected, with_jfif):
    contents = JPEG[:20] + segments + JPEG[20:] if with_jfif else JPEG[:2] + segments + JPEG[20:]
    assert_orientation(tmp_path, contents, expected)


def test_the_search_is_bounded():
    comments = segment(0xFE, b"") * (MAX_BLOCKS - 1)
    assert read_orientation(JPEG[:2] + comments + EXIF + JPEG[20:]).numpy() == 6
    assert read_orientation(JPEG[:2] + segment(0xFE, b"") + comments + EXIF + JPEG[20:]).numpy() == 1


def test_any_bytes():
    """Files that are cut anywhere, and starts that are followed by nonsense."""
    read = tf.function(read_orientation, input_signature=[tf.TensorSpec([], tf.string)])
    files = [encoded(PHOTO, kind, exif=b"Exif\0\0" + tiff(SIX)) for kind in ("JPEG", "PNG", "WEBP")]
    for contents in files:
        for length in range(0, len(contents), 5):
            assert read(contents[:length]).numpy() in (1, 6)
        for start in range(2, 60, 3):
            for byte in (b"\xff", b"\0", b"\x80"):
                assert 1 <= read(contents[:start] + byte * 40).numpy() <= 8


def test_a_chunk_of_a_png_after_the_pixels_is_ignored(tmp_path):
    contents = encoded(PHOTO, "PNG", exif=b"Exif\0\0" + tiff(SIX))
    start = contents.index(b"eXIf") - 4
    size = 12 + len(tiff(SIX))
    moved = contents[:start] + contents[start + size : -12] + contents[start : start + size] + contents[-12:]
    assert_orientation(tmp_path, contents, 6)
    assert_orientation(tmp_path, moved, 1)
