"""Plots of training runs, confusion matrices and scaling, as PNG files.

matplotlib is imported when a plot is drawn.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vimamba.errors import UsageError, bad_argument
from vimamba.outputs import whole_file

from .fonts import families

__all__ = ['plot_confusion', 'plot_curves', 'plot_scaling']

BLUE, RED, GREY = '#1f5fa8', '#c2362b', '#6b7280'
STYLE: dict[Any, Any] = {
    'axes.edgecolor': GREY,
    'axes.grid': True,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlelocation': 'left',
    'axes.titlesize': 11,
    'font.size': 9,
    'grid.color': '#e5e7eb',
    'legend.frameon': False,
    'lines.linewidth': 1.6,
    'xtick.color': GREY,
    'ytick.color': GREY,
}


def plot_curves(records: str | os.PathLike[str] | Iterable[Mapping[str, Any]], out_png: str | os.PathLike[str]) -> None:
    """Plots the losses, the first metric of the validation and the learning rate over epochs.

    Args:
        records: dicts with 'kind' ('train' or 'val') and 'epoch'; those of training with 'loss' and 'lr', those of
            validation with a metric in percent, such as 'top1', and optionally 'loss'; or the JSON-lines file of them.
        out_png: the file to write.

    Raises:
        UsageError: there are no records, matplotlib is missing, or the file cannot be written.
    """
    if isinstance(records, (str, os.PathLike)):
        records = [json.loads(line) for line in Path(records).read_text().splitlines()]
    rows = {kind: [r for r in records if r['kind'] == kind] for kind in ('train', 'val')}
    if not rows['train'] and not rows['val']:
        raise bad_argument('records', "entries of kind 'train' or 'val'", 'none')

    def series(kind: str, key: str) -> tuple[list[float], list[float]]:
        points = [(r['epoch'], r[key]) for r in rows[kind] if r.get(key) is not None]
        return [x for x, _ in points], [y for _, y in points]

    others = {'kind', 'epoch', 'step', 'loss', 'images', 'videos'}
    metric = next((key for row in rows['val'] for key in row if key not in others), 'top1')
    with _figure(out_png, (11, 3.3), ncols=3) as (loss, top1, rate):
        loss.set_title('Loss')
        for kind, label, colour in (('train', 'train', GREY), ('val', 'validation', BLUE)):
            if (points := series(kind, 'loss'))[0]:
                marker = 'o' if len(points[0]) == 1 else None
                loss.plot(*points, color=colour, marker=marker, clip_on=False, label=label)
                loss.legend()
        loss.set_ylim(bottom=0)
        top1.set_title(f'Validation {metric.replace("top1", "top-1")} (%)')
        x, y = series('val', metric)
        top1.plot(x, y, color=BLUE)
        if known := [value for value in y if not math.isnan(value)]:  # NaN if there was nothing to find
            low, high = min(known), max(known)
            epoch, margin = x[y.index(high)], 0.06 * (high - low) + 0.5
            top1.axhline(high, color=RED, linewidth=0.7, linestyle=':')
            top1.plot(epoch, high, 'o', color=RED, markersize=5, clip_on=False)
            top1.set_title(f'best: {high:.2f} %, epoch {epoch:g}', loc='right', color=RED, fontsize=9)
            top1.set_ylim(low - margin, min(100.5, high + margin))
        x, y = series('train', 'lr')
        power = math.floor(math.log10(max(y, default=1) or 1))
        rate.set_title(rf'Learning rate ($\times\,10^{{{power}}}$)')
        rate.plot(x, [value / 10**power for value in y], color=GREY, marker='o' if len(x) == 1 else None)
        rate.set_ylim(bottom=0)
        for axes in (loss, top1, rate):
            axes.set_xlabel('epoch')
            axes.set_xlim(0, max(r['epoch'] for part in rows.values() for r in part) or 1)
            axes.locator_params(axis='x', integer=True)


def plot_confusion(matrix: Any, classes: Sequence[str], out_png: str | os.PathLike[str]) -> None:
    """Plots a confusion matrix: correct predictions in blue, mistakes in red on a separate scale; names up to 100.

    Args:
        matrix: (classes, classes) counts, with true classes in rows and predicted ones in columns.
        classes: names of the classes.
        out_png: the file to write.

    Raises:
        UsageError: a matrix of another shape, matplotlib is missing, or the file cannot be written.
    """
    counts = np.asarray(matrix)
    n = len(classes)
    if counts.shape != (n, n):
        raise bad_argument('matrix', f'shape {(n, n)}, one row and column per class', f'shape {counts.shape}')
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(n, dtype=bool)
    side = min(10.0, 2.2 + 0.42 * n) if n <= 100 else 8.0
    with _figure(out_png, (side, side), grid=False, texts=classes) as axes:
        hits, worst = counts[right].sum(), max(share[~right].max(initial=0), 1e-9)
        axes.set_facecolor('#f3f4f6')
        axes.imshow(np.where(right, share, np.nan), cmap='Blues', vmin=0, vmax=1.15)
        axes.imshow(np.where(right | (counts == 0), np.nan, share), cmap='Reds', vmin=-0.35 * worst, vmax=worst * 1.3)
        axes.set_title(f'{hits:,} of {counts.sum():,} right ({100 * hits / max(counts.sum(), 1):.2f} %)')
        axes.set(xlabel='predicted', ylabel='true')
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if n > 100:
            return
        names = [name if len(name) <= 16 else f'{name[:15]}…' for name in classes]
        turned = 0 if max(map(len, names)) <= 3 and n <= 30 else 45 if n <= 30 else 90
        style = {'fontsize': min(9.0, 450 / n), 'parse_math': False}  # a cell has about 550 / n points
        axes.set_xticks(range(n), names, rotation=turned, ha='right' if turned == 45 else 'center', **style)
        axes.set_yticks(range(n), names, **style)
        if n > 30:
            return
        axes.hlines(np.arange(n + 1) - 0.5, -0.5, n - 0.5, 'white', linewidth=1.5)
        axes.vlines(np.arange(n + 1) - 0.5, -0.5, n - 0.5, 'white', linewidth=1.5)
        for i, j in zip(*np.nonzero(counts)):
            colour = 'white' if share[i, j] > (0.5 if i == j else 0.6 * worst) else 'black'
            axes.text(j, i, _count(int(counts[i, j])), ha='center', va='center', color=colour, fontsize=8)


def plot_scaling(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    out_png: str | os.PathLike[str], against: str = 'tokens', units: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Plots milliseconds or another quantity against tokens or frames, log-log, with the exponent beside each name.

    Args:
        panels: title -> name -> (tokens, milliseconds), two or more.
        out_png: the file to write.
        against: label of the x axis.
        units: one per panel, by default 'ms'; only those in ms show the exponent, as memory has a constant part.

    Raises:
        UsageError: matplotlib is missing, or the file cannot be written.
    """
    with _figure(out_png, (5.2 * len(panels), 4.0), ncols=len(panels), squeeze=False) as axes:
        for ax, unit, (title, lines) in zip(axes[0], units or ['ms'] * len(panels), panels.items(), strict=True):
            for name, points in lines.items():
                counts, values = zip(*sorted(points), strict=True)
                exponent = np.polyfit(np.log(counts), np.log(values), 1)[0]  # least squares
                label = f'{name}: {against}^{exponent:.2f}' if unit == 'ms' else name
                ax.loglog(counts, values, marker='o', markersize=3, label=label)
                ax.set_xticks(counts, map(str, counts), fontsize=7)
            ax.set(title=title, xlabel=against, ylabel=unit)
            ax.set_xticks([], minor=True)
            if unit != 'ms':  # small differences would fill the panel
                low, high = ax.get_ylim()
                ax.set_ylim(low / 4, high * 4)
            ax.legend(fontsize=8)


def _count(number: int) -> str:
    """Formats a number below 10^9 in at most four characters.

    >>> _count(9999), _count(12_345), _count(999_499), _count(1_234_567), _count(49_600_000)
    ('9999', '12k', '999k', '1.2M', '50M')
    """
    if number < 10_000:
        return str(number)
    return f'{number / 1e3:.0f}k' if number < 999_500 else f'{number / 1e6:.{int(number < 9_950_000)}f}M'


@contextmanager
def _figure(
    out_png: str | os.PathLike[str], size: tuple[float, float], grid: bool = True, texts: Sequence[str] = (),
    **layout: Any,
) -> Iterator[Any]:  # fmt: skip
    """Yields the axes of a figure; writes it on exit, at 150 dots per inch, in fonts that have the ``texts``."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f'plots need matplotlib ({error}): pip install vimamba[train]') from None
    font = [*matplotlib.rcParams['font.family'], *families(texts)]
    with matplotlib.rc_context({**STYLE, 'axes.grid': grid, 'font.family': font}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing from')  # one line for each; `families` warns once
        figure = Figure(figsize=size, layout='constrained')
        yield figure.subplots(**layout)
        with whole_file(out_png) as part:
            figure.savefig(part, dpi=150, facecolor='white', format='png')
