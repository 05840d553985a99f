"""Fonts that have the letters of a text: matplotlib's DejaVu Sans, else the first installed one that has them all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

import numpy as np
from PIL import ImageFont

__all__ = ['families', 'fitting', 'font']


def font(size: int, text: str = '') -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """For PIL, of so many pixels; where matplotlib is not installed PIL's own, which has few letters but ASCII."""
    return _face(size, _file(_letters(text)))


def families(texts: Iterable[str]) -> list[str]:
    """For matplotlib's ``font.family``, besides its own: those that have what DejaVu Sans lacks."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    own = _file(frozenset())
    files = dict.fromkeys(file for text in texts if (file := _file(_letters(text))) and file != own)
    for file in files:
        fontManager.addfont(file)  # its list may be older than the font
    return [FT2Font(file).family_name for file in files]


def fitting(text: str, room: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, middle: bool = False) -> str:
    """A text cut to a width in pixels: at its end, or in its middle, where both ends tell it from others."""
    if font.getlength(text) <= room:
        return text
    for kept in range(len(text) - 1, 0, -1):
        end = kept // 2 if middle else 0
        short = f'{text[: kept - end]}…{text[len(text) - end :]}'
        if font.getlength(short) <= room:
            return short
    return ''


def _letters(text: str) -> frozenset[str]:
    return frozenset(letter for letter in text if letter.isprintable() and not letter.isspace())


@cache
def _face(size: int, file: str | None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


@cache
def _file(letters: frozenset[str]) -> str | None:
    try:
        from matplotlib.font_manager import findfont
    except ImportError:
        return None
    own, codes = findfont('DejaVu Sans'), [ord(letter) for letter in letters]
    if np.isin(codes, _codes(own)).all():
        return own
    for file in _installed():
        if np.isin(codes, _codes(file)).all():
            return file
    _warn()
    return own


@cache
def _codes(file: str) -> np.ndarray:
    """The code points that a font has."""
    from matplotlib.ft2font import FT2Font

    return np.array(list(FT2Font(file).get_charmap()), dtype=np.int64)


@cache
def _installed() -> list[str]:
    """The scalable fonts of the system, upright ones of the usual weight first."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    found = []
    for file in findSystemFonts():
        try:
            face = FT2Font(file)
        except (OSError, RuntimeError):  # not a font that FreeType knows
            continue
        if face.scalable:
            found.append((face.style_name not in ('Regular', 'Book', 'Roman', 'Normal'), file))
    return [file for _, file in sorted(found)]


@cache
def _warn() -> None:
    """Once: there may be thousands of names."""
    missing = 'names have letters that no installed font has, drawn as boxes'
    warnings.warn(f'{missing}: install a font that has them, such as Noto Sans CJK', stacklevel=2)
