"""Promises: every file is drawn above its labels, on a sheet that can be read at a glance; bars are as long as the
probabilities; no two files have the same name.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vimamba.errors import UsageError
from vimamba.visualize.contact_sheet import (
    BETWEEN,
    FRAME,
    GAP,
    LINE,
    SHOWN,
    SIDE,
    Row,
    Tile,
    contact_sheet,
    distinct,
    sheet,
)
from vimamba.visualize.samples import draw_answers


@pytest.fixture
def predictions(tmp_path):
    found = []
    for i in range(60):
        path = tmp_path / f'image with a very long name that cannot fit {i}.png'
        Image.new(['L', 'RGB', 'RGBA'][i % 3], (1 + 7 * i, 30), 'red' if i % 3 else 90).save(path)
        names = ['walk, slow', 'Überlänge einer sehr ausführlichen Bezeichnung', 'c', 'd']
        found.append(SimpleNamespace(path=str(path), classes=names, scores=[0.75, 0.25, 0.0, 0.0]))
    return found


@pytest.mark.parametrize(('n', 'columns', 'rows'), [(1, 1, 1), (4, 2, 2), (9, 3, 3), (60, 7, 7)])
def test_the_sheet_has_a_place_for_each_image_up_to_its_limit(predictions, n, columns, rows):
    square = Image.new('RGB', (300, 300), 'red')
    for prediction in predictions:
        square.save(prediction.path)
    drawn = contact_sheet(predictions[:n])
    assert drawn.size == (columns * (SIDE + GAP) + GAP, rows * (SIDE + 5 * LINE + GAP) + GAP)
    assert (np.asarray(drawn) == (255, 0, 0)).all(-1).sum() == min(n, SHOWN) * SIDE**2


def blue(picture, row):
    return int((np.abs(picture[row].astype(int) - (0xBF, 0xD7, 0xF0)).sum(-1) == 0).sum())


def test_bars_are_as_long_as_the_probabilities(predictions):
    drawn = np.asarray(contact_sheet(predictions[30:31]))
    first = drawn.shape[0] - GAP - 4 * LINE
    for j, score in enumerate((0.75, 0.25)):
        assert abs(blue(drawn, first + j * LINE + 3) - score * SIDE) <= 2  # above the text


@pytest.mark.parametrize(('asked', 'shown'), [(1, 1), (4, 4), (10, 10), (400, 10)])
def test_as_many_classes_are_drawn_as_asked_within_reason(predictions, asked, shown):
    predictions[9].classes, predictions[9].scores = [f'class {i}' for i in range(asked)], [1.0] * asked
    column = np.asarray(contact_sheet(predictions[9:10]))[:, GAP]
    assert 1 + (np.diff(np.flatnonzero((column == (0xBF, 0xD7, 0xF0)).all(-1))) > 1).sum() == shown


def test_classes_that_differ_behind_a_comma_look_different():
    image = Image.new('RGB', (SIDE, SIDE))
    slow, fast = (np.asarray(sheet([Tile([image], 'a.png', [Row(f'walk, {how}', 0.5)])])) for how in ('slow', 'fast'))
    assert not np.array_equal(slow, fast)


@pytest.mark.parametrize('frames', [2, 5, 8])
@pytest.mark.parametrize('clips', [1, 3, 25])
def test_strips_are_narrow_and_their_frames_stand_apart(frames, clips):
    red = Image.new('RGB', (160, 90), 'red')
    drawn = np.asarray(sheet([Tile([red] * frames, f'{i}.mp4', [Row('run', 0.5), Row('walk')]) for i in range(clips)]))
    assert drawn.shape[1] <= 2000
    assert drawn.shape[0] <= 3 * drawn.shape[1]
    line = (drawn[GAP + 2, : frames * (FRAME + BETWEEN) + GAP] == (255, 0, 0)).all(-1).astype(int)
    assert np.flatnonzero(np.diff(line) == 1).tolist() == [GAP - 1 + i * (FRAME + BETWEEN) for i in range(frames)]
    assert line.sum() == frames * FRAME


def test_files_of_one_name_are_told_apart_by_their_folders():
    paths = ['/data/val/run/a/0.mp4', '/data/val/walk/a/0.mp4', '/data/val/walk/b/1.mp4', 'digits/7', 'digits/8']
    assert distinct(paths) == ['run/a/0.mp4', 'walk/a/0.mp4', '1.mp4', 'digits/7', 'digits/8']
    assert distinct(['0.mp4', 'a/0.mp4', 'a/0.mp4', '']) == ['0.mp4', 'a/0.mp4', 'a/0.mp4', '']


def test_an_unwritable_file_is_named(predictions):
    answers = SimpleNamespace(found=predictions[:1], labels=True, what='image')
    with pytest.raises(UsageError, match=r'/proc/none/sheet\.png: cannot be written'):
        draw_answers(answers, '/proc/none/sheet.png')
