"""Promises: each plot is a PNG of what it was given; matplotlib is asked for when it is needed, not before."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vimamba.errors import UsageError
from vimamba.visualize.plots import plot_confusion, plot_curves, plot_scaling

CLASSES = ['tench, Tinca tinca', 'great white shark, white shark, man-eater', 'hen']


def records(epochs=4, steps=3):
    rows = []
    for epoch in range(epochs):
        for step in range(1, steps + 1):
            rows.append(
                {'kind': 'train', 'epoch': epoch + step / steps, 'step': 0, 'loss': 2.0 / (epoch + 1), 'lr': 1e-3}
            )
        rows.append({'kind': 'val', 'epoch': epoch + 1, 'step': 0, 'loss': 1.0, 'top1': 50.0 + 10 * epoch})
    return rows


def pixels(path):
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return np.asarray(image.convert('RGB')).astype(int)


def coloured(picture, colour):
    """How many pixels are nearly of a colour."""
    return int((np.abs(picture - colour).sum(-1) < 40).sum())


BLUE = (31, 95, 168)


def test_curves_from_records_and_from_the_log_are_the_same_picture(tmp_path):
    plot_curves(records(), tmp_path / 'a.png')
    (tmp_path / 'log.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records()))
    plot_curves(tmp_path / 'log.jsonl', tmp_path / 'new' / 'b.png')
    assert np.array_equal(pixels(tmp_path / 'a.png'), pixels(tmp_path / 'new' / 'b.png'))
    assert coloured(pixels(tmp_path / 'a.png'), BLUE) > 500  # the validation curves
    plot_curves(records()[:6], tmp_path / 'c.png')
    assert not np.array_equal(pixels(tmp_path / 'a.png'), pixels(tmp_path / 'c.png'))


@pytest.mark.parametrize(
    'rows',
    [
        records(1, 1),
        [r for r in records() if r['kind'] == 'train'],
        [r for r in records() if r['kind'] == 'val'],
        [{**r, 'lr': 0.0} for r in records()],
        [{**r, 'top1': math.nan} if r['kind'] == 'val' and r['epoch'] < 3 else r for r in records()],
        [{**r, 'top1': math.nan} if r['kind'] == 'val' else r for r in records()],
    ],
    ids=['one epoch', 'no validation', 'no training', 'zero rate', 'no metric at first', 'no metric'],
)
def test_curves_of_a_partial_log(rows, tmp_path):
    plot_curves(rows, tmp_path / 'a.png')
    assert pixels(tmp_path / 'a.png').shape == (495, 1650, 3)


def test_confusion_shows_mistakes_in_red_and_nothing_red_without_any(tmp_path):
    right = np.diag([9, 8, 7])
    wrong = right + np.array([[0, 0, 2], [0, 0, 0], [1, 0, 0]])

    def reddish(matrix):
        plot_confusion(torch.tensor(matrix), CLASSES, tmp_path / 'a.png')
        picture = pixels(tmp_path / 'a.png')
        return int((picture[..., 0] - picture[..., 2] > 60).sum())

    assert reddish(right) == 0
    assert reddish(wrong) > 1000


@pytest.mark.parametrize('n', [1, 2, 30, 31, 80, 101, 200])
def test_confusion_of_any_number_of_classes(n, tmp_path):
    plot_confusion(np.eye(n, dtype=int), [f'class {i}' for i in range(n)], tmp_path / 'a.png')
    assert min(pixels(tmp_path / 'a.png').shape[:2]) > 300


def test_confusion_names_eighty_classes(tmp_path):
    """Of other names, the picture differs beside the matrix."""
    left = []
    for name in ('a', 'b'):
        plot_confusion(np.eye(80, dtype=int), [f'{name} {i}' for i in range(80)], tmp_path / 'a.png')
        left.append(pixels(tmp_path / 'a.png')[:, :150])
    assert (left[0] != left[1]).any(-1).sum() > 80


def test_confusion_of_nothing_is_drawn(tmp_path):
    plot_confusion(np.zeros((3, 3), int), CLASSES, tmp_path / 'a.png')
    pixels(tmp_path / 'a.png')


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda out: plot_curves([], out), 'records: expected'),
        (lambda out: plot_confusion(np.eye(2), CLASSES, out), r'matrix: expected shape \(3, 3\)'),
        (lambda out: plot_confusion(np.eye(3), CLASSES, '/proc/none/a.png'), '/proc/none/a.png: cannot be written'),
    ],
)
def test_a_mistake_is_named(call, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        call(tmp_path / 'a.png')


def test_without_matplotlib_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UsageError, match=r'pip install vimamba\[train\]'):
        plot_confusion(np.eye(3, dtype=int), CLASSES, tmp_path / 'a.png')


def test_importing_the_module_imports_no_matplotlib():
    code = "import sys, vimamba.visualize.plots; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_scaling_is_drawn(tmp_path):
    lines = {'linear': [(100, 1.0), (200, 2.0), (400, 4.0)], 'quadratic': [(100, 1.0), (400, 16.0)]}
    plot_scaling({'one': lines, 'two': lines}, tmp_path / 'new' / 'scaling.png')
    assert Image.open(tmp_path / 'new' / 'scaling.png').size[0] > 1000
    plot_scaling({'one': lines, 'two': lines}, tmp_path / 'memory.png', 'frames', ('ms', 'MiB'))
    assert (pixels(tmp_path / 'memory.png') != pixels(tmp_path / 'new' / 'scaling.png')).any()
