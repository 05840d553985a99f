"""PlainMamba: a flat stack of blocks that scan the map along four snakes, each step with a code of its direction.

Paper: PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition, arXiv:2403.17695.
Official code: ChenhongyiYang/PlainMamba, Apache-2.0; no licence is stated for the weights.

    image -> stem (1/16) -> positions -> depth x Block(norm, GridMixer(DirectionalScan on snakes)) -> norm -> mean
          -> head
"""

from functools import partial
from typing import Any

from timm.layers import calculate_drop_path_rates
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from vimamba.errors import check_integers
from vimamba.layers import Block
from vimamba.layers.channels_last import ChannelsLast, Conv2d, ToMap, pad_map
from vimamba.layers.norm import BatchNorm2d
from vimamba.layers.patch_embed import image_size
from vimamba.layers.pos_embed import PosEmbed
from vimamba.mixers import DirectionalScan, GridMixer
from vimamba.mixers.plain_mamba import SNAKES
from vimamba.scans import schedule
from vimamba.scans.schedules import Scan, Schedule

from ._backbone import MapBackbone
from ._builder import build_model, imagenet_cfg, register_variant, rename, reshape_like, unwrap

__all__ = ['PlainMamba', 'checkpoint_filter_fn']


class Patches(Conv2d):
    """Embeds patches of a map padded with zeros to whole ones: (b, h, w, c) -> (b, h', w', c')."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_map(input, self.kernel_size[0]))


class LocalConv(nn.Module):
    """gelu(batch norm(depthwise 3 x 3 convolution)). Shape: (b, h, w, dim), kept."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, device=device, dtype=dtype)
        self.bn = BatchNorm2d(dim, device=device, dtype=dtype)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)


class PlainMamba(MapBackbone):
    """PlainMamba (arXiv:2403.17695), on images of any size.

    Args:
        img_size: pixels, one integer or (height, width), of the position table, which is resized on the fly for others.
        in_chans: image channels.
        embed_dim: width of the tokens.
        depth: number of blocks.
        stem_convs: 3 x 3 convolutions of the stem, between its 7 x 7 one and the patches of 8 x 8.
        local_layers: blocks that a depthwise convolution without a residual follows.
        scan: a scan order, a schedule, or an order per block; see `vimamba.scans.schedule`.
        d_state: states per channel.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.
        options: further arguments of `MapBackbone`.

    | initial values | |
    |---|---|
    | in_proj, out_proj, head | truncated normal, std 0.02; bias 0 |
    | positions | truncated normal, std 0.02 |
    | convolutions | PyTorch's: uniform, bound fan_in^-1/2 |
    | x_proj, dt_proj, dt_bias, A_log, D, directions | those of `DirectionalScan` |
    | norms | 1; bias 0 |

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> import torch
    >>> model = PlainMamba(embed_dim=16, depth=2, num_classes=10)
    >>> model(torch.zeros(2, 3, 48, 70)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 24,
        stem_convs: int = 1,
        local_layers: tuple[int, ...] = (),
        scan: Schedule = SNAKES,
        d_state: int = 16,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, in_chans=in_chans, embed_dim=embed_dim, depth=depth, d_state=d_state)
        check_integers(0, stem_convs=stem_convs)
        dd = {'device': device, 'dtype': dtype}
        stem = _stem(in_chans, embed_dim, stem_convs, _grid(image_size(img_size)), dd)

        def layer(i: int, scan: Scan, drop_path: float) -> nn.Module:
            mixer = GridMixer(embed_dim, scan, DirectionalScan, d_conv=7, bias=True, norm=False, d_state=d_state, **dd)
            block = Block(nn.LayerNorm(embed_dim, **dd), mixer, embed_dim, drop_path=drop_path)
            return nn.Sequential(block, LocalConv(embed_dim, **dd)) if i in local_layers else block

        rates = calculate_drop_path_rates(drop_path_rate, depth)
        super().__init__(
            stem=stem,
            layers=[layer(i, *values) for i, values in enumerate(zip(schedule(scan, depth), rates))],
            widths=[embed_dim] * depth,
            reductions=[16] * depth,
            norm=nn.LayerNorm(embed_dim, eps=1e-6, **dd),
            img_size=img_size,
            in_chans=in_chans,
            **options,
            **dd,
        )
        self.init_weights()

    @property
    def pos_embed(self) -> PosEmbed:
        return self.stem[2]

    def set_input_size(self, img_size: int | tuple[int, int], **arguments: Any) -> None:
        """Changes the size in pixels of the position table, which is resized."""
        super().set_input_size(img_size, **arguments)
        self.pos_embed.set_grid(_grid(self.img_size))


def _stem(in_chans: int, dim: int, convs: int, grid: tuple[int, ...], dd: dict[str, Any]) -> nn.Sequential:
    layers = [nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False, **dd), BatchNorm2d(64, **dd), nn.ReLU()]
    for _ in range(convs):
        layers += [nn.Conv2d(64, 64, 3, 1, 1, bias=False, **dd), BatchNorm2d(64, **dd), nn.ReLU()]
    patches, pos_embed = Patches(64, dim, 8, 8, **dd), PosEmbed(grid, dim, **dd)
    return nn.Sequential(nn.Sequential(ChannelsLast(), *layers, ToMap()), patches, pos_embed)


def _grid(img_size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(-(-side // 16) for side in img_size)


_RENAMED = (  # official -> ours, in this order
    (r'^norm_layer(\d+)\.', r'feature_norms.\1.'),
    (r'^pos_embed$', 'stem.2.table'),
    (r'^patch_embed\.stem\.(\d)\.', lambda m: f'stem.0.{int(m[1]) + 1}.'),
    (r'^patch_embed\.convs\.(\d)\.', lambda m: f'stem.0.{int(m[1]) + 4}.'),
    (r'^patch_embed\.projection\.', 'stem.1.'),
    (r'\.mamba\.', '.mixer.'),
    (r'\.mixer\.(A_log|D)$', r'.mixer.ssm.\1'),
    (r'\.mixer\.direction_Bs$', '.mixer.ssm.directions'),
    (r'\.mixer\.(x_proj|dt_proj)\.weight$', r'.mixer.ssm.\1'),
    (r'\.mixer\.dt_proj\.bias$', '.mixer.ssm.dt_bias'),
    (r'\.dw\.0\.', '.1.conv.'),
    (r'\.dw\.1\.', '.1.bn.'),
    (r'^ln1\.', 'norm.'),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``.

    The backbone of a segmentation model has a norm for every map, of which the last is the final one. Buffers
    ``ema_*``, copies that training leaves beside the parameters, are dropped.
    """
    weights = unwrap(state_dict)
    head = {key: value for key, value in weights.items() if key.startswith('head.')}  # beside 'backbone.', not in it
    weights = {**unwrap(weights, 'backbone.'), **head}
    if 'stem.1.weight' not in weights:
        weights = rename({key: value for key, value in weights.items() if not key.startswith('ema_')}, _RENAMED)
        followed = {i for i, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)}
        inner = tuple((rf'^layers\.{i}\.(?=norm|mixer)', f'layers.{i}.0.') for i in followed)
        table = weights.pop('stem.2.table', None)
        weights = reshape_like(rename(weights, inner), model)
        weights |= {} if table is None else {'stem.2.table': table}  # its shape says its grid
        if model.feature_norms is not None and 'norm.weight' in weights:
            last = f'feature_norms.{len(model.layers) - 1}'
            weights |= {f'{last}.{name}': weights[f'norm.{name}'] for name in ('weight', 'bias')}
    if 'stem.2.table' in weights:
        weights['stem.2.table'] = model.pos_embed.fit(weights['stem.2.table'])
    return weights


_cfg = partial(
    imagenet_cfg,
    pool_size=(14, 14),
    first_conv='stem.0.1',
    license='unknown',
    origin_url='https://github.com/ChenhongyiYang/PlainMamba',
    paper_ids='arXiv:2403.17695',
)
_HUB = 'https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/{}.pth'

default_cfgs = generate_default_cfgs(
    {
        'plain_mamba_l1.chenhongyi_in1k': _cfg(_HUB.format('l1'), top1=77.9, top5=94.0),
        'plain_mamba_l2.chenhongyi_in1k': _cfg(_HUB.format('l2'), top1=81.6, top5=95.6),
        'plain_mamba_l3.chenhongyi_in1k': _cfg(_HUB.format('l3'), top1=82.3, top5=95.9),
        'test_plain_mamba.untrained': _cfg(input_size=(3, 96, 96), pool_size=(6, 6), license='apache-2.0'),
    }
)


_register = partial(register_variant, __name__, partial(build_model, PlainMamba, filter_fn=checkpoint_filter_fn))
_register('plain_mamba_l1', 'PlainMamba-L1, 8 M parameters.', local_layers=(0,))
_register('plain_mamba_l2', 'PlainMamba-L2, 26 M parameters.', embed_dim=384, stem_convs=2)
_register('plain_mamba_l3', 'PlainMamba-L3, 51 M parameters.', embed_dim=448, depth=36, stem_convs=2)
_test = {'img_size': 96, 'embed_dim': 32, 'depth': 3, 'local_layers': (1,), 'd_state': 4}
_register('test_plain_mamba', 'PlainMamba for tests and small images.', **_test)
