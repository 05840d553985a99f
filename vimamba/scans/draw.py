"""Draws scan orders as text and as PNG.

python -m vimamba.scans.draw                            lists the orders
python -m vimamba.scans.draw cross 4x6                  prints the step at which each cell is read
python -m vimamba.scans.draw cross 4x6 --png cross.png  also draws the routes into a file
"""

from __future__ import annotations

import argparse
import math
import operator
import os
import re
import shutil
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vimamba import scans
from vimamba.errors import UsageError, bad_argument, run

from .order import ORDERS, Grid, ScanOrder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ['main', 'picture', 'save_png']

_MOST_CELLS = 128 * 128  # more are not legible, in text or in a picture


def picture(order: ScanOrder, titles: Sequence[str] | None = None, width: int = 100) -> str:
    """Draws an order as text: one panel per route, with the step at which each cell is read.

    The frames of a clip are side by side; each class token has a line of its own.

    Args:
        order: any order.
        titles: one per panel; by default the number of the route, if there are several.
        width: characters per line; panels that do not fit go below.

    >>> print(picture(scans.create_order('snake_bidirectional', (2, 3))))
    route 0        route 1 back
    0 1 2          5 4 3
    5 4 3          0 1 2
    """
    titles = _titles(order) if titles is None else titles
    panels = [([title] if title else []) + _panel(order, k) for k, title in enumerate(titles)]
    column = max(len(line) for panel in panels for line in panel) + 3
    abreast = max(1, (width + 3) // column)
    blocks = []
    for first in range(0, len(panels), abreast):
        lines = zip_longest(*panels[first : first + abreast], fillvalue='')
        blocks.append('\n'.join(''.join(part.ljust(column) for part in line).rstrip() for line in lines))
    return '\n\n'.join(blocks)


def _titles(order: ScanOrder) -> list[str]:
    if order.routes == 1:
        return ['']
    return [f'route {k}' + ' back' * flag for k, flag in enumerate(order.flipped)]


def _panel(order: ScanOrder, route: int) -> list[str]:
    frames, height, width = _frames(order.grid)
    steps = order.inverse[route].tolist()
    digits = len(str(order.length - 1))
    cells = [f'{step:{digits}}' for row, step in enumerate(steps) if row not in order.class_rows]
    rows = [' '.join(cells[first : first + width]) for first in range(0, frames * height * width, width)]
    lines = [' | '.join(rows[line::height]) for line in range(height)]
    return lines + [f'class {steps[row]}' for row in order.class_rows]


def _frames(grid: Grid) -> tuple[int, int, int]:
    """The grid as (T, H, W): a sequence is one row of one frame."""
    frames, height, width = (1,) * (3 - len(grid)) + grid
    return frames, height, width


def save_png(order: ScanOrder, path: str | os.PathLike[str], title: str = '') -> None:
    """Draws the routes, one panel each, dark at the start and light at the end.

    Arrows join the cells in reading order; those to a cell that is not a neighbour are thin. The frames of a clip are
    side by side, class tokens on the left.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError('a PNG needs matplotlib: run `pip install matplotlib`') from None
    places = _places(order)
    (left, top), (right, bottom) = places.amin(0).tolist(), places.amax(0).tolist()
    across, down = right - left + 1, bottom - top + 1
    columns = min(order.routes, math.ceil(math.sqrt(order.routes * down / across)))
    rows = math.ceil(order.routes / columns)
    inch = min(0.5, 12 / columns / across, 12 / down)  # of a cell
    size = columns * max(inch * across, 2.4) + 1, rows * (max(inch * down, 0.6) + 0.4) + 1
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
        panel.set(aspect='equal', xlim=(left - 0.6, right + 0.6), ylim=(bottom + 0.6, top - 0.6))  # row 0 on top
    for panel, heading, route in zip(panels, _titles(order), order.index.cpu()):
        panel.set_title(heading, fontsize=10)
        _draw_route(panel, places[route[route < len(places)]], inch * 72)
        for row in order.class_rows:
            x, y = places[row].tolist()
            panel.text(x, y - 0.5, 'class', ha='center', va='bottom', fontsize=8)
    figure.legend(handles=panels[0].lines, loc='outside lower center', ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    try:
        figure.savefig(path, format='png', dpi=150)
    except OSError as error:
        raise UsageError(f'cannot write {os.fspath(path)}: {error.strerror}') from None


def _places(order: ScanOrder) -> Tensor:
    """The position of each memory row: (L - pads, 2) as x, y in cells."""
    frames, height, width = _frames(order.grid)
    frame, y, x = torch.meshgrid(*(torch.arange(n) for n in (frames, height, width)), indexing='ij')
    places = torch.stack((frame * (width + 1) + x, y), -1).view(-1, 2).float()
    middle = (height - 1 - 1.7 * (len(order.class_rows) - 1)) / 2
    for i, row in sorted(enumerate(order.class_rows), key=operator.itemgetter(1)):
        places = torch.cat((places[:row], torch.tensor([[-2.0, middle + 1.7 * i]]), places[row:]))
    return places


def _draw_route(panel: Axes, path: Tensor, points: float) -> None:
    """Draws a route through the places (l, 2) on axes whose cells are ``points`` wide."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    shade = colormaps['viridis'](torch.linspace(0, 0.92, len(path)).numpy())[:, :3]  # (l, 3)
    corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    cells = (path[:, None] + corners).tolist()  # (l, 4, 2)
    edge = min(0.8, points / 20)
    panel.add_collection(PolyCollection(cells, facecolors=0.75 + 0.25 * shade, edgecolors='white', linewidths=edge))
    move = path.diff(dim=0)
    jumps = move.abs().amax(1) > 1
    for chosen, width in ((~jumps, 0.06), (jumps, 0.02)):  # in cells
        shaft: dict[str, Any] = {
            'units': 'xy',
            'angles': 'xy',
            'scale_units': 'xy',
            'scale': 1,
            'width': width,
            'headlength': 4,
        }
        panel.quiver(*path[:-1][chosen].T, *move[chosen].T, color=shade[1:][chosen.numpy()], **shaft)
    ends = ('start', 'o', 'tab:green', 0.26, path[0]), ('end', 's', 'tab:red', 0.34, path[-1])
    for label, marker, colour, share, place in ends:
        size = max(3, points * share)
        panel.plot(*place[:, None], marker, color=colour, label=label, markersize=size, zorder=4 - share)
    if points > 24:
        for step, (x, y) in enumerate(path.tolist()):
            panel.text(x - 0.44, y - 0.44, str(step), ha='left', va='top', fontsize=6, color='0.45')


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='vimamba draw',
        description='Draws scan orders: each number is the step at which the cell is read.',
        epilog='A name may hold a size and suffixes: windows7, tube4, hilbert_bidirectional, raster_reversed.',
    )
    parser.add_argument('order', nargs='?', help='name of the order; without it, the orders are listed')
    parser.add_argument('grid', nargs='?', default='4x6', help='16, 4x6 (height, width) or 2x4x6 (time first)')
    parser.add_argument('--png', metavar='FILE', help='also draw the routes into this file')
    args = parser.parse_args(argv)
    if args.png is not None and Path(args.png).suffix.lower() != '.png':
        raise bad_argument('--png', 'a file name that ends in .png', repr(args.png))
    if args.order is None:
        if args.png:
            raise bad_argument('order', 'the name of the order to draw', 'none')
        indent = max(map(len, ORDERS)) + 2
        for name, build in sorted(ORDERS.items()):
            print(f'{name:{indent}}{(build.__doc__ or "").partition(chr(10))[0]}')
        print(f'\n{parser.epilog}')
        return 0
    if args.order in scans.SCHEDULES:
        orders = sorted({name for layer in scans.SCHEDULES[args.order] for name in layer})
        raise UsageError(f'{args.order!r} is a schedule, of an order for each layer: draw one of {", ".join(orders)}')
    order = scans.create_order(args.order, _parse_grid(args.grid))
    print(picture(order, width=shutil.get_terminal_size().columns))
    if args.png:
        save_png(order, args.png, title=f'{args.order} {args.grid}')
        print(f'wrote {args.png}')
    return 0


def _parse_grid(text: str) -> Grid:
    if not re.fullmatch(r'\d{1,9}(x\d{1,9})*', text):
        raise bad_argument('grid', 'sizes joined by x, such as 4x6', repr(text))
    grid = tuple(int(size) for size in text.split('x'))
    if math.prod(grid) > _MOST_CELLS:
        raise bad_argument('grid', f'at most {_MOST_CELLS} cells to draw', f'{math.prod(grid)}')
    return grid


if __name__ == '__main__':
    run(main)
