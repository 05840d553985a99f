"""Draws eight scan orders on an 8 x 8 grid: python benchmarks/scan_orders.py writes docs/scan_orders.png."""

import argparse
import math
import sys
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vimamba import scans  # noqa: E402

SIZE = 8
GRID = (SIZE, SIZE)
PANELS = {  # title -> order, models that use it
    'raster': (scans.raster(GRID), 'Vim, VideoMamba'),
    'column': (scans.column(GRID), 'VMamba and Mamba-ND, with raster'),
    'snake': (scans.snake(GRID), 'PlainMamba'),
    'strided': (scans.strided(GRID), 'EfficientVMamba'),
    'windows': (scans.windows(GRID, 4), 'LocalMamba'),
    'zigzag': (scans.zigzag(GRID), 'as in JPEG'),
    'hilbert': (scans.hilbert(GRID), 'neighbours stay close'),
    'pyramid': (scans.pyramid(GRID), 'coarse to fine'),
}


def draw(axes: Axes, order: scans.ScanOrder) -> None:
    """Draws the first route, coloured from the first step (dark) to the last (light); jumps are dashed."""
    steps = order.index[0]
    path = torch.stack((steps % SIZE, steps // SIZE), 1).float()  # (l, 2) as x, y
    shades = colormaps['viridis'](torch.linspace(0, 0.93, len(path)).numpy())
    cells = torch.empty(SIZE * SIZE, 4)
    cells[steps] = torch.from_numpy(shades).float()
    axes.imshow(cells.view(SIZE, SIZE, 4), alpha=0.28)
    axes.set_xticks([i + 0.5 for i in range(SIZE - 1)])
    axes.set_yticks([i + 0.5 for i in range(SIZE - 1)])
    axes.grid(color='white', linewidth=1.2)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)
    moves = path.diff(dim=0)
    lengths = moves.norm(dim=1)
    jumps = (lengths > 4) | ((lengths > 1.5) & (moves != 0).all(1))
    lines, colors = torch.stack((path[:-1], path[1:]), 1).numpy(), shades[1:]
    axes.add_collection(LineCollection(lines[~jumps], colors=colors[~jumps], linewidths=2, capstyle='round'))
    axes.add_collection(LineCollection(lines[jumps], colors=colors[jumps], linewidths=0.7, linestyles=(0, (4, 3))))
    for step in range(2, len(moves), 4):
        if not jumps[step]:
            (x, y), (dx, dy) = (path[step] + 0.5 * moves[step]).tolist(), moves[step].tolist()
            triangle = (3, 0, math.degrees(math.atan2(-dy, dx)) - 90)
            axes.plot(x, y, marker=triangle, color=shades[step], markersize=9, markeredgewidth=0)
    axes.plot(*path[0], 'o', color=shades[0], markersize=7)
    axes.plot(*path[-1], 's', color='white', markeredgecolor='black', markeredgewidth=1.2, markersize=6)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = Figure(figsize=(11.2, 6.4), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    for axes, (title, (order, models)) in zip(figure.subplots(2, 4).flat, PANELS.items(), strict=True):
        draw(axes, order)
        axes.set_title(title, fontsize=12, fontweight='bold')
        axes.set_xlabel(models, fontsize=9.5, color='0.3')
    figure.savefig(ROOT / 'docs' / 'scan_orders.png', dpi=96, facecolor='white')


if __name__ == '__main__':
    main()
