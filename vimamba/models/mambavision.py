"""MambaVision: two stages of convolutions, then two of windows whose blocks first scan, then attend.

Paper: MambaVision: A Hybrid Mamba-Transformer Vision Backbone, arXiv:2407.08083.
Official weights: NVlabs/MambaVision, CC-BY-NC-SA-4.0. This file was
written from the paper, the layout of the weights and the outputs of the official models; the code there is
non-commercial and not part of it.

    image -> stem (1/4) -> Stage of ConvBlock -> Stage of ConvBlock -> WindowStage of Block(ConcatMixer or attention)
          -> WindowStage of Block(ConcatMixer or attention) -> BatchNorm -> mean -> head
"""

from functools import partial
from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vimamba.errors import bad_argument, check_integers, integer, several
from vimamba.layers import Block
from vimamba.layers.channels_last import BatchNorm, ChannelsLast, Conv2d, ToMap, pad_map
from vimamba.layers.linear import dense
from vimamba.layers.mlp import Mlp
from vimamba.layers.norm import BatchNorm2d
from vimamba.mixers import ConcatMixer
from vimamba.scans import create_order

from ._backbone import MapBackbone, Stage
from ._builder import build_model, imagenet_cfg, register_variant, rename, unwrap

__all__ = ['MambaVision', 'checkpoint_filter_fn']

_PAIR = several(integer(1), 2)  # of the last two stages


class ConvBlock(nn.Module):
    """x + drop_path(norm2(conv2(gelu(norm1(conv1(x)))))), 3x3 convolutions. Shape: (b, h, w, dim), kept."""

    def __init__(self, dim: int, drop_path: float = 0.0, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, **dd)
        self.norm1 = BatchNorm2d(dim, **dd)
        self.act = nn.GELU(approximate='tanh')
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, **dd)
        self.norm2 = BatchNorm2d(dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x.permute(0, 3, 1, 2))))
        return x + self.drop_path(self.norm2(self.conv2(y))).permute(0, 2, 3, 1)


class WindowStage(Stage):
    """A stage whose blocks run on windows of ``window_size`` squared; the map is padded to whole windows.

    Shape: (b, h, w, c) -> (b, h', w', c').
    """

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module], window_size: int):
        super().__init__(downsample, blocks)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        x, sides = self.downsample(x), (self.window_size, self.window_size)
        height, width = x.shape[1], x.shape[2]
        x = pad_map(x, self.window_size)
        windows = window_partition(x, sides).flatten(1, 2)
        for block in self.blocks:
            windows = checkpoint(block, windows, use_reentrant=False) if self.grad_checkpointing else block(windows)
        return window_reverse(windows.unflatten(1, sides), sides, x.shape[1], x.shape[2])[
            :, :height, :width
        ].contiguous()


class Attention(timm.layers.Attention):
    """timm's multi-head self-attention by the dense layers of this package. Shape: (b, l, dim), kept."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = dense(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return dense(self.proj, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MambaVision(MapBackbone):
    """MambaVision (arXiv:2407.08083), on images of any size.

    The size of the windows does not depend on the image; `set_input_size` changes it.

    Args:
        in_chans: image channels.
        stem_dim: channels between the two convolutions of the stem.
        embed_dim: channels of the first stage; each stage doubles them.
        depths: blocks of the four stages; in the last two, the first half, rounded up, scan and the others attend.
        num_heads: attention heads of the last two stages.
        window_size: side of the windows of the last two stages, in tokens.
        d_state: states per channel.
        scan: a scan order in a window, or several; see `vimamba.scans.list_orders`.
        mlp_ratio: width of the MLPs / width of the stage.
        layer_scale: initial value of LayerScale in the last two stages; None for no LayerScale.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.
        options: further arguments of `MapBackbone`.

    | initial values | |
    |---|---|
    | dense layers, dt_proj included | truncated normal, std 0.02; bias 0 |
    | convolutions | PyTorch's: uniform, bound fan_in^-1/2 |
    | A_log | log(1 ... d_state) on every channel; D = 1 |
    | norms, layer scale | 1 and 0; ``layer_scale`` |

    As in official code, dt_proj.bias is 0: steps start at softplus(0) = 0.69, not in Mamba's 0.001 to 0.1.

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> model = MambaVision(embed_dim=16, depths=(1, 1, 2, 2), num_heads=(2, 4), num_classes=10)
    >>> model(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        in_chans: int = 3,
        stem_dim: int = 32,
        embed_dim: int = 80,
        depths: tuple[int, int, int, int] = (1, 3, 8, 4),
        num_heads: tuple[int, int] = (8, 16),
        window_size: tuple[int, int] = (14, 7),
        d_state: int = 8,
        scan: str | tuple[str, ...] = 'raster',
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, in_chans=in_chans, stem_dim=stem_dim, embed_dim=embed_dim)
        depths = several(integer(1), 4)(depths, 'depths')
        heads, windows = _PAIR(num_heads, 'num_heads'), _PAIR(window_size, 'window_size')
        dd = {'device': device, 'dtype': dtype}
        widths = [embed_dim << i for i in range(4)]
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages: list[Stage] = []
        for i, dim in enumerate(widths):
            down = Conv2d(dim // 2, dim, 3, 2, 1, bias=False, **dd) if i else nn.Identity()
            if i < 2:
                stages.append(Stage(down, [ConvBlock(dim, next(rates), **dd) for _ in range(depths[i])]))
                continue
            if dim % heads[i - 2]:
                raise bad_argument('num_heads', f'a divisor of {dim} in stage {i}', heads[i - 2])
            order = create_order(scan, (windows[i - 2],) * 2)
            scans = (depths[i] + 1) // 2
            mixers: list[nn.Module] = [ConcatMixer(dim, order, d_state, **dd) for _ in range(scans)]
            mixers += [Attention(dim, heads[i - 2], qkv_bias=True, **dd) for _ in range(scans, depths[i])]
            blocks = [
                Block(
                    nn.LayerNorm(dim, **dd),
                    mixer,
                    dim,
                    norm2=nn.LayerNorm(dim, **dd),
                    mlp=Mlp(dim, int(dim * mlp_ratio), **dd),
                    drop_path=next(rates),
                    layer_scale=layer_scale,
                    **dd,
                )
                for mixer in mixers
            ]
            stages.append(WindowStage(down, blocks, windows[i - 2]))
        super().__init__(
            stem=_stem(in_chans, stem_dim, embed_dim, dd),
            layers=stages,
            widths=widths,
            reductions=[4, 8, 16, 32],
            norm=BatchNorm(widths[-1], **dd),
            in_chans=in_chans,
            **options,
            **dd,
        )
        self.scan = scan
        self.init_weights()

    def init_weights(self) -> None:
        self.init_non_persistent_buffers()
        super().init_weights()

    def set_input_size(
        self, img_size: int | tuple[int, int], window_size: tuple[int, int] | None = None, **arguments: Any
    ) -> None:
        """Changes the nominal image size in pixels and, if given, the windows.

        Dense tasks want windows that cover the maps, ceil(size / 16) and ceil(size / 32). No weight depends on them.
        """
        if window_size is not None:
            for stage, size in zip(self.layers[2:], _PAIR(window_size, 'window_size')):
                stage.window_size = size
            self.init_non_persistent_buffers()
            arguments['window_size'] = window_size
        super().set_input_size(img_size, **arguments)

    def init_non_persistent_buffers(self) -> None:
        """Rebuilds the route tables on the device of the parameters, for example after `to_empty`."""
        for stage in self.layers[2:]:
            for block in stage.blocks:
                if isinstance(block.mixer, ConcatMixer):
                    block.mixer.set_order(create_order(self.scan, (stage.window_size,) * 2))


def _stem(in_chans: int, stem_dim: int, dim: int, dd: dict[str, Any]) -> nn.Sequential:
    """Two 3x3 convolutions of stride 2: (b, in_chans, H, W) -> (b, H / 4, W / 4, dim)."""
    convs: list[nn.Module] = []
    for inputs, outputs in ((in_chans, stem_dim), (stem_dim, dim)):
        convs += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False, **dd), BatchNorm2d(outputs, 1e-4, **dd), nn.ReLU()]
    return nn.Sequential(ChannelsLast(), *convs, ToMap())


_RENAMED = (  # official -> ours, in this order
    (r'^patch_embed\.conv_down\.(\d)\.', lambda m: f'stem.{int(m[1]) + 1}.'),
    (r'^levels\.(\d)\.downsample\.reduction\.0\.', lambda m: f'layers.{int(m[1]) + 1}.downsample.'),
    (r'^levels\.', 'layers.'),
    (r'(?<=^layers\.[23]\.blocks\.)(\d+)\.norm1\.', r'\1.norm.'),
    (r'\.gamma_1$', '.ls.gamma'),
    (r'\.gamma_2$', '.ls2.gamma'),
    (r'^outnorm(\d)\.', r'feature_norms.\1.'),
    (r'^norm\.', 'norm.bn.'),
    (r'^head\.', 'head.fc.'),
)
_WRAPPERS = ('module.', 'encoder.', 'backbone.', 'model.')  # prefixes in some files, whose other keys are not weights


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``."""
    weights = unwrap(state_dict, *_WRAPPERS)
    if not any(key.startswith('levels.') for key in weights):
        return weights
    renamed = rename(weights, _RENAMED)
    for x in [key for key in renamed if key.endswith('.conv1d_x.weight')]:
        z = x.replace('conv1d_x', 'conv1d_z')
        if z in renamed:  # else loading says what is missing
            renamed[x.replace('conv1d_x', 'conv1d')] = torch.cat((renamed.pop(x), renamed.pop(z)))
    return renamed


def _cfg(repository: str, file: str, top1: float, top5: float, size: int = 224, **kwargs: Any) -> dict[str, Any]:
    url = f'https://huggingface.co/nvidia/MambaVision-{repository}/resolve/main/mambavision_{file}.pth.tar'
    return _untrained(size, url=url, top1=top1, top5=top5, **{'license': 'cc-by-nc-sa-4.0', **kwargs})


def _untrained(size: int, **kwargs: Any) -> dict[str, Any]:
    defaults = {'crop_pct': 1.0, 'license': 'apache-2.0', 'input_size': (3, size, size), 'pool_size': (size // 32,) * 2}
    origin = {'origin_url': 'https://github.com/NVlabs/MambaVision', 'paper_ids': 'arXiv:2407.08083'}
    return imagenet_cfg(**{**defaults, **origin, **kwargs})


_512 = {'size': 512, 'crop_pct': 0.93, 'crop_mode': 'squash'}

default_cfgs = generate_default_cfgs(
    {
        'test_mambavision.untrained': _untrained(160),
        'mambavision_tiny.nvidia_in1k': _cfg('T-1K', 'tiny_1k', 82.3, 96.2),
        'mambavision_tiny2.nvidia_in1k': _cfg('T2-1K', 'tiny2_1k', 82.7, 96.3, crop_pct=0.98),
        'mambavision_small.nvidia_in1k': _cfg('S-1K', 'small_1k', 83.3, 96.5, crop_pct=0.93),
        'mambavision_base.nvidia_in1k': _cfg('B-1K', 'base_1k', 84.2, 96.9),
        'mambavision_base.nvidia_in21k_ft_in1k': _cfg('B-21K', 'base_21k', 84.9, 97.5),
        'mambavision_large.nvidia_in1k': _cfg('L-1K', 'large_1k', 85.0, 97.1),
        'mambavision_large.nvidia_in21k_ft_in1k': _cfg('L-21K', 'large_21k', 86.1, 97.9),
        'mambavision_large2.nvidia_in1k': _cfg('L2-1K', 'large2_1k', 85.3, 97.2),
        'mambavision_large2_512.nvidia_in21k_ft_in1k': _cfg('L2-512-21K', 'L2_21k_240m_512', 87.3, 98.4, **_512),
        'mambavision_large3.nvidia_in21k_ft_in1k': _cfg('L3-256-21K', 'L3_21k_740m_256', 87.3, 98.3, size=256),
        'mambavision_large3_512.nvidia_in21k_ft_in1k': _cfg('L3-512-21K', 'L3_21k_740m_512', 88.1, 98.6, **_512),
    }
)

_build = partial(build_model, MambaVision, filter_fn=checkpoint_filter_fn, feature_indices=(0, 1, 2, 3))
_register = partial(register_variant, __name__, _build)
_register('mambavision_tiny', 'MambaVision-T, 32 M parameters.')
_register('mambavision_tiny2', 'MambaVision-T2, 35 M parameters.', depths=(1, 3, 11, 4))
_register('mambavision_small', 'MambaVision-S, 50 M parameters.', stem_dim=64, embed_dim=96, depths=(3, 3, 7, 5))
_base = {'stem_dim': 64, 'embed_dim': 128, 'depths': (3, 3, 10, 5), 'layer_scale': 1e-5}
_register('mambavision_base', 'MambaVision-B, 98 M parameters.', **_base)
_large = {**_base, 'embed_dim': 196, 'num_heads': (16, 32)}
_register('mambavision_large', 'MambaVision-L, 228 M parameters.', **_large)
_large2 = {**_large, 'depths': (3, 3, 12, 5)}
_register('mambavision_large2', 'MambaVision-L2, 242 M parameters.', **_large2)
_wide = 'with the windows of 512 pixels'
_register('mambavision_large2_512', f'MambaVision-L2 {_wide}.', **_large2, window_size=(32, 16))
_large3 = {**_large, 'embed_dim': 256, 'depths': (3, 3, 20, 10)}
_256 = 'MambaVision-L3, 740 M parameters, with the windows of 256 pixels.'
_register('mambavision_large3', _256, **_large3, window_size=(16, 8))
_register('mambavision_large3_512', f'MambaVision-L3 {_wide}.', **_large3, window_size=(32, 16))
_test = {'stem_dim': 8, 'embed_dim': 16, 'depths': (1, 1, 3, 2), 'num_heads': (2, 4), 'window_size': (10, 5)}
_register('test_mambavision', 'A model for tests, 0.75 M parameters; no published weights.', **_test)
