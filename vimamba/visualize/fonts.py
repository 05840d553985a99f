"""Fonts that have the letters of a text: matplotlib's DejaVu Sans, else the first installed one that has them all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

from PIL import ImageFont

__all__ = ['Font', 'families', 'fitting', 'font', 'font_file']

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_file(text: str) -> str | None:
    """The file of a font that has the letters of a text; None without matplotlib."""
    return _file(frozenset(ord(letter) for letter in text if letter.isprintable() and not letter.isspace()))


def font(size: int, text: str = '') -> Font:
    """A font for PIL, ``size`` pixels high; without matplotlib, PIL's default, which has little more than ASCII."""
    return _face(size, font_file(text))


def families(texts: Iterable[str]) -> list[str]:
    """The families to append to matplotlib's ``font.family`` for letters that DejaVu Sans lacks."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    files = dict.fromkeys(file for text in texts if (file := font_file(text)) and file != font_file(''))
    for file in files:
        fontManager.addfont(file)  # its list may be older than the font
    return [FT2Font(file).family_name for file in files]


def fitting(text: str, room: float, font: Font, middle: bool = False) -> str:
    """Cuts a text to a width in pixels: at its end, or in its middle, where both ends tell it from others."""
    if font.getlength(text) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        end = kept // 2 if middle else 0
        short = f'{text[: kept - end]}…{text[len(text) - end :]}'
        if font.getlength(short) <= room:
            return short
    return ''


@cache
def _face(size: int, file: str | None) -> Font:
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


@cache
def _file(letters: frozenset[int]) -> str | None:
    try:
        from matplotlib.font_manager import findfont
    except ImportError:
        return None
    default = findfont('DejaVu Sans')
    if letters <= _charmap(default):
        return default
    file = next((file for file in _installed() if letters <= _charmap(file)), None)
    return file or _warn() or default


@cache
def _charmap(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


@cache
def _installed() -> list[str]:
    """The scalable fonts of the system, upright ones of regular weight first."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    found = []
    for file in findSystemFonts():
        try:
            face = FT2Font(file)
        except (OSError, RuntimeError):  # not a font that FreeType reads
            continue
        if face.scalable:
            found.append((face.style_name not in ('Regular', 'Book', 'Roman', 'Normal'), file))
    return [file for _, file in sorted(found)]


@cache
def _warn() -> None:
    """Once: there may be thousands of names."""
    missing = 'names have letters that no installed font has, drawn as boxes'
    warnings.warn(f'{missing}: install a font that has them, such as Noto Sans CJK', stacklevel=2)
