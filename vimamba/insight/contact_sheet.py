"""Images or videos in a grid, each with its likeliest classes; drawn with PIL alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vimamba.data import read_image
from vimamba.data.image import to_channels
from vimamba.data.video import read_clip, sample_uniform
from vimamba.errors import UsageError

__all__ = ['contact_sheet']

SIDE, GAP, LINE = 208, 16, 24  # pixels
SHOWN, LABELS = 48, 3
BAR, EMPTY, TEXT, PALE = '#bfd7f0', '#f3f4f6', '#111827', '#6b7280'


def contact_sheet(predictions: Sequence[Any], out: str | os.PathLike[str], frames: int = 0) -> int:
    """Draws up to 48 files, each above its three likeliest classes and a bar for the probability of each.

    Args:
        predictions: at least one, each with ``path``, ``classes`` and ``scores`` (probabilities), likeliest first.
        out: the picture, in a format that its extension names.
        frames: of videos, how many, evenly spaced, are drawn side by side; 0 for images.

    Returns:
        How many were drawn.

    Raises:
        UsageError: if ``out`` cannot be written.
    """
    shown = predictions[:SHOWN]
    across, side = (frames, SIDE // 2) if frames else (1, SIDE)
    columns = 1 if frames else min(len(shown), 6 if len(shown) > 8 else 4)
    rows = -(-len(shown) // columns)
    labels = min(LABELS, max(len(p.classes) for p in shown))
    wide = across * side
    width, height = wide + GAP, side + (labels + 1) * LINE + GAP
    sheet = Image.new('RGB', (columns * width + GAP, rows * height + GAP), 'white')
    draw = ImageDraw.Draw(sheet)
    for i, prediction in enumerate(shown):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        draw.rectangle((left, top, left + wide - 1, top + side - 1), fill=EMPTY)
        for j, image in enumerate(_pictures(prediction.path, frames)):
            picture = _fitted(image, side - 4 * bool(frames))  # so that frames stand apart
            sheet.paste(picture, (left + j * side + (side - picture.width) // 2, top + (side - picture.height) // 2))
        _line(draw, left, top + side, wide, Path(prediction.path).name, colour=PALE)
        for j, (name, score) in enumerate(list(zip(prediction.classes, prediction.scores))[:labels]):
            below = top + side + (j + 1) * LINE
            draw.rectangle((left, below + 2, left + score * (wide - 1), below + LINE - 2), fill=BAR)
            _line(draw, left + 4, below, wide, name.split(', ')[0], f'{score:.1%}')
    try:
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise UsageError(f'{out}: cannot be written: {getattr(error, "strerror", None) or error}') from error
    return len(shown)


def _pictures(path: str, frames: int) -> list[Image.Image]:
    if not frames:
        return [to_channels(read_image(path), 3)]
    clip: np.ndarray = read_clip(path, lambda number: sample_uniform(number, frames)[0])
    return [Image.fromarray(frame) for frame in clip]


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Scaled to a square, keeping its shape; small images keep their pixels visible."""
    scale = side / max(image.size)
    width, height = (max(1, round(own * scale)) for own in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _line(
    draw: ImageDraw.ImageDraw, left: float, top: float, width: int, text: str, right: str = '', colour: str = TEXT
) -> None:
    font = ImageFont.load_default(15)
    middle = top + LINE / 2
    room = width - 8 - draw.textlength(right, font)
    if draw.textlength(text, font) > room:
        while text and draw.textlength(text + '…', font) > room:
            text = text[:-1]
        text += '…'
    draw.text((left, middle), text, colour, font, anchor='lm')
    if right:
        draw.text((left + width - 8, middle), right, colour, font, anchor='rm')
