"""Images with their targets and a model's predictions, as one picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from vimamba.errors import bad_argument

from .contact_sheet import Row, Tile, distinct, sheet
from .fonts import fitting, font

__all__ = ['draw_map', 'draw_objects', 'picture']

_SIDE = 256  # minimum pixels of the longer side of an image
_NAMED = 0.001  # minimum share of an image for a class to be in the legend
_BACKGROUND = 'background'
_WIDTH = 2400  # maximum pixels of a picture of several columns


def picture(
    task: str,
    images: Sequence[Tensor],
    targets: Sequence[Any] | None,
    outputs: Sequence[Any] | None,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> Image.Image:
    """Draws images or clips above their class and the predicted one with its probability, mistakes in red; or images
    with their objects or maps, truth and prediction side by side under a caption.

    Args:
        task: 'classification', 'video', 'detection' or 'segmentation'.
        images: each (C, H, W) in 0..1; for a clip, its frames (T, C, H, W).
        targets, outputs: one per image, as the task has them; None leaves them out.
        classes: names of the classes.
        names: names or paths of the images, shortened to what tells them apart.
        threshold: minimum score of an object.

    Raises:
        UsageError: there are no images.
    """
    if not len(images):
        raise bad_argument('images', 'at least one', 0)
    names = distinct(names) if names else [''] * len(images)
    if task in ('classification', 'video'):
        nothing = [None] * len(images)
        said_of = [nothing if said is None else said for said in (targets, outputs)]
        rows = [_rows(target, output, classes) for target, output in zip(*said_of)]
        frames = [[to_pil_image(_rgb(frame)) for frame in image.reshape(-1, *image.shape[-3:])] for image in images]
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
    return to_pil_image(grid)


def _rows(target: Any, output: Tensor | None, classes: Sequence[str]) -> list[Row]:
    """The lines below an image of a class."""
    if output is None:
        return [Row(classes[int(target)])]
    score, best = output.float().softmax(0).max(0)
    truth = [] if target is None else [Row(f'truth: {classes[int(target)]}')]
    return [*truth, Row(classes[int(best)], float(score), target is not None and int(best) != int(target))]


def _labels(said: Any) -> Tensor:
    """The class map of a target or an output: (H, W) int64."""
    return torch.as_tensor(said['mask'] if isinstance(said, dict) else said).long()


def draw_objects(image: Tensor, objects: dict[str, Any], classes: Sequence[str], threshold: float = 0.5) -> Tensor:
    """Draws boxes, masks, names and scores on an image.

    Args:
        image: (C, H, W) in 0..1.
        objects: boxes (N, 4) in pixels, labels (N,), and optionally scores (N,) and masks (N, H, W).
        classes: names of the classes.
        threshold: minimum score of an object.

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
        masks = interpolate(masks[None], pixels.shape[1:], mode='nearest')[0] > 0.5
        covered = masks.flip(0).cumsum(0).flip(0) > masks.long()  # by a better one: torchvision draws overlaps black
        pixels = draw_segmentation_masks(pixels, masks & ~covered, alpha=0.5, colors=colours)
    names = [classes[int(label)] for label in labels[keep]]
    if scores is not None:
        names = [f'{name} {float(score):.0%}' for name, score in zip(names, scores[keep])]
    drawn = draw_bounding_boxes(pixels, boxes[keep] * factor, colors=colours, width=max(1, pixels.shape[1] // 250))
    return _named(drawn, boxes[keep] * factor, names, colours)


def draw_map(image: Tensor, classes_of_pixels: Tensor, classes: Sequence[str]) -> Tensor:
    """Draws a class map (H, W) over an image (C, H, W) in 0..1: (3, H', W') uint8.

    A class is its colour over grey, so that it looks the same everywhere, with an opaque outline. The class named
    background, and 255, show the image.
    """
    pixels, _ = _enlarged(image)
    labels = torch.as_tensor(classes_of_pixels)[None, None].float()
    labels = interpolate(labels, pixels.shape[1:], mode='nearest')[0]  # (1, H', W')
    colours = torch.tensor([_bright(label) for label in range(256)]).T[:, labels[0].long()]  # (3, H', W')
    grey = pixels.float().mean(0)
    washed = (0.6 * colours + 0.4 * (64 + 0.75 * grey)).to(torch.uint8)
    width = 2 * max(1, pixels.shape[1] // 250) + 1
    highest, lowest = (sign * max_pool2d(sign * labels, width, stride=1, padding=width // 2) for sign in (1, -1))
    drawn = torch.where(highest == lowest, washed, colours.to(torch.uint8))
    bare = [255, *(label for label, name in enumerate(classes) if name == _BACKGROUND)]
    return torch.where(torch.isin(labels.long(), torch.tensor(bare)), pixels, drawn)


def _legend(maps: Sequence[Any], classes: Sequence[str], width: int) -> Tensor:
    """Draws the names of the classes in maps on plates of their colours, in lines of ``width``: (3, H, width) uint8."""
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
    return pil_to_tensor(canvas)


def _enlarged(image: Tensor) -> tuple[Tensor, int]:
    """Repeats the pixels of a small image: (3, H', W') uint8, and the factor."""
    pixels = _rgb(image)
    factor = max(1, _SIDE // max(pixels.shape[1:]))
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2), factor


def _rgb(image: Tensor) -> Tensor:
    """(C, H, W) in 0..1 -> (3, H, W) uint8."""
    colours = image[:1].expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def _named(pixels: Tensor, boxes: Tensor, names: Sequence[str], colours: Sequence[tuple[int, ...]]) -> Tensor:
    """Draws each name on a plate of its box's colour, in the box's upper left corner."""
    canvas = to_pil_image(pixels)
    draw, size = ImageDraw.Draw(canvas), max(11, pixels.shape[1] // 40)
    for (left, top, _, _), name, colour in zip(boxes.tolist(), names, colours):
        letters = font(size, name)
        place = draw.textbbox((left + 2, max(0, top)), name, letters)
        draw.rectangle((place[0] - 2, place[1] - 1, place[2] + 2, place[3] + 1), fill=colour)
        draw.text((left + 2, max(0, top)), name, _ink(colour), letters)
    return pil_to_tensor(canvas)


def _captioned(pixels: Tensor, text: str) -> Tensor:
    """Adds a white line with the text, if any, above an image (3, H, W) uint8."""
    if not text:
        return pixels
    width, size = pixels.shape[2], max(12, pixels.shape[2] // 40)
    letters, height = font(size, text), size * 3 // 2
    line = Image.new('RGB', (width, height), 'white')
    text = fitting(text, width - 4, letters, middle=True)
    ImageDraw.Draw(line).text((2, height / 2), text, 'black', letters, anchor='lm')
    return torch.cat([pil_to_tensor(line), pixels], dim=1)


def _bright(label: int) -> tuple[int, ...]:
    """The colour of a class: hues a golden ratio apart, full, darker and paler in turn, to stand out from a picture.

    Any two of the first ten are at least 40 apart in CIE Lab, of the first twenty 24.
    """
    strength = ((1, 1), (0.85, 0.8), (0.5, 1))[label % 3]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label * 0.618034 % 1, *strength))


def _ink(colour: Sequence[int]) -> str:
    """The colour of legible text on a colour."""
    return 'white' if sum(part * weight for part, weight in zip(colour, (0.3, 0.6, 0.1))) < 128 else 'black'
