"""Promises: every image is drawn above its labels, and bars are as long as the probabilities."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vimamba.errors import UsageError
from vimamba.insight.contact_sheet import GAP, LINE, SHOWN, SIDE, contact_sheet


@pytest.fixture
def predictions(tmp_path):
    found = []
    for i in range(60):
        path = tmp_path / f'image with a very long name that cannot fit {i}.png'
        Image.new(['L', 'RGB', 'RGBA'][i % 3], (1 + 7 * i, 30), 'red' if i % 3 else 90).save(path)
        names = ['tench, Tinca tinca', 'Überlänge einer sehr ausführlichen Bezeichnung', 'c', 'd']
        found.append(SimpleNamespace(path=str(path), classes=names, scores=[0.75, 0.25, 0.0, 0.0]))
    return found


@pytest.mark.parametrize(('n', 'columns', 'rows'), [(1, 1, 1), (4, 4, 1), (5, 4, 2), (9, 6, 2), (60, 6, 8)])
def test_the_sheet_has_a_place_for_each_image_up_to_its_limit(predictions, n, columns, rows, tmp_path):
    assert contact_sheet(predictions[:n], tmp_path / 'sheet.png') == min(n, SHOWN)
    with Image.open(tmp_path / 'sheet.png') as sheet:
        assert sheet.size == (columns * (SIDE + GAP) + GAP, rows * (SIDE + 4 * LINE + GAP) + GAP)


def test_bars_are_as_long_as_the_probabilities(predictions, tmp_path):
    contact_sheet(predictions[:1], tmp_path / 'sheet.png')
    with Image.open(tmp_path / 'sheet.png') as sheet:
        sheet = np.asarray(sheet)
    for j, score in enumerate((0.75, 0.25)):
        row = sheet[GAP + SIDE + (j + 1) * LINE + 3]  # above the text
        length = (np.abs(row.astype(int) - (0xBF, 0xD7, 0xF0)).sum(-1) == 0).sum()
        assert abs(length - score * SIDE) <= 2


def test_an_unwritable_file_is_named(predictions):
    with pytest.raises(UsageError, match=r'/none/sheet\.png: cannot be written: No such file'):
        contact_sheet(predictions[:1], '/none/sheet.png')
