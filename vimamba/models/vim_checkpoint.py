"""Checkpoints of Vim: official names to ours, and positions resized."""

import math
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from vimamba.checkpoint import FORMAT
from vimamba.layers import resize_pos_embed

from ._builder import rename as rename_keys
from ._builder import unwrap

__all__ = ['checkpoint_filter_fn', 'rename', 'resize_positions']

_RENAMED = (  # official -> ours, in this order
    (r'^layers\.', 'blocks.'),
    (r'^norm_f\.', 'norm.'),
    (r'\.mixer\.gamma$', '.ls.gamma'),
    (r'\.mixer\.A_log$', '.mixer.routes.0.A_log'),
    (r'\.mixer\.A_b_log$', '.mixer.routes.1.A_log'),
    (r'\.mixer\.(D|conv1d|x_proj|dt_proj)_b\b', r'.mixer.projections.1.\1'),
    (r'\.mixer\.(D|conv1d|x_proj|dt_proj)\b', r'.mixer.projections.0.\1'),
)


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
    state_dict = unwrap(state_dict, *prefixes)
    for table in ('rope.freqs_cos', 'rope.freqs_sin'):  # buffers, here
        state_dict.pop(table, None)
    if 'cls_token_head' in state_dict:
        tokens = [state_dict.pop(f'cls_token_{end}') for end in ('head', 'tail')]
        state_dict['cls_token'] = torch.cat(tokens, 1)
    levels = [] if model.feature_pyramid is None else list(model.feature_pyramid.reductions)  # the block of each
    fpn = (r'^fpn([1-4])\.', lambda m: f'feature_pyramid.levels.{levels[int(m[1]) - 1]}.' if levels else m[0])
    return rename_keys(state_dict, (*_RENAMED, fpn))


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
