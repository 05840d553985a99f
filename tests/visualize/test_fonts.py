"""Promises: letters are drawn where a font has them, and a warning says once where none has; a cut text says so."""

import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image, ImageDraw

from vimamba.visualize import fonts
from vimamba.visualize.plots import plot_confusion

STIX = str(Path(matplotlib.get_data_path(), 'fonts/ttf/STIXGeneral.ttf'))  # it has Ⓐ, which DejaVu Sans lacks


@pytest.fixture(autouse=True)
def system(monkeypatch):
    """The files of fonts that the system has."""
    cached = [fonts._file, fonts._installed, fonts._warn]
    for function in cached:
        function.cache_clear()
    files = []
    monkeypatch.setattr('matplotlib.font_manager.findSystemFonts', lambda: list(files))
    yield files
    for function in cached:
        function.cache_clear()


def drawn(text):
    image = Image.new('L', (120, 30), 255)
    ImageDraw.Draw(image).text((4, 4), text, 0, fonts.font(14, text))
    return np.asarray(image)


def test_letters_of_many_languages_are_drawn_each_as_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pictures = [drawn(text) for text in ('ü', 'ß', 'ł', 'я', 'λ', 'ש')]
    box = drawn('\U0010ffff')
    assert not any(np.array_equal(a, b) for i, a in enumerate(pictures) for b in [box, *pictures[:i]])


def test_what_dejavu_lacks_is_drawn_in_a_font_that_has_it(system, tmp_path, monkeypatch):
    """Also in one that is newer than matplotlib's list of fonts."""
    known = [entry for entry in fontManager.ttflist if entry.name != 'STIXGeneral']
    monkeypatch.setattr(fontManager, 'ttflist', known)
    (tmp_path / 'broken.ttf').write_bytes(b'no font')
    system += [str(tmp_path / 'broken.ttf'), STIX]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert fonts.font(14, 'Ⓐ').getname()[0] == 'STIXGeneral'
        assert fonts.families(['run', 'Ⓐ', 'über', 'Ⓐ b']) == ['STIXGeneral']
        for letter in 'ⒶⒷ':
            plot_confusion(np.eye(2, dtype=int), [letter, 'b'], tmp_path / f'{letter}.png')
    assert (tmp_path / 'Ⓐ.png').read_bytes() != (tmp_path / 'Ⓑ.png').read_bytes()
    assert fonts.font(14, 'über').getname()[0] == 'DejaVu Sans'


def test_letters_that_no_font_has_are_told_of_once(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        plot_confusion(np.eye(3, dtype=int), ['歩く', '走る', '飛ぶ'], tmp_path / 'a.png')
        drawn('飛ぶ')
    assert len(told) == 1, [str(warning.message) for warning in told]
    assert 'no installed font has' in str(told[0].message)


def test_a_name_is_not_taken_for_a_formula(tmp_path):
    plot_confusion(np.eye(2, dtype=int), ['$_{$', 'b'], tmp_path / 'a.png')


def test_without_matplotlib_something_is_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.font_manager', None)
    assert (drawn('run, grüßen, 歩く') < 128).any()


@pytest.mark.parametrize('middle', [False, True])
def test_a_cut_text_fits_and_keeps_what_it_can(middle):
    text, font = 'walk, slow, with a long explanation of it 17.mp4', fonts.font(14)
    assert fonts.fitting(text, font.getlength(text), font, middle) == text
    for room in (40, 100, 200):
        short = fonts.fitting(text, room, font, middle)
        assert room - 15 < font.getlength(short) <= room
        head, tail = short.split('…')
        assert text.startswith(head)
        assert text.endswith(tail)
        assert bool(tail) == middle
    assert fonts.fitting(text, 0, font, middle) == ''
