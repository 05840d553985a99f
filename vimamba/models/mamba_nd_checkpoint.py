"""Checkpoints of Mamba-ND: official layouts, and weights of images for models of clips."""

import math
import re
from typing import Any

from torch import Tensor, nn

from vimamba.checkpoint import model_weights
from vimamba.errors import UsageError
from vimamba.layers.pos_embed import resize_table, unfold_image

from ._builder import fit_channels, rename

__all__ = ['checkpoint_filter_fn', 'inflate']

_RENAMED = (  # official -> ours, in this order
    (r'^pos_embed$', 'stem.2.table'),
    (r'^patch_embed\.projection\.', 'stem.1.'),
    (r'\.mixer\.A_log$', '.mixer.routes.0.A_log'),
    (r'\.mixer\.(D$|conv1d\.|x_proj\.|dt_proj\.)', r'.mixer.projections.0.\1'),
    (r'^ln1\.', 'norm.'),
    (r'^(ln2|head\.0)\.', 'head.drop.0.'),
    (r'^(head\.1|cls_head\.fc_cls)\.', 'head.fc.'),
)
_RELEASED = (16, 14, 14)  # grid (times, rows, columns) of every released file of clips


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Any) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``.

    Files of images initialise models of clips by `inflate`. Positions of other grids are resized.

    Raises:
        UsageError: the file has no norm in front of the classifier (the authors' fine-tuning), but the model has one.
    """
    weights = _weights(state_dict)
    if 'stem.1.weight' not in weights:
        tuned = 'cls_head.fc_cls.weight' in weights
        weights = rename(weights, _RENAMED)
        if tuned and 'head.drop.0.weight' in model.state_dict():
            raise UsageError('the file has no norm in front of its classifier: build the model with head_norm=False')
        merged = next((i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)), None)
        if merged is not None and model.num_frames is None:
            at = (rf'^layers\.{merged}\.', f'layers.{merged}.1.')
            weights = rename(weights, (at, (r'^layers\.\d+\.down_sample_layer\.', f'layers.{merged}.0.')))
    patches, table = weights.get('stem.1.weight'), weights.get('stem.2.table')
    if model.num_frames is not None and patches is not None:
        if patches.ndim == 4:
            weights = inflate(weights, model)
            patches, table = weights['stem.1.weight'], weights.get('stem.2.table')
        elif table is not None and table.ndim == 3:
            table = _unfold(table, tuple(model.pos_embed.grid))
        weights['stem.1.weight'] = fit_channels(patches, model.in_chans)
    if table is not None:
        weights['stem.2.table'] = model.pos_embed.fit(table)
    return weights


def inflate(state_dict: dict[str, Any], model: Any) -> dict[str, Tensor]:
    """Initialises a model of clips from weights of images, as Mamba-ND's authors do (arXiv:2402.05892).

    Block j along rows or columns becomes block (j // 4) * 6 + j % 4. The two blocks along time of every six, and the
    head, keep their initial values. A patch reads the mean of its frames; positions are the same at all times.

    Args:
        state_dict: of the model of images, official or ours, with or without its wrapper.
        model: model of clips, built with ``num_frames``.

    Returns:
        A state dict of ``model``.

    Raises:
        UsageError: ``model`` is one of images, or has too few blocks for these weights.
    """
    weights = _weights(state_dict)
    if model.num_frames is None:
        raise UsageError('inflate: expected a model of clips, got one of images; build it with num_frames=')
    if 'stem.1.weight' not in weights:
        weights = rename(weights, _RENAMED)
    blocks = [int(match[1]) for key in weights if (match := re.match(r'layers\.(\d+)\.', key))]
    filled = [_place(block) for block in range(max(blocks, default=-1) + 1)]
    if filled and filled[-1] >= len(model.layers):
        depth = f'{len(filled)} blocks of images fill {filled[-1] + 1} of clips, this model has {len(model.layers)}'
        raise UsageError(f'inflate: {depth}; build it with depth={len(filled) // 4 * 6 + len(filled) % 4}')

    initial, inflated = model.state_dict(), {}
    inside = {i: f'layers.{i}.1.' for i, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)}
    for key, value in weights.items():
        if match := re.fullmatch(r'layers\.(\d+)\.(?:1\.)?((?:norm|mixer)\..+)', key):
            block = _place(int(match[1]))
            inflated[inside.get(block, f'layers.{block}.') + match[2]] = value
        elif not re.match(r'head\.|layers\.\d+\.(0|down_sample_layer)\.', key) and (
            key[:5] != 'norm.' or key in initial
        ):
            inflated[key] = value
    old = tuple(inside.get(block, f'layers.{block}.') for block in filled)
    new = [key for key in initial if key.startswith(('head.', 'layers.')) and not key.startswith(old)]
    inflated |= {key: initial[key] for key in new}

    patches, table = inflated.get('stem.1.weight'), inflated.get('stem.2.table')
    frames: int = model.tubelet_size
    times, *frame = model.pos_embed.grid
    if patches is not None and patches.ndim == 4:
        inflated['stem.1.weight'] = patches.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
    if table is not None and (table := unfold_image(table, tuple(frame))).ndim == 4:
        table = resize_table(table, frame)
        inflated['stem.2.table'] = table.unsqueeze(1).expand(-1, times, -1, -1, -1).clone()
    return inflated


def _weights(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a checkpoint without the prefix of a backbone."""
    weights = model_weights(state_dict, 'the checkpoint')
    return {key.removeprefix('backbone.'): value for key, value in weights.items()}


def _place(block: int) -> int:
    """Index of a block of images among the blocks of clips."""
    return block // 4 * 6 + block % 4


def _unfold(table: Tensor, model_grid: tuple[int, int, int]) -> Tensor:
    """Restores the grid of an official table of clips: (1, t h w, dim) -> (1, t, h, w, dim).

    Tries the grid of the released files, that of the model, frames of 14 x 14 (224 pixels), its times or its frames.
    """
    cells, (times, height, width) = table.shape[1], model_grid
    side = math.isqrt(cells // times)
    frames = (cells // 196, 14, 14), (times, side, side), (cells // (height * width), height, width)
    grid = next((guess for guess in (_RELEASED, model_grid, *frames) if math.prod(guess) == cells), None)
    return table if grid is None else table.unflatten(1, grid)
