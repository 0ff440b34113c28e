"""The image files that the arguments of a command stand for."""

import pytest
from image_files import encoded, noise

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A folder with images of several endings, other files, and an image one level down."""
    for name in ("b.JPG", "a.bmp", "e[1].png", "notes.txt", ".b.JPG", "deep/c.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["."], ["a.bmp", "b.JPG", "e[1].png"]),
        (["deep", "b.JPG"], ["deep/c.jpeg", "b.JPG"]),
        (["*.bmp"], ["a.bmp"]),
        (["**/*.jp*"], ["deep/c.jpeg"]),
        (["e[1].png"], ["e[1].png"]),
        (["notes.txt"], ["notes.txt"]),
        (["deep/c.jpeg", "deep", "*/c.*"], ["deep/c.jpeg"]),
    ],
)
def test_images_of_names(folder, names, found):
    paths = find_images([f"{folder}/{name}" for name in names])
    assert [path.resolve().relative_to(folder.resolve()).as_posix() for path in paths] == found


@pytest.mark.parametrize("name", ["gone.png", "*.gif", "empty"])
def test_name_without_an_image(folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no image found: .*; name files, folders with images, or patterns"):
        find_images([f"{folder}/a.bmp", f"{folder}/{name}"])


def test_folder_of_photographs_of_all_kinds(tmp_path, capsys):
    read = {
        "b.jfif": "JPEG",
        "c.webp": "WEBP",
        "d": "PNG",
        "e.jpg_large": "JPEG",
        "f.x": "BMP",
        "g.1": "WEBP",
    }
    read |= {"h.mpo": "MPO", "i.JPE": "JPEG", "j.heic": "JPEG"}
    for name, kind in read.items():
        (tmp_path / name).write_bytes(encoded(noise(4, 4), kind))
    for name in ("k.HEIC", "l.heic", "m.avif", "n.tif", "o.CR2"):
        (tmp_path / name).write_bytes(encoded(noise(4, 4), "TIFF"))
    (tmp_path / "p.txt").write_text("BMW and other cars")
    assert [path.name for path in find_images([str(tmp_path)])] == list(read)
    assert capsys.readouterr().err == (
        f"note: left out: 1 .avif file, e.g. {tmp_path}/m.avif, 1 .cr2 file, e.g. {tmp_path}/o.CR2, "
        f"2 .heic files, e.g. {tmp_path}/k.HEIC, 1 .tif file, e.g. {tmp_path}/n.tif; "
        "convert them to JPEG or PNG\n"
    )
    assert find_images([str(tmp_path / "l.heic")]) == [tmp_path / "l.heic"]
    assert capsys.readouterr().err == ""


def test_folder_without_an_image_that_can_be_read(tmp_path):
    (tmp_path / "a.HEIC").touch()
    with pytest.raises(InputError, match=r"no image found: .*; left out: 1 \.heic file, e\.g\. .*a\.H"):
        find_images([str(tmp_path)])
