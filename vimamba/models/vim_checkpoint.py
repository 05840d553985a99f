"""Checkpoints of Vim: official names to ours, and positions resized."""

import math
import re
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from vimamba.checkpoint import FORMAT, model_weights
from vimamba.layers import resize_pos_embed

from ._builder import unwrap

__all__ = ['checkpoint_filter_fn', 'rename', 'resize_positions']

_RENAMED = (('layers.', 'blocks.'), ('norm_f.', 'norm.'), ('.mixer.gamma', '.ls.gamma'))  # official -> ours
_ROUTE_KEYS = {  # parameters of a mixer, by route
    'A_log': 'routes.0.A_log',
    'A_b_log': 'routes.1.A_log',
    **{
        f'{name}{suffix}': f'projections.{k}.{name}'
        for k, suffix in enumerate(('', '_b'))
        for name in ('D', 'conv1d', 'x_proj', 'dt_proj')
    },
}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``.

    Published figures belong to the weights under 'model'; official training files also hold an average, 'model_ema'.
    Position tables of another size are resized around their class tokens. A table without an image size is taken for
    that of a square image.
    """
    return resize_positions(rename(state_dict, model), state_dict, model)


def rename(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a file under the names of ``model``."""
    prefixes = 'backbone.', 'net.', 'encoder.'  # of mmseg and detectron2
    state_dict = unwrap(model_weights(state_dict, 'the checkpoint'), *prefixes)
    for table in ('rope.freqs_cos', 'rope.freqs_sin'):  # buffers, here
        state_dict.pop(table, None)
    if 'cls_token_head' in state_dict:
        tokens = [state_dict.pop(f'cls_token_{end}') for end in ('head', 'tail')]
        state_dict['cls_token'] = torch.cat(tokens, 1)
    renamed = {}
    for key, value in state_dict.items():
        for old, new in _RENAMED:
            key = key.replace(old, new)
        prefix, _, rest = key.partition('.mixer.')
        name, *parameter = rest.split('.')
        if name in _ROUTE_KEYS:
            key = '.'.join((prefix + '.mixer', _ROUTE_KEYS[name], *parameter))
        if level := re.match(r'fpn([1-4])\.', key):
            key = _pyramid_key(key, int(level[1]) - 1, model)
        renamed[key] = value
    return renamed


def _pyramid_key(key: str, level: int, model: nn.Module) -> str:
    blocks = [] if model.feature_pyramid is None else list(model.feature_pyramid.reductions)
    return f'feature_pyramid.levels.{blocks[level]}.{key[5:]}' if blocks else key


def resize_positions(weights: dict[str, Tensor], checkpoint: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Resizes the position table of a checkpoint around its class tokens."""
    img_size = _source_size(checkpoint, model)
    table, embed = weights.get('pos_embed'), model.patch_embed
    if table is None or table.ndim != 3:
        return weights  # loading says what is missing
    patches, new_grid = table.shape[1] - model.num_class_tokens, embed.grid_size[-2:]  # of a frame, in clips
    if img_size:
        grid = embed.dynamic_feat_size(img_size)
    elif table.shape[1] == model.pos_embed.shape[1]:
        grid = new_grid
    else:
        grid = (math.isqrt(max(patches, 0)),) * 2
    if grid != new_grid and grid[0] * grid[1] == patches:
        rows = model.class_rows(patches), model.class_rows(new_grid[0] * new_grid[1])
        weights['pos_embed'] = resize_pos_embed(table, grid, new_grid, *rows)
    return weights


def _source_size(state_dict: dict[str, Any], model: nn.Module) -> tuple[int, int] | None:
    """Image size of the weights, if their file or folder states it."""
    config = state_dict.get('config') if state_dict.get('format') == FORMAT else None
    source = config['model'] if config else getattr(model, 'pretrained_model_args', {})
    return to_2tuple(size) if (size := source.get('img_size')) else None
