"""LocalMamba: Vim and VMamba whose layers scan rows, columns and windows, found by a search for each layer.

Paper: LocalMamba: Visual State Space Model with Windowed Selective Scan, arXiv:2403.09338.
Official code and weights: hunto/LocalMamba, Apache-2.0 (no other licence is stated for the weights).

    LocalVim = Vim(scan='local_vim_tiny', merge='attention', rope=True)
    LocalVMamba = VMamba(scan='local_vmamba_tiny', merge='attention')

Official code loses the weights of three of four routes when it loads a file on a CPU, and misplaces columns on grids
that are not square. Here every route keeps its weights, and every token returns to its place.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from vimamba.errors import bad_argument

from . import vmamba
from ._builder import build_model, imagenet_cfg, register_variant, rename, sequence_cfg
from .vim import Vim, rename_weights, resize_positions
from .vmamba import ATTENTION_NAMES, V0, VMamba

__all__ = ['checkpoint_filter_fn']

_RENAMED = (  # official LocalVim -> ours, in this order; the rest as in Vim
    (r'\.mixer\.A_log_(\d)$', r'.mixer.routes.\1.A_log'),
    (r'\.mixer\.D_(\d)$', r'.mixer.projections.\1.D'),
    (r'\.mixer\.(conv1d|x_proj|dt_proj)_(\d)\.', r'.mixer.projections.\2.\1.'),
    (r'\.mixer\.attn\.', '.mixer.attention.'),
    *ATTENTION_NAMES,
)


def checkpoint_filter_fn(
    state_dict: dict[str, Any], model: nn.Module, out_indices: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Converts an official file of either family, or a state dict of ours, to the state dict of ``model``.

    LocalVim's backbones number the norms of their maps; ``out_indices`` are the blocks of these maps. Their blocks have
    LayerNorms, which take the weights of a classifier's RMS norms; the biases start at 0.
    """
    if isinstance(model, VMamba):
        return vmamba.checkpoint_filter_fn(state_dict, model)
    weights = rename_weights(state_dict, model)
    norms = {key for key in weights if key.startswith('outnorm_')}
    if norms and len({key.split('.')[0] for key in norms}) != len(out_indices):
        raise bad_argument('out_indices', f'the blocks of {len(norms) // 2} maps in the file', repr(out_indices))
    blocks = [index % len(model.blocks) for index in out_indices]
    outnorm = (r'^outnorm_(\d+)\.', lambda m: f'feature_norms.{blocks[int(m[1])]}.')
    renamed = rename(weights, (*_RENAMED, outnorm))
    for key, value in model.state_dict().items():
        if key.endswith('norm.bias') and key not in renamed and key.replace('bias', 'weight') in renamed:
            renamed[key] = torch.zeros_like(value)
    return resize_positions(renamed, state_dict, model)


_ORIGIN: dict[str, Any] = {
    'license': 'apache-2.0',
    'origin_url': 'https://github.com/hunto/LocalMamba',
    'paper_ids': 'arXiv:2403.09338',
}
_vim_cfg, _vmamba_cfg = (partial(cfg, **_ORIGIN) for cfg in (sequence_cfg, imagenet_cfg))
_FILES = 'https://github.com/hunto/LocalMamba/releases/download/v1.0.0/{}.ckpt'

default_cfgs = generate_default_cfgs(
    {
        'local_vim_tiny.hunto_in1k': _vim_cfg(_FILES.format('local_vim_tiny'), top1=76.2),
        'local_vim_tiny_midcls.hunto_in1k': _vim_cfg(_FILES.format('local_vim_tiny_middle_cls_token'), top1=77.8),
        'local_vim_small.untrained': _vim_cfg(),  # the published file is another model's
        'local_vim_small_searched.untrained': _vim_cfg(),
        'local_vmamba_tiny.untrained': _vmamba_cfg(),  # its authors are training it again
        'local_vmamba_small.hunto_in1k': _vmamba_cfg(_FILES.format('local_vssm_small'), top1=83.7),
        'test_local_vim.untrained': _vim_cfg(input_size=(3, 64, 64)),
        'test_local_vmamba.untrained': _vmamba_cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def _local_vim(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    indices = kwargs.get('out_indices') or kwargs.get('feature_pyramid') or (-3, -2, -1)
    args = {'depth': 20, 'scan': 'local_vim_tiny', 'merge': 'attention', 'class_token': 'none', 'rope': True}
    filter_fn = partial(checkpoint_filter_fn, out_indices=indices)
    return build_model(Vim, variant, pretrained, filter_fn, **{**args, 'pad_image': True, **kwargs})


_build = partial(build_model, VMamba, filter_fn=checkpoint_filter_fn, feature_indices=(0, 1, 2, 3))
_vim = partial(register_variant, __name__, _local_vim)
_vmamba = partial(register_variant, __name__, _build, merge='attention', **V0)

_vim('local_vim_tiny', 'LocalVim-T, 8 M parameters: no class token, rotary positions.')
_middle = 'LocalVim-T with a class token in the middle, 8 M parameters.'
_vim('local_vim_tiny_midcls', _middle, class_token='middle', rope=False)
_small = 'LocalVim-S, 28 M parameters: rows and 2 x 2 windows in every layer.'
_vim('local_vim_small', _small, embed_dim=384, scan='local')
_searched = 'LocalVim-S with the orders found for LocalVim-T, which official code defines but does not register.'
_vim('local_vim_small_searched', _searched, embed_dim=384)
_test = {'img_size': 64, 'patch_size': 8, 'embed_dim': 32, 'depth': 4, 'scan': 'local'}
_vim('test_local_vim', 'LocalVim for tests and small images.', **_test)

_tiny = 'LocalVMamba-T, 26 M parameters; no published weights.'
_vmamba('local_vmamba_tiny', _tiny, depths=(2, 2, 9, 2), scan='local_vmamba_tiny')
_vmamba('local_vmamba_small', 'LocalVMamba-S, 50 M parameters.', depths=(2, 2, 27, 2), scan='local_vmamba_small')
_test = {'embed_dim': 32, 'depths': (1, 1, 2, 1), 'd_state': 4, 'scan': 'local'}
_vmamba('test_local_vmamba', 'LocalVMamba for tests and small images.', **_test)
