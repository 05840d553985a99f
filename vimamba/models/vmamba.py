"""VMamba: a pyramid whose blocks scan the map along rows and columns in both directions (SS2D).

Paper: VMamba: Visual State Space Model, arXiv:2401.10166.
Official code and weights: MzeroMiko/VMamba, MIT.

    image -> stem (1/4) -> 4 x Stage of Block(norm, GridMixer on 'cross', norm, MLP) -> norm -> mean -> head
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import calculate_drop_path_rates
from timm.models import generate_default_cfgs
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from vimamba.errors import bad_argument, check_integers
from vimamba.layers import Block
from vimamba.layers.channels_last import Conv2d, ToMap
from vimamba.layers.mlp import Mlp
from vimamba.mixers import GridMixer, find_mixer, mixer_per_block
from vimamba.scans import schedule
from vimamba.scans.schedules import Schedule

from ._backbone import MapBackbone, Stage
from ._builder import build_model, imagenet_cfg, register_variant, rename, reshape_like, unwrap

__all__ = ['VMamba', 'checkpoint_filter_fn']

_NORM = partial(nn.LayerNorm, eps=1e-5)


class VMamba(MapBackbone):
    """VMamba (arXiv:2401.10166), on images of any size.

    Args:
        in_chans: image channels.
        embed_dim: width of the first stage; each stage doubles it.
        depths: blocks of each stage.
        mixer: a registered mixer, or a list with one per block; see `vimamba.mixers.list_mixers`.
        scan: a scan order, a schedule, or an order per block; see `vimamba.scans.schedule`.
        merge: 'sum' of the routes, or 'attention', the sum after channel attention per route (LocalVMamba).
        d_state: states per channel; None for 1 with Mamba-1 and Mamba-2, else the mixer's default.
        expand: d_inner / width of the stage.
        conv_bias: add a bias to the depthwise convolution.
        gate: multiply the output of the scan by silu(z), z from the input projection.
        mlp_ratio: width of the MLP / width of the stage; 0 for no MLP.
        stem: 'overlap' (two 3x3 convolutions of stride 2) or 'patch' (one 4x4 of stride 4).
        downsample: 'overlap' (3x3 convolution of stride 2), 'patch' (2x2) or 'merge' (Swin's patch merging).
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.
        options: further arguments of `MapBackbone`.

    | initial values | |
    |---|---|
    | in_proj, out_proj, MLP, head | truncated normal, std 0.02; bias 0 |
    | convolutions | PyTorch's: uniform, bound fan_in^-1/2 |
    | x_proj, dt_proj, dt_bias, A_log, D | those of the mixer |
    | norms | 1; bias 0 |

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> import torch
    >>> model = VMamba(embed_dim=16, depths=(1, 1, 1, 1), num_classes=10)
    >>> model(torch.zeros(1, 3, 48, 64)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 8, 2),
        mixer: str | Sequence[str] = 'mamba1',
        scan: Schedule = 'cross',
        merge: str = 'sum',
        d_state: int | None = None,
        expand: float = 1.0,
        conv_bias: bool = False,
        gate: bool = False,
        mlp_ratio: float = 4.0,
        stem: str = 'overlap',
        downsample: str = 'overlap',
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, in_chans=in_chans, embed_dim=embed_dim, **({} if d_state is None else {'d_state': d_state}))
        dd = {'device': device, 'dtype': dtype}
        depth = sum(depths)
        scans, mixers = iter(schedule(scan, depth)), iter(mixer_per_block(mixer, depth))
        rates = iter(calculate_drop_path_rates(drop_path_rate, depth))
        shell = {'expand': expand, 'conv_bias': conv_bias, 'gate': gate, 'merge': merge}
        widths = [embed_dim * 2**i for i in range(len(depths))]

        def block(dim: int) -> Block:
            name = next(mixers)
            states = 1 if d_state is None and name in ('mamba1', 'mamba2') else d_state
            options = shell if states is None else {**shell, 'd_state': states}
            return Block(
                _NORM(dim, **dd),
                GridMixer(dim, next(scans), find_mixer(name), **options, **dd),
                dim,
                norm2=_NORM(dim, **dd) if mlp_ratio else None,
                mlp=Mlp(dim, int(dim * mlp_ratio), **dd) if mlp_ratio else None,
                drop_path=next(rates),
            )

        stages = [
            Stage(
                nn.Identity() if i == 0 else _downsample(downsample, widths[i - 1], width, dd),
                [block(width) for _ in range(depths[i])],
            )
            for i, width in enumerate(widths)
        ]
        super().__init__(
            stem=_stem(stem, in_chans, embed_dim, dd),
            layers=stages,
            widths=widths,
            reductions=[4 * 2**i for i in range(len(depths))],
            norm=_NORM(widths[-1], **dd),
            smallest=4 if stem == 'patch' else 1,
            in_chans=in_chans,
            **options,
            **dd,
        )
        self.init_weights()


def _stem(kind: str, in_chans: int, dim: int, dd: dict[str, Any]) -> nn.Sequential:
    if kind == 'patch':
        return nn.Sequential(ToMap(), Conv2d(in_chans, dim, 4, 4, **dd), _NORM(dim, **dd))
    if kind != 'overlap':
        raise bad_argument('stem', "'overlap' or 'patch'", repr(kind))
    half = dim // 2
    first = Conv2d(in_chans, half, 3, 2, 1, **dd), _NORM(half, **dd), nn.GELU()
    return nn.Sequential(ToMap(), *first, Conv2d(half, dim, 3, 2, 1, **dd), _NORM(dim, **dd))


def _downsample(kind: str, dim: int, out: int, dd: dict[str, Any]) -> nn.Module:
    if kind == 'merge':
        return PatchMerging(dim, out, _NORM, **dd)
    if kind not in ('overlap', 'patch'):
        raise bad_argument('downsample', "'overlap', 'patch' or 'merge'", repr(kind))
    conv = Conv2d(dim, out, 3, 2, 1, **dd) if kind == 'overlap' else Conv2d(dim, out, 2, 2, **dd)
    return nn.Sequential(conv, _NORM(out, **dd))


ATTENTION_NAMES = (  # of the channel attention of LocalMamba and EfficientVMamba
    (r'\.global_reduce\.', '.reduce.'),
    (r'\.channel_select\.', '.expand.'),
)
SS2D_NAMES = (  # of models with SS2D, official -> ours, in this order; the first six in the first files of 2024
    (r'\.ln_1\.', '.norm.'),
    (r'\.self_attention\.', '.op.'),
    (r'^patch_embed\.proj\.', 'patch_embed.0.'),
    (r'^patch_embed\.norm\.', 'patch_embed.2.'),
    (r'^(classifier\.)?norm\.', 'norm.'),
    (r'^(classifier\.)?head\.', 'head.fc.'),
    (r'^outnorm(\d)\.', r'feature_norms.\1.'),
    (r'^patch_embed\.0\.', 'stem.1.'),
    (r'^patch_embed\.2\.', 'stem.2.'),
    (r'\.op\.', '.mixer.'),
    (r'\.mixer\.x_proj(_|\.)weight', '.mixer.ssm.x_proj'),
    (r'\.mixer\.dt_projs(_|\.)weight', '.mixer.ssm.dt_proj'),
    (r'\.mixer\.dt_projs_bias', '.mixer.ssm.dt_bias'),
    (r'\.mixer\.A_logs', '.mixer.ssm.A_log'),
    (r'\.mixer\.Ds', '.mixer.ssm.D'),
    (r'\.mixer\.out_norm\.', '.mixer.norm.'),
    *ATTENTION_NAMES,
)
_RENAMED = (
    *SS2D_NAMES,
    (r'^patch_embed\.5\.', 'stem.4.'),
    (r'^patch_embed\.7\.', 'stem.5.'),
    (r'\.mixer\.conv2d\.1\.', '.mixer.conv2d.'),
    (r'\.mixer\.multi_scan\.attn\.', '.mixer.ssm.merge.'),
)
_LATER = (r'(?<=^layers\.)\d(?=\.downsample\.)', lambda m: str(int(m[0]) + 1))  # ours belongs to the next stage
_MERGE = ((r'\.downsample\.1\.', '.downsample.norm.'), (r'\.downsample\.2\.', '.downsample.reduction.'))
_CONV = ((r'\.downsample\.1\.', '.downsample.0.'), (r'\.downsample\.3\.', '.downsample.1.'))


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file in any of its layouts, or a state dict of ours, to the state dict of ``model``.

    Layouts: classification/models/vmamba.py, its files of v0, the one-file vmamba.py, LocalVMamba's, and the backbones
    of detection and segmentation (`feature_norm`).
    """
    weights = unwrap(state_dict, 'backbone.')
    if 'stem.1.weight' in weights:
        return weights
    one_file = any('.downsample.2.' in key for key in weights)
    weights = rename(weights, (*_RENAMED, *(_MERGE if one_file else _CONV), _LATER))
    return reshape_like(weights, model)


_cfg = partial(
    imagenet_cfg, license='mit', origin_url='https://github.com/MzeroMiko/VMamba', paper_ids='arXiv:2401.10166'
)
_V0 = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssm{}.pth'
_V2 = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm{}.pth'

default_cfgs = generate_default_cfgs(
    {
        'vmamba_tiny_s1l8.mzero_in1k': _cfg(_V2.format('1_tiny_0230s_ckpt_epoch_264'), top1=82.6),
        'vmamba_small_s1l20.mzero_in1k': _cfg(_V2.format('1_small_0229s_ckpt_epoch_240'), top1=83.3),
        'vmamba_base_s1l20.mzero_in1k': _cfg(_V2.format('1_base_0229s_ckpt_epoch_225'), top1=83.8),
        'vmamba_tiny_s2l5.mzero_in1k': _cfg(_V2.format('_tiny_0230_ckpt_epoch_262'), top1=82.5),
        'vmamba_small_s2l15.mzero_in1k': _cfg(_V2.format('_small_0229_ckpt_epoch_222'), top1=83.6),
        'vmamba_base_s2l15.mzero_in1k': _cfg(_V2.format('_base_0229_ckpt_epoch_237'), top1=83.9),
        'vmamba_v0_tiny.mzero_in1k': _cfg(_V0.format('tiny_dp01_ckpt_epoch_292'), top1=82.2),
        'vmamba_v0_small.mzero_in1k': _cfg(_V0.format('small_dp03_ckpt_epoch_238'), top1=83.5),
        'vmamba_v0_base.mzero_in1k': _cfg(_V0.format('base_dp06_ckpt_epoch_241'), top1=83.7),
        'vmamba_tiny_m2.untrained': _cfg(),
        'vmamba_small_m2.untrained': _cfg(),
        'vmamba_base_m2.untrained': _cfg(),
        'test_vmamba.untrained': _cfg(input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)

V0 = {
    'd_state': 16,
    'expand': 2.0,
    'conv_bias': True,
    'gate': True,
    'mlp_ratio': 0.0,
    'stem': 'patch',
    'downsample': 'merge',
}


_build = partial(build_model, VMamba, filter_fn=checkpoint_filter_fn, feature_indices=(0, 1, 2, 3))
_register = partial(register_variant, __name__, _build)
_GRID: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    # name: (description, arguments, blocks of the third stage of T, S and B, parameters in millions of T, S and B)
    'vmamba_{size}_s1l{depth}': ('d_inner equal to the width', {}, (8, 20, 20), (30, 49, 87)),
    'vmamba_{size}_s2l{depth}': ('d_inner of twice the width', {'expand': 2.0}, (5, 15, 15), (31, 50, 89)),
    'vmamba_v0_{size}': ("the paper's first version, gated, without MLPs", V0, (9, 27, 27), (23, 44, 76)),
    'vmamba_{size}_m2': (
        'with the Mamba-2 mixer, no published weights',
        {'mixer': 'mamba2', 'd_state': 64},
        (4, 12, 12),
        (25, 39, 68),
    ),
}
for _name, (_what, _arguments, _depths, _millions) in _GRID.items():
    for _size, _width, _depth, _m in zip(('tiny', 'small', 'base'), (96, 96, 128), _depths, _millions):
        _doc = f'VMamba-{_size[0].upper()}, {_m} M parameters: {_what}.'
        _args = {'embed_dim': _width, 'depths': (2, 2, _depth, 2), **_arguments}
        _register(_name.format(size=_size, depth=_depth), _doc, **_args)


_register('test_vmamba', 'VMamba for tests and small images.', embed_dim=32, depths=(1, 1, 2, 1))
