"""Images, or frames of videos side by side, in a grid, each above its name and classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from vimamba.data import read_image
from vimamba.data.image import to_channels
from vimamba.data.video_decode import read_clip, sample_uniform

from .fonts import fitting, font

__all__ = ['Row', 'Tile', 'contact_sheet', 'distinct', 'grid', 'sheet']

SIDE, FRAME, BETWEEN, GAP, LINE = 208, 96, 4, 16, 24  # pixels
WIDTH = 1700  # maximum, of a sheet
SHOWN, LABELS, FRAMES = 48, 10, 8
EMPTY, TEXT, PALE = '#f3f4f6', '#111827', '#6b7280'
BAR, WRONG_BAR, WRONG = '#bfd7f0', '#f9c9c4', '#b3261e'


class Row(NamedTuple):
    """A line below an image, on a bar as long as the probability."""

    text: str
    score: float | None = None
    wrong: bool = False


class Tile(NamedTuple):
    """An image, or frames in their order, with the lines below."""

    images: Sequence[Image.Image]
    name: str
    rows: Sequence[Row]


def contact_sheet(predictions: Sequence[Any], videos: bool = False) -> Image.Image:
    """Draws up to 48 files, each above its top classes, ten at most, with a bar for the probability of each.

    Args:
        predictions: at least one, each with ``path``, ``classes`` and ``scores`` (probabilities), the top class first.
        videos: whether the files are videos, of which 8 frames are drawn.
    """
    shown, tiles = predictions[:SHOWN], []
    for prediction, name in zip(shown, distinct([prediction.path for prediction in shown])):
        images = _frames(prediction.path) if videos else [to_channels(read_image(prediction.path), 3)]
        for image in images:
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)  # never are many of full size in memory
        tiles.append(Tile(images, name, [Row(*row) for row in zip(prediction.classes, prediction.scores)][:LABELS]))
    return sheet(tiles)


def sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Draws at least one tile: about square, but not wider than can be read at a glance."""
    across = max(len(tile.images) for tile in tiles)
    side = FRAME if across > 1 else SIDE
    tall = max(min(side, round(side * image.height / image.width)) for tile in tiles for image in tile.images)
    lines = 1 + max(len(tile.rows) for tile in tiles)
    drawn = [_draw_tile(tile, across, side, max(tall, 1), lines) for tile in tiles]
    width, height = (length + GAP for length in drawn[0].size)
    columns = min(round((len(tiles) * height / width) ** 0.5) or 1, (WIDTH - GAP) // width)
    rows = -(-len(tiles) // columns)
    return ImageOps.expand(grid(drawn, -(-len(tiles) // rows), GAP), GAP, 'white')  # rows of nearly equal length


def grid(images: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Draws images on white, row by row, in cells as large as the largest of them."""
    width, height = (max(image.size[side] for image in images) + gap for side in (0, 1))
    columns = min(columns, len(images))
    canvas = Image.new('RGB', (columns * width - gap, -(-len(images) // columns) * height - gap), 'white')
    for i, image in enumerate(images):
        canvas.paste(image, (i % columns * width, i // columns * height))
    return canvas


def _draw_tile(tile: Tile, across: int, side: int, tall: int, lines: int) -> Image.Image:
    wide = across * (side + BETWEEN) - BETWEEN
    canvas = Image.new('RGB', (wide, tall + lines * LINE), 'white')
    draw, letters = ImageDraw.Draw(canvas), font(14, tile.name)
    for i, image in enumerate(tile.images):
        method = Image.Resampling.NEAREST if side > 2 * max(image.size) else Image.Resampling.LANCZOS
        canvas.paste(ImageOps.pad(image, (side, tall), method, EMPTY), (i * (side + BETWEEN), 0))
    name = fitting(tile.name, wide, letters, middle=True)
    draw.text((0, tall + LINE / 2), name, PALE, letters, anchor='lm')
    for i, row in enumerate(tile.rows, 1):
        _draw_row(draw, row, tall + i * LINE, wide)
    return canvas


def _draw_row(draw: ImageDraw.ImageDraw, row: Row, top: int, width: int) -> None:
    letters, colour, middle, room = font(14, row.text), WRONG if row.wrong else TEXT, top + LINE / 2, width - 8.0
    if row.score is not None:
        bar = (0, top + 2, row.score * (width - 1), top + LINE - 2)
        draw.rectangle(bar, fill=WRONG_BAR if row.wrong else BAR)
        score = f'{row.score:.1%}'
        draw.text((width - 4, middle), score, colour, font(14), anchor='rm')
        room -= font(14).getlength(score) + 8
    draw.text((4, middle), fitting(row.text, room, letters), colour, letters, anchor='lm')


def distinct(paths: Sequence[str]) -> list[str]:
    """Shortens each path to its file name, with as many parent folders as tell it from the others.

    A path without a suffix, such as the number of an image in a data set, keeps its folders.

    >>> distinct(['a/run/0.mp4', 'a/walk/0.mp4', 'a/walk/1.mp4', 'digits/7'])
    ['run/0.mp4', 'walk/0.mp4', '1.mp4', 'digits/7']
    """

    def shorten(path: str) -> str:
        parts = Path(path).parts
        for depth in range(1 if Path(path).suffix else 2, len(parts)):
            if sum(Path(other).parts[-depth:] == parts[-depth:] for other in set(paths)) == 1:
                return str(Path(*parts[-depth:]))
        return path

    return [shorten(path) for path in paths]


def _frames(path: str) -> list[Image.Image]:
    clip = read_clip(path, lambda number: sample_uniform(number, min(number, FRAMES))[0])
    return [Image.fromarray(frame) for frame in clip]
