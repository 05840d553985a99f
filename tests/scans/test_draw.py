"""Pictures say what the index says: in the docstrings, as text, as PNG, and on the command line."""

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba import errors, scans
from vimamba.scans import flat, spatiotemporal
from vimamba.scans.draw import main, picture, save_png

ROOT = Path(__file__).parents[2]


def drawn(docstring):
    """The second paragraph of a docstring."""
    return textwrap.dedent(inspect.cleandoc(docstring).split('\n\n')[1])


@pytest.mark.parametrize('name', flat.__all__)
def test_the_docstring_of_an_order_shows_its_picture(name):
    grid = (4, 4) if name.startswith(('hilbert', 'strided')) else (3, 4)
    order = scans.create_order(name, grid)
    assert drawn(getattr(flat, name).__doc__) == textwrap.dedent(picture(order))


@given(
    st.sampled_from(['raster', 'bidirectional']),
    st.one_of(
        st.tuples(st.integers(1, 20)),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    ),
)
@settings(deadline=None, max_examples=50)
def test_every_cell_shows_the_step_at_which_it_is_read(name, grid):
    order = scans.create_order(name, grid)
    for k in range(order.routes):
        route = scans.ScanOrder(order.index[k : k + 1], grid)
        frames, height, width = (1,) * (3 - len(grid)) + grid
        shown = [[line.split() for line in row.split('|')] for row in picture(route).splitlines()]  # (h, t, w)
        steps = [int(shown[y][t][x]) for t in range(frames) for y in range(height) for x in range(width)]
        assert steps == order.inverse[k].tolist()


def test_the_docstring_of_the_module_over_clips_shows_its_pictures():
    names = ['spatial_first', 'temporal_first', 'tube2']
    orders = [scans.create_order(name, (3, 2, 2)) for name in names]
    together = orders[0] | orders[1] | orders[2]
    assert drawn(spatiotemporal.__doc__) == textwrap.dedent(picture(together, names))


def test_the_frames_of_a_clip_stand_side_by_side():
    assert picture(scans.raster((2, 2, 3))) == ' 0  1  2 |  6  7  8\n 3  4  5 |  9 10 11'


def test_class_tokens_have_a_line_of_their_own():
    assert picture(scans.bidirectional((1, 4)).insert(1)).splitlines() == [
        'route 0        route 1 back',
        '0 2 3 4        4 2 1 0',
        'class 1        class 3',
    ]


@pytest.mark.parametrize(('width', 'lines'), [(100, 5), (58, 5), (30, 11), (10, 23)])
def test_panels_that_do_not_fit_go_below(width, lines):
    text = picture(scans.cross((4, 4)), width=width).splitlines()
    assert len(text) == lines
    assert max(map(len, text)) <= max(width, len('route 3 back'))


@pytest.fixture
def paint(tmp_path):
    """order -> the pixels of its PNG as (H, W, 3) floats in [0, 1]."""
    image = pytest.importorskip('matplotlib.image')

    def pixels(order):
        path = tmp_path / 'order.png'
        save_png(order, path, title='an order')
        return torch.from_numpy(image.imread(path))[..., :3]

    return pixels


def centre(pixels, color):
    """Where the marker of that colour is: (row, column) of its pixels, the legend left out."""
    panels = pixels[: int(len(pixels) * 0.85)]
    return ((panels - torch.tensor(color)).abs().amax(-1) < 0.02).nonzero().double().mean(0)


@pytest.mark.parametrize('name', ['raster', 'column', 'snake', 'zigzag', 'hilbert', 'strided'])
def test_a_png_marks_where_the_route_starts_and_ends(paint, name):
    grid = (4, 6)
    forth = scans.create_order(name, grid)
    start, end = (centre(paint(forth), color) for color in [(0.173, 0.627, 0.173), (0.839, 0.153, 0.157)])
    first, last = (torch.tensor([row // grid[1], row % grid[1]]) for row in forth.index[0, [0, -1]].tolist())
    assert torch.equal((end - start).div(30).round().sign(), (last - first).sign().double())


@pytest.mark.parametrize(
    'order',
    [
        scans.bidirectional((7,)),
        scans.bidirectional((2, 3, 4)),
        scans.cross((1, 1)),
        scans.cross((1, 9)),
        scans.raster((3, 3)).insert(4).insert(0),
        scans.hilbert((17, 9)),
    ],
    ids=repr,
)
def test_every_kind_of_grid_is_painted(paint, order):
    pixels = paint(order)
    assert min(pixels.shape[:2]) > 100
    assert max(pixels.shape[:2]) < 3000
    assert len(pixels.view(-1, 3).unique(dim=0)) > 20


def test_a_png_without_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(errors.UsageError, match='needs matplotlib: run `pip install matplotlib`'):
        save_png(scans.raster((2, 2)), tmp_path / 'order.png')


def test_matplotlib_is_imported_for_a_png_only():
    code = 'import sys, vimamba.scans.draw as d; d.main(["cross", "2x2"]); sys.exit("matplotlib" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True).returncode == 0


def test_the_command_line_lists_the_orders(capsys):
    assert main([]) == 0
    orders, suffixes = capsys.readouterr().out.split('\n\n')
    assert [line.split()[0] for line in orders.splitlines()] == scans.list_orders()
    assert '_bidirectional' in suffixes
    assert '_reversed' in suffixes


def test_the_command_line_draws_4x6_unless_told(capsys):
    assert main(['hilbert']) == 0
    assert capsys.readouterr().out.rstrip() == picture(scans.hilbert((4, 6)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['crss', '4x6'], "unknown scan order 'crss': did you mean 'cross'?"),
        (
            ['axes', '3x3'],
            "'axes' is a schedule, of an order for each layer: draw one of column, column_reversed, raster,",
        ),
        (['cross', '4by6'], "grid: expected sizes joined by x, such as 4x6, got '4by6'"),
        (['cross', '0x6'], "grid: expected (H, W), sizes >= 1, for scan order 'cross', got (0, 6)"),
        (['cross', '4'], "grid: expected (H, W), sizes >= 1, for scan order 'cross', got (4,)"),
        (['cross', '9999x9999'], 'grid: expected at most 16384 cells to draw, got 99980001'),
        (['cross', '4x6', '--png', 'no/such/folder/cross.png'], 'cannot write no/such/folder/cross.png: '),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_exit_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: main(arguments))
    assert stop.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f'error: {message}')
    assert stderr.count('\n') == 1


def draw(*arguments):
    command = [sys.executable, '-m', 'vimamba.scans.draw', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'COLUMNS': '80'})


def test_the_module_runs_as_a_command(tmp_path):
    pytest.importorskip('matplotlib')
    path = tmp_path / 'cross.png'
    done = draw('cross', '4x6', '--png', str(path))
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(picture(scans.cross((4, 6)), width=80))
    assert done.stdout.endswith(f'wrote {path}\n')
    assert path.read_bytes().startswith(b'\x89PNG')


def test_the_command_exits_with_2_and_one_line_on_a_mistake():
    done = draw('crss', '4x6')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith("error: unknown scan order 'crss': did you mean 'cross'?")
    assert done.stderr.count('\n') == 1
