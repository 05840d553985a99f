"""Images with their targets and a model's predictions, as one picture."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from vimamba.errors import bad_argument
from vimamba.outputs import whole_file

from .contact_sheet import Row, Tile, contact_sheet, distinct, grid, sheet
from .fonts import fitting, font, font_file

__all__ = ['draw_answers', 'draw_map', 'draw_objects', 'picture']

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
    captions = ['truth', 'prediction'] if len(said_of) == 2 else ['']
    if task == 'detection' and captions[1:]:
        captions[1] += f', scores from {100 * threshold:g} %'
    tiles = []
    for name, image, *row in zip(names, images, *said_of):
        if task == 'detection':
            halves = [draw_objects(image, said, classes, threshold) for said in row]
        else:
            halves = [draw_map(image, _labels(said), classes) for said in row]
        lines = [f'{name}  {captions[0]}'.strip(), *captions[1:]]
        tile = torch.cat([_captioned(half, line) for half, line in zip(halves, lines)], dim=2)
        if task == 'segmentation':
            tile = torch.cat([tile, _legend(row, classes, tile.shape[2])], dim=1)
        tiles.append(to_pil_image(tile))
    columns = min(1 if len(tiles) < 4 else 2 if len(tiles) < 12 else 3, _WIDTH // max(tile.width for tile in tiles))
    return grid(tiles, max(1, columns), gap=6)


def draw_answers(answers: Any, out: str | os.PathLike[str]) -> None:
    """Draws `vimamba.tasks.predict.files.Answers`: the first files, with all boxes found. Without files, does nothing.

    Raises:
        UsageError: ``out`` cannot be written.
    """
    if answers.found:
        if answers.labels:
            drawn = contact_sheet(answers.found, videos=answers.what == 'video')
        else:
            shown = [(r.image, r.output, r.path) for r in answers.found if r.image is not None]
            images, outputs, names = zip(*shown)
            drawn = picture(answers.task, images, None, outputs, answers.classes, names, threshold=0)
        with whole_file(out) as part:
            drawn.save(part)


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
    file, places = font_file(''.join(names)), boxes[keep].clamp(min=0) * factor
    letters: dict[str, Any] = {'font': file, 'font_size': max(11, pixels.shape[1] // 40)} if file else {}
    plates = {'label_colors': [_ink(colour) for colour in colours], 'fill_labels': True}
    return draw_bounding_boxes(pixels, places, names, colours, width=_line(pixels), **plates, **letters)


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
    width = 2 * _line(pixels) + 1
    highest, lowest = (sign * max_pool2d(sign * labels, width, stride=1, padding=width // 2) for sign in (1, -1))
    drawn = torch.where(highest == lowest, washed, colours.to(torch.uint8))
    bare = [255, *(label for label, name in enumerate(classes) if name == _BACKGROUND)]
    return torch.where(torch.isin(labels.long(), torch.tensor(bare)), pixels, drawn)


def _legend(maps: Sequence[Any], classes: Sequence[str], width: int) -> Tensor:
    """Draws the names of the classes in maps on plates of their colours, in lines of ``width``: (3, H, width) uint8."""
    largest = torch.stack([torch.bincount(m.flatten(), minlength=256) / m.numel() for m in map(_labels, maps)]).amax(0)
    present = [i for i, name in enumerate(classes) if largest[i] > _NAMED and name != _BACKGROUND]
    canvas = Image.new('RGB', (width, 3 + 19 * len(present)), 'white')
    draw, left, top = ImageDraw.Draw(canvas), 2, 3
    for label in present:
        name, letters = classes[label], font(12, classes[label])
        wide = int(letters.getlength(name)) + 10
        if left > 2 and left + wide > width:
            left, top = 2, top + 19
        draw.rectangle((left, top, left + wide - 3, top + 16), fill=_bright(label))
        draw.text((left + 3, top + 1), name, _ink(_bright(label)), letters)
        left += wide
    return pil_to_tensor(canvas)[:, : top + 19]


def _enlarged(image: Tensor) -> tuple[Tensor, int]:
    """Repeats the pixels of a small image: (3, H', W') uint8, and the factor."""
    pixels = _rgb(image)
    factor = max(1, _SIDE // max(pixels.shape[1:]))
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2), factor


def _rgb(image: Tensor) -> Tensor:
    """(C, H, W) in 0..1 -> (3, H, W) uint8."""
    colours = image[:1].expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)


def _line(pixels: Tensor) -> int:
    """The width of an outline in pixels."""
    return max(1, pixels.shape[1] // 250)


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
