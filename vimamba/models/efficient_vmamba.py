"""EfficientVMamba: two stages that scan four strided sub-grids, then two of convolutions.

Paper: EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba, arXiv:2403.09977.
Official code and weights: TerryPei/EfficientVMamba, Apache-2.0 (says its README).

    image -> stem (1/4) -> 2 x Stage of DualBlock(GridMixer(StridedScan) | convolutions) -> 2 x Stage of InvertedBlock
          -> norm -> mean -> head
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import DropPath, SqueezeExcite, calculate_drop_path_rates
from timm.models import generate_default_cfgs
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from vimamba.errors import check_integers
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.channels_last import Conv2d, ToMap
from vimamba.layers.norm import BatchNorm2d
from vimamba.mixers import GridMixer, StridedScan

from ._backbone import MapBackbone, Stage
from ._builder import build_model, imagenet_cfg, register_variant, rename, reshape_like, unwrap
from .vmamba import SS2D_NAMES

__all__ = ['EfficientVMamba', 'checkpoint_filter_fn']


class DualBlock(nn.Module):
    """x + drop_path(attend(mixer(norm(x))) + attend(conv(norm(x)))), one channel attention for both branches.

    Shape: (b, h, w, dim), kept.
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float = 0.0, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.norm = nn.LayerNorm(dim, **dd)
        self.mixer = mixer
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd),
            BatchNorm2d(dim, **dd),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1, **dd),
        )
        self.attend = ChannelAttention(dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        local = self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path(self.attend(self.mixer(y)) + self.attend(local.contiguous()))


class InvertedBlock(nn.Module):
    """MobileNet's inverted residual with squeeze and excitation (arXiv:1905.02244, Fig. 4).

    Shape: (b, h, w, dim), kept.
    """

    def __init__(self, dim: int, ratio: int = 4, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        wide = dim * ratio
        self.conv = nn.Sequential(
            *(nn.Conv2d(dim, wide, 1, bias=False, **dd), BatchNorm2d(wide, **dd), nn.ReLU()),
            *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False, **dd), BatchNorm2d(wide, **dd), nn.ReLU()),
            SqueezeExcite(wide, rd_channels=wide // 8, **dd),
            *(nn.Conv2d(wide, dim, 1, bias=False, **dd), BatchNorm2d(dim, **dd)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class EfficientVMamba(MapBackbone):
    """EfficientVMamba (arXiv:2403.09977), on images of any size.

    Args:
        in_chans: image channels.
        embed_dim: width of the first stage; each stage doubles it.
        depths: blocks of the four stages; the first two scan.
        d_state: states per channel.
        expand: d_inner / width of the stage.
        step: stride of the step * step sub-grids.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0, in the stages that scan.
        options: further arguments of `MapBackbone`.

    | initial values | |
    |---|---|
    | linear layers (in_proj, out_proj, channel attention, head) | truncated normal, std 0.02; bias 0 |
    | convolutions | PyTorch's: uniform, bound fan_in^-1/2 |
    | x_proj, dt_proj, dt_bias, A_log, D | those of `SelectiveScan` |
    | norms | 1; bias 0 |

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> import torch
    >>> model = EfficientVMamba(embed_dim=16, depths=(1, 1, 1, 1), num_classes=10)
    >>> model(torch.zeros(2, 3, 48, 72)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 48,
        depths: Sequence[int] = (2, 2, 4, 2),
        d_state: int = 16,
        expand: float = 2.0,
        step: int = 2,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, in_chans=in_chans, embed_dim=embed_dim, d_state=d_state, step=step)
        dd = {'device': device, 'dtype': dtype}
        widths = [embed_dim * 2**i for i in range(len(depths))]
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))

        def dual_block(dim: int) -> DualBlock:
            mixer = GridMixer(dim, 'raster', StridedScan, expand, step=step, d_state=d_state, **dd)
            return DualBlock(dim, mixer, next(rates), **dd)

        super().__init__(
            stem=nn.Sequential(ToMap(), Conv2d(in_chans, embed_dim, 4, 4, **dd), nn.LayerNorm(embed_dim, **dd)),
            layers=[
                Stage(
                    PatchMerging(width // 2, width, **dd) if i else nn.Identity(),
                    [dual_block(width) if i < 2 else InvertedBlock(width, **dd) for _ in range(depths[i])],
                )
                for i, width in enumerate(widths)
            ],
            widths=widths,
            reductions=[4 * 2**i for i in range(len(depths))],
            norm=nn.LayerNorm(widths[-1], **dd),
            smallest=4,
            in_chans=in_chans,
            **options,
            **dd,
        )
        self.init_weights()


_RENAMED = (  # official -> ours, in this order
    *SS2D_NAMES,
    (r'\.conv_branch\.', '.conv.'),
    (r'(?<=^layers\.[01]\.blocks\.\d)\.se\.', '.attend.'),
    # stages of convolutions are flat: a permutation at 0, the blocks, a permutation, the merging
    (r'^layers\.([23])\.(\d+)\.(?=conv_|se)', lambda m: f'layers.{m[1]}.blocks.{int(m[2]) - 1}.'),
    (r'\.conv_pw\.', '.conv.'),
    (r'\.conv_dw\.(\d)\.', lambda m: f'.conv.{int(m[1]) + 3}.'),
    (r'\.se\.conv_reduce\.', '.conv.6.fc1.'),
    (r'\.se\.conv_expand\.', '.conv.6.fc2.'),
    (r'\.conv_pw2\.(\d)\.', lambda m: f'.conv.{int(m[1]) + 7}.'),
    (r'^layers\.(\d)\.(downsample|\d+)\.(?=reduction|norm)', lambda m: f'layers.{int(m[1]) + 1}.downsample.'),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``."""
    weights = unwrap(state_dict, 'module.', 'backbone.')
    return weights if 'stem.1.weight' in weights else reshape_like(rename(weights, _RENAMED), model)


_cfg = partial(
    imagenet_cfg,
    license='apache-2.0',
    origin_url='https://github.com/TerryPei/EfficientVMamba',
    paper_ids='arXiv:2403.09977',
)
_HUB = 'https://huggingface.co/TerryPei/EfficientVMamba-{}/resolve/main/efficient_vmamba_{}.ckpt'

default_cfgs = generate_default_cfgs(
    {
        'efficient_vmamba_tiny.terrypei_in1k': _cfg(_HUB.format('Tiny', 'tiny'), top1=76.5),
        'efficient_vmamba_small.terrypei_in1k': _cfg(_HUB.format('Small', 'small'), top1=78.7),
        'efficient_vmamba_base.terrypei_in1k': _cfg(_HUB.format('Base', 'base'), top1=81.8),
        'test_efficient_vmamba.untrained': _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


_build = partial(build_model, EfficientVMamba, filter_fn=checkpoint_filter_fn, feature_indices=(0, 1, 2, 3))
_register = partial(register_variant, __name__, _build)
_register('efficient_vmamba_tiny', 'EfficientVMamba-T, 6 M parameters.')
_register('efficient_vmamba_small', 'EfficientVMamba-S, 11 M parameters.', embed_dim=64)
_register('efficient_vmamba_base', 'EfficientVMamba-B, 34 M parameters.', embed_dim=96, depths=(2, 2, 9, 2))
_tiny = 'EfficientVMamba for tests and small images.'
_register('test_efficient_vmamba', _tiny, embed_dim=32, depths=(1, 1, 2, 1), d_state=4)
