"""A few images with what they are and what a model takes them for, as one picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from vimamba.errors import bad_argument
from vimamba.visualize.contact_sheet import Row, Tile, distinct, sheet
from vimamba.visualize.fonts import fitting, font

__all__ = ['draw_map', 'draw_objects', 'picture']

_SIDE = 256  # pixels that the longer side of an image is drawn with, at least
_NAMED = 0.001  # share of an image from which a class of a map is named
_BACKGROUND = 'background'
_WIDTH = 2400  # pixels of a picture of several columns, at most


def picture(
    task: str,
    images: Sequence[Tensor],
    targets: Sequence[Any] | None,
    outputs: Sequence[Any] | None,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> Image.Image:
    """Images or clips above their class and the predicted one with its probability, wrong ones in red; or images with
    what is in them, the truth and the prediction side by side, as a line above them says.

    Args:
        task: 'classification', 'video', 'detection' or 'segmentation'.
        images: each (C, H, W) in 0..1; of a clip, its frames (T, C, H, W).
        targets, outputs: of each, as the task has them; either may be None, to be left out.
        classes: their names.
        names: of the images or their paths, of which as much is shown as tells them apart.
        threshold: the least score of an object that is drawn.

    Raises:
        UsageError: there is no image, or no such task.
    """
    if not len(images):
        raise bad_argument('images', 'at least one', 0)
    names = distinct(names) if names else [''] * len(images)
    if task in ('classification', 'video'):
        nothing = [None] * len(images)
        said_of = [nothing if said is None else said for said in (targets, outputs)]
        rows = [_rows(target, output, classes) for target, output in zip(*said_of)]
        frames = [[_as_image(frame) for frame in (image if image.ndim == 4 else image[None])] for image in images]
        return sheet([Tile(*tile) for tile in zip(frames, names, rows)])
    said_of = [column for column in (targets, outputs) if column is not None]
    prediction = f'prediction, scores from {100 * threshold:g} %' if task == 'detection' else 'prediction'
    captions = ['truth', prediction] if len(said_of) == 2 else ['']
    tiles = []
    for name, image, *row in zip(names, images, *said_of):
        halves = [
            draw_objects(image, said, classes, threshold)
            if task == 'detection'
            else draw_map(image, _labels(said), classes)
            for said in row
        ]
        lines = [f'{name}  {captions[0]}'.strip(), *captions[1:]]
        tile = torch.cat([_captioned(half, line) for half, line in zip(halves, lines)], dim=2)
        if task == 'segmentation':
            tile = torch.cat([tile, _legend(row, classes, tile.shape[2])], dim=1)
        tiles.append(tile)
    height, width = (max(tile.shape[side] for tile in tiles) for side in (1, 2))
    canvas = torch.full((len(tiles), 3, height, width), 255, dtype=torch.uint8)
    for blank, tile in zip(canvas, tiles):
        blank[:, : tile.shape[1], : tile.shape[2]] = tile
    columns = max(1, min(1 if len(tiles) < 4 else 2 if len(tiles) < 12 else 3, _WIDTH // width))
    grid = make_grid(canvas, columns, padding=6, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def _rows(target: Any, output: Tensor | None, classes: Sequence[str]) -> list[Row]:
    """What stands below an image of a class."""
    if output is None:
        return [Row(classes[int(target)])]
    score, best = output.float().softmax(0).max(0)
    truth = [] if target is None else [Row(f'truth: {classes[int(target)]}')]
    return [*truth, Row(classes[int(best)], float(score), target is not None and int(best) != int(target))]


def _as_image(image: Tensor) -> Image.Image:
    return Image.fromarray(_rgb(image).permute(1, 2, 0).numpy())


def _labels(said: Any) -> Tensor:
    """The map of classes in a target or an output: (H, W) int64."""
    return torch.as_tensor(said['mask'] if isinstance(said, dict) else said).long()


def draw_objects(image: Tensor, objects: dict[str, Any], classes: Sequence[str], threshold: float = 0.5) -> Tensor:
    """An image with boxes, masks, names and scores drawn on it.

    Args:
        image: (C, H, W) in 0..1.
        objects: boxes (N, 4) in its pixels, labels (N,), maybe scores (N,) and masks (N, H, W).
        classes: their names.
        threshold: the least score that is drawn.

    Returns:
        (3, H', W') uint8, small images enlarged.
    """
    pixels, factor = _enlarged(image)
    boxes, labels = torch.as_tensor(objects['boxes']).reshape(-1, 4), torch.as_tensor(objects['labels'])
    scores = objects.get('scores')
    keep = torch.arange(len(boxes))
    if scores is not None:
        keep = torch.nonzero(scores >= threshold)[:, 0]
        keep = keep[scores[keep].argsort()]  # the best on top
    if not len(keep):
        return pixels
    colours = [_bright(int(label)) for label in labels[keep]]
    if 'masks' in objects:
        masks = torch.as_tensor(objects['masks'])[keep].float()
        masks = torch.nn.functional.interpolate(masks[None], pixels.shape[1:], mode='nearest')[0] > 0.5
        above = (
            masks.flip(0).cumsum(0).flip(0) > masks.long()
        )  # by a better one: torchvision paints what two have black
        pixels = draw_segmentation_masks(pixels, masks & ~above, alpha=0.5, colors=colours)
    names = [classes[int(label)] for label in labels[keep]]
    if scores is not None:
        names = [f'{name} {float(score):.0%}' for name, score in zip(names, scores[keep])]
    drawn = draw_bounding_boxes(pixels, boxes[keep] * factor, colors=colours, width=max(1, pixels.shape[1] // 250))
    return _named(drawn, boxes[keep] * factor, names, colours)


def draw_map(image: Tensor, classes_of_pixels: Tensor, classes: Sequence[str]) -> Tensor:
    """An image (C, H, W) in 0..1 under a map of classes (H, W): (3, H', W') uint8.

    A class is a wash of its colour over grey, so that it looks the same everywhere, in an opaque outline; what is
    called background, and 255, stays as it is.
    """
    pixels, _ = _enlarged(image)
    labels = torch.as_tensor(classes_of_pixels)[None, None].float()
    labels = torch.nn.functional.interpolate(labels, pixels.shape[1:], mode='nearest')[0]  # (1, H', W')
    colours = torch.tensor([_bright(label) for label in range(256)]).T[:, labels[0].long()]  # (3, H', W')
    grey = pixels.float().mean(0)
    washed = (0.6 * colours + 0.4 * (64 + 0.75 * grey)).to(torch.uint8)
    width = 2 * max(1, pixels.shape[1] // 250) + 1
    highest, lowest = (
        sign * torch.nn.functional.max_pool2d(sign * labels, width, stride=1, padding=width // 2) for sign in (1, -1)
    )
    drawn = torch.where(highest == lowest, washed, colours.to(torch.uint8))
    bare = [255, *(label for label, name in enumerate(classes) if name == _BACKGROUND)]
    return torch.where(torch.isin(labels.long(), torch.tensor(bare)), pixels, drawn)


def _legend(maps: Sequence[Any], classes: Sequence[str], width: int) -> Tensor:
    """The names of the classes in maps on plates of their colours, in lines of so many pixels: (3, H, width) uint8."""
    shares = [torch.bincount(m.flatten(), minlength=256) / m.numel() for m in map(_labels, maps)]
    largest = torch.stack(shares).amax(0)
    present = [i for i, name in enumerate(classes) if largest[i] > _NAMED and name != _BACKGROUND]
    places, left, top = [], 2, 3
    for label in present:
        wide = int(font(12, classes[label]).getlength(classes[label])) + 10
        if left > 2 and left + wide > width:
            left, top = 2, top + 19
        places.append((left, top, left + wide - 3, top + 16))
        left += wide
    canvas = Image.new('RGB', (width, top + 19 if present else 1), 'white')
    draw = ImageDraw.Draw(canvas)
    for label, place in zip(present, places):
        draw.rectangle(place, fill=_bright(label))
        draw.text((place[0] + 3, place[1] + 1), classes[label], _ink(_bright(label)), font(12, classes[label]))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _enlarged(image: Tensor) -> tuple[Tensor, int]:
    """(3, H, W) uint8 with whole pixels repeated where the image is small, and how often."""
    pixels = _rgb(image)
    factor = max(1, _SIDE // max(pixels.shape[1:]))
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2), factor


def _rgb(image: Tensor) -> Tensor:
    """(C, H, W) in 0..1 -> (3, H, W) uint8."""
    colours = image[:1].expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def _named(pixels: Tensor, boxes: Tensor, names: Sequence[str], colours: Sequence[tuple[int, ...]]) -> Tensor:
    """Each name on a plate of its box's colour, in the box's upper left corner."""
    canvas = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    draw, size = ImageDraw.Draw(canvas), max(11, pixels.shape[1] // 40)
    for (left, top, _, _), name, colour in zip(boxes.tolist(), names, colours):
        letters = font(size, name)
        place = draw.textbbox((left + 2, max(0, top)), name, letters)
        draw.rectangle((place[0] - 2, place[1] - 1, place[2] + 2, place[3] + 1), fill=colour)
        draw.text((left + 2, max(0, top)), name, _ink(colour), letters)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _captioned(pixels: Tensor, text: str) -> Tensor:
    """The text on a white line above an image (3, H, W) uint8; without a text, the image as it is."""
    if not text:
        return pixels
    width, size = pixels.shape[2], max(12, pixels.shape[2] // 40)
    letters, height = font(size, text), size * 3 // 2
    line = Image.new('RGB', (width, height), 'white')
    ImageDraw.Draw(line).text(
        (2, height / 2), fitting(text, width - 4, letters, middle=True), 'black', letters, anchor='lm'
    )
    return torch.cat([torch.from_numpy(np.array(line)).permute(2, 0, 1), pixels], dim=1)


def _bright(label: int) -> tuple[int, ...]:
    """The colour of a class, which stands out from a picture: hues a golden ratio apart, full, darker, paler in turn.

    Any two of ten are at least 40 apart in CIE Lab, of twenty 24.
    """
    strength = ((1, 1), (0.85, 0.8), (0.5, 1))[label % 3]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label * 0.618034 % 1, *strength))


def _ink(colour: Sequence[int]) -> str:
    """What can be read on a colour."""
    return 'white' if np.dot(colour, (0.3, 0.6, 0.1)) < 128 else 'black'
