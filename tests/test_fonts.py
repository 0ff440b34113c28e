"""The font of class names: which one is taken, and what is drawn where none has the letters."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from refinedet_tf import fonts
from refinedet_tf.drawing import draw_detections
from refinedet_tf.evaluation.result_files import write_curves
from refinedet_tf.evaluation.results import ClassResult, EvaluationResult
from refinedet_tf.fonts import PLAIN, name_font

CHINESE = ("安全帽", "反光衣")


@pytest.fixture(autouse=True)
def no_memory():
    fonts._name_font.cache_clear()
    yield
    fonts._name_font.cache_clear()


@pytest.fixture
def system_fonts(monkeypatch):
    """The files that the system has; a test may add to them."""
    files = []
    monkeypatch.setattr(fonts, "_system_fonts", lambda: iter(files))
    return files


def write_font(path, letters):
    """Writes a font in which every letter is a bar of another height."""
    builder = FontBuilder(1000)
    names = {ord(letter): f"glyph{ord(letter)}" for letter in letters}
    glyphs = {}
    for number, name in enumerate([".notdef", *names.values()]):
        pen = TTGlyphPen(None)
        for place, point in enumerate(((50, 0), (50, 100 + 5 * number), (450, 100 + 5 * number), (450, 0))):
            (pen.lineTo if place else pen.moveTo)(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (500, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupPost()
    builder.save(path)
    return str(path)


def drawn(names):
    """One picture per name, of which only the name differs."""
    image, box = np.full((120, 320, 3), 90, np.uint8), np.array([[0.4, 0.1, 0.9, 0.9]])
    return [draw_detections(image, box, np.array([1]), [name], np.array([0.9])) for name in names]


def test_pillows_font_for_ascii_and_matplotlibs_for_other_alphabets(system_fonts):
    assert name_font(["car", "cat $"]) == fonts.NameFont(PLAIN.file, ("car", "cat $"))
    for names in (("каска", "жилет"), ("Möwe", "Überholspur"), ("κράνος", "car")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            font = name_font(names)
            first, second = drawn(names)
        assert font.names == names and font.file.endswith("DejaVuSans.ttf")
        assert not np.array_equal(first, second)


def test_a_font_of_the_system_that_has_the_letters(system_fonts, tmp_path):
    ascii_letters = "".join(fonts._ALWAYS_NEEDED)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    system_fonts += [
        str(tmp_path / "broken.ttf"),
        write_font(tmp_path / "no digits.ttf", "安全帽反光衣"),
        write_font(tmp_path / "LastResort.ttf", ascii_letters + "安全帽反光衣"),
        write_font(tmp_path / "half.ttf", ascii_letters + "安全帽"),
        write_font(tmp_path / "whole.ttf", ascii_letters + "安全帽反光衣"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        font = name_font(CHINESE)
    assert font == fonts.NameFont(system_fonts[-1], CHINESE)
    assert font.of_size(20).getlength("安全") == 20
    first, second = drawn(CHINESE)
    assert not np.array_equal(first, second)


def test_label_and_escapes_where_no_font_has_the_letters(system_fonts, tmp_path):
    with pytest.warns(UserWarning, match="no font of this system has all letters of 安全帽, 反光衣") as notes:
        font = name_font(("car", *CHINESE, "安 vest"))
        assert name_font(("car", *CHINESE, "安 vest")) is font
    assert len(notes) == 1
    assert font.names == ("car", r"2 \u5b89\u5168\u5e3d", r"3 \u53cd\u5149\u8863", r"4 \u5b89 vest")
    with pytest.warns(UserWarning):
        first, second = drawn(CHINESE)
    assert not np.array_equal(first, second)
    # The font that lacks the fewest letters is taken.
    system_fonts.append(write_font(tmp_path / "half.ttf", "".join(fonts._ALWAYS_NEEDED) + "安全帽反"))
    with pytest.warns(UserWarning, match="of 反光衣: drawn as"):
        assert name_font(CHINESE).names == ("安全帽", r"2 反\u5149\u8863")


def test_titles_of_curves_have_all_glyphs_and_are_no_formulas(system_fonts, tmp_path):
    points = np.linspace(0, 1, 5)
    result = ClassResult(0.5, points, points[::-1], points[::-1], 4, 5)
    names = ("каска", *CHINESE, r"$\a$")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        write_curves(EvaluationResult("voc", 0.5, dict.fromkeys(names, result), 3), tmp_path / "curves.png")
    assert [str(note.message).partition(":")[0] for note in notes] == [
        "no font of this system has all letters of 安全帽, 反光衣"
    ]
