"""Images, or frames of videos side by side, in a grid, each above its name and classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from vimamba.data import read_image
from vimamba.data.image import to_channels
from vimamba.data.video_decode import read_clip, sample_uniform
from vimamba.errors import UsageError

from .fonts import fitting, font

__all__ = ['Row', 'Tile', 'contact_sheet', 'distinct', 'sheet']

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


def contact_sheet(predictions: Sequence[Any], out: str | os.PathLike[str], videos: bool = False) -> int:
    """Draws up to 48 files, each above its top classes, ten at most, with a bar for the probability of each.

    Args:
        predictions: at least one, each with ``path``, ``classes`` and ``scores`` (probabilities), the top class first.
        out: the picture, in a format that its extension names.
        videos: whether the files are videos, of which 8 frames are drawn.

    Returns:
        The number of files drawn.

    Raises:
        UsageError: ``out`` cannot be written.
    """
    shown, tiles = predictions[:SHOWN], []
    for prediction, name in zip(shown, distinct([prediction.path for prediction in shown])):
        images = _frames(prediction.path) if videos else [to_channels(read_image(prediction.path), 3)]
        images = [_fitted(image, FRAME if len(images) > 1 else SIDE) for image in images]
        tiles.append(Tile(images, name, [Row(*row) for row in zip(prediction.classes, prediction.scores)][:LABELS]))
    try:
        sheet(tiles).save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f'{out}: cannot be written: {getattr(error, "strerror", None) or error}') from error
    return len(shown)


def sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Draws at least one tile: about square, but not wider than can be read at a glance."""
    across = max(len(tile.images) for tile in tiles)
    side = FRAME if across > 1 else SIDE
    pictures = [[_fitted(image, side) for image in tile.images] for tile in tiles]
    tall = max(picture.height for row in pictures for picture in row)
    wide, lines = across * (side + BETWEEN) - BETWEEN, 1 + max(len(tile.rows) for tile in tiles)
    width, height = wide + GAP, tall + lines * LINE + GAP
    columns = min(round((len(tiles) * height / width) ** 0.5) or 1, (WIDTH - GAP) // width)
    rows = -(-len(tiles) // columns)
    columns = -(-len(tiles) // rows)  # rows of nearly equal length
    canvas = Image.new('RGB', (columns * width + GAP, rows * height + GAP), 'white')
    draw = ImageDraw.Draw(canvas)
    for i, (tile, row) in enumerate(zip(tiles, pictures)):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        for j, picture in enumerate(row):
            start = left + j * (side + BETWEEN)
            draw.rectangle((start, top, start + side - 1, top + tall - 1), fill=EMPTY)
            canvas.paste(picture, (start + (side - picture.width) // 2, top + (tall - picture.height) // 2))
        letters = font(14, tile.name)
        name = fitting(tile.name, wide, letters, middle=True)
        draw.text((left, top + tall + LINE / 2), name, PALE, letters, anchor='lm')
        for j, line in enumerate(tile.rows):
            _draw_row(draw, line, left, top + tall + (j + 1) * LINE, wide)
    return canvas


def _draw_row(draw: ImageDraw.ImageDraw, row: Row, left: int, top: int, width: int) -> None:
    letters, colour, middle, room = font(14, row.text), WRONG if row.wrong else TEXT, top + LINE / 2, width - 8.0
    if row.score is not None:
        bar = (left, top + 2, left + row.score * (width - 1), top + LINE - 2)
        draw.rectangle(bar, fill=WRONG_BAR if row.wrong else BAR)
        score = f'{row.score:.1%}'
        draw.text((left + width - 4, middle), score, colour, font(14), anchor='rm')
        room -= font(14).getlength(score) + 8
    draw.text((left + 4, middle), fitting(row.text, room, letters), colour, letters, anchor='lm')


def distinct(paths: Sequence[str]) -> list[str]:
    """Shortens each path to its file name, with as many parent folders as tell it from the others.

    A path without a suffix, such as the number of an image in a data set, keeps its folders.

    >>> distinct(['a/run/0.mp4', 'a/walk/0.mp4', 'a/walk/1.mp4', 'digits/7'])
    ['run/0.mp4', 'walk/0.mp4', '1.mp4', 'digits/7']
    """
    parts = {path: Path(path).parts for path in paths if path}
    names: dict[str, str] = {}
    for depth in range(1, max(map(len, parts.values()), default=0) + 1):
        tails = {path: str(Path(*folders[-depth:])) for path, folders in parts.items()}
        counts = Counter(tails.values())
        for path, tail in tails.items():
            if path not in names and counts[tail] == 1 and (depth > 1 or Path(tail).suffix):
                names[path] = tail
    return [names.get(path, path) for path in paths]


def _frames(path: str) -> list[Image.Image]:
    clip = read_clip(path, lambda number: sample_uniform(number, min(number, FRAMES))[0])
    return [Image.fromarray(frame) for frame in clip]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Scales an image to fit a square, keeping its shape; the pixels of small images stay visible."""
    scale = side / max(image.size)
    width, height = (max(1, round(size * scale)) for size in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
