"""The font in which the names of classes are drawn, whatever script they are written in."""

import dataclasses
import functools
import itertools
import string
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import ImageFont

from refinedet_tf.errors import listed

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_ALWAYS_NEEDED = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")
"""What is drawn next to a name, such as a score, and what stands for letters without a glyph."""


@dataclasses.dataclass(frozen=True)
class NameFont:
    """A font and the names that can be drawn in it.

    Attributes:
        file: the file of the font, or None for the one that Pillow brings along, which draws ASCII.
        names: the names, label 1 first. Where the font lacks letters of a name, the name begins with its
            label and has Python's escapes for these letters, `2 \\u5b89\\u5168 vest`, so that names differ.
    """

    file: str | None
    names: tuple[str, ...]

    def of_size(self, size: int) -> Font:
        """Returns the font for Pillow; `size` is in pixels."""
        return _load(self.file, size)


PLAIN = NameFont(None, ())
"""Pillow's own font."""


def name_font(class_names: Sequence[str]) -> NameFont:
    """Finds a font for the names of classes: Pillow's own, Matplotlib's, or the best one of the system.

    Warns:
        UserWarning: no font has all letters of the names. It is given once per process for the same names.
    """
    return _name_font(tuple(class_names))


@functools.lru_cache(maxsize=16)
def _name_font(names: tuple[str, ...]) -> NameFont:
    letters = frozenset("".join(names))
    if letters <= _ALWAYS_NEEDED:
        return NameFont(None, names)
    file, missing = _best_font(letters)
    if not missing:
        return NameFont(file, names)
    drawn = tuple(
        f"{label} {''.join(ascii(letter)[1:-1] if letter in missing else letter for letter in name)}"
        if missing & set(name)
        else name
        for label, name in enumerate(names, 1)
    )
    without = [name for name in names if missing & set(name)]
    warnings.warn(
        f"no font of this system has all letters of {listed(without, 3)}: drawn as "
        f"{listed([name for name in drawn if name not in names], 3)}; install a font that has them, "
        "for example one of the Noto family",
        stacklevel=3,
    )
    return NameFont(file, drawn)


def _best_font(letters: frozenset[str]) -> tuple[str | None, frozenset[str]]:
    """Returns the file of the first font that lacks the fewest of the letters, and those that it lacks."""
    import matplotlib

    # It has Latin, Greek, Cyrillic and more, and is the same on all systems.
    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    best, fewest = None, letters - _ALWAYS_NEEDED
    for file in itertools.chain([str(own)], _system_fonts()):
        missing = _missing(file, letters)
        if missing is not None and len(missing) < len(fewest):
            best, fewest = file, missing
        if not fewest:
            break
    return best, fewest


def _system_fonts() -> Iterator[str]:
    """Yields the files of the system's fonts, those of normal weight first, in the same order every time."""
    from matplotlib.font_manager import findSystemFonts

    yield from sorted(findSystemFonts(), key=lambda file: ("regular" not in Path(file).name.lower(), file))


def _missing(file: str, letters: frozenset[str]) -> frozenset[str] | None:
    """Returns the letters that a font lacks; None if it cannot be used."""
    from matplotlib.ft2font import FT2Font

    # The font of last resort has the same glyph for all letters of a script.
    if "lastresort" in Path(file).name.lower():
        return None
    try:
        font = FT2Font(file)
        has_glyph = {letter: font.get_char_index(ord(letter)) > 0 for letter in letters | _ALWAYS_NEEDED}
        ImageFont.truetype(file, 12)
    except (OSError, RuntimeError, ValueError):
        return None
    if not font.scalable or not all(has_glyph[letter] for letter in _ALWAYS_NEEDED):
        return None
    return frozenset(letter for letter in letters if not has_glyph[letter])


@functools.lru_cache(maxsize=64)
def _load(file: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
