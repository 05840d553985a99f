"""Compose your own: any scan order or schedule and any mixer, as arguments of a registered name.

Promised: the Mamba-2 mixer is its equation, route by route, on any order; every registered mixer serves every family
that takes one, with orders, lists of orders and schedules, one for all blocks or one for each; a mixer of one's own is
one class; an unknown name lists the known ones; what was composed compiles, exports and takes sequences in parts.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

import vimamba  # noqa: F401  (registers the models)
from vimamba.errors import UsageError
from vimamba.kernels.ssd import ssd
from vimamba.mixers import (
    Core,
    GridMixer,
    Mamba2,
    SelectiveScan,
    StridedScan,
    create_mixer,
    list_mixers,
    mixer,
    register_mixer,
)
from vimamba.mixers.mixer import merge_routes
from vimamba.models import input_shape
from vimamba.scans import create_order, schedule
from vimamba.testing import relative_l2

NAMES = 'vim_nano_patch4_32', 'test_vmamba'
FAMILIES = *NAMES, 'test_local_vim', 'test_local_vmamba', 'test_mamba_nd_2d', 'test_videomamba'


@pytest.mark.parametrize('scan', ['raster', 'cross', 'hilbert_bidirectional', ('windows2', 'raster_reversed')], ids=str)
def test_the_mamba2_mixer_is_its_equation(scan):
    torch.manual_seed(0)
    order = create_order(scan, (3, 5))
    mixer = Mamba2(8, order, d_state=6, headdim=4).double()
    mixer.reset_parameters()
    tokens = torch.randn(2, 15, 8, dtype=torch.float64)
    z, x, *own = F.pad(mixer.in_proj(tokens), (0, 0, 0, order.pads)).split(mixer.splits, -1)
    y = torch.zeros_like(x)
    for k, (rows, route) in enumerate(zip(order.index, mixer.routes)):
        xbc = torch.cat((x, own[k]), -1)[:, rows].transpose(1, 2)
        xbc = F.silu(route.conv1d(xbc)[..., : order.length]).transpose(1, 2)
        u, B, C = xbc[..., :16].unflatten(-1, (4, 4)), xbc[..., None, 16:22], xbc[..., None, 22:]
        dt, A = own[order.routes + k][:, rows], -route.A_log.exp()
        out = ssd(u, dt, A, B, C, route.D, dt_bias=route.dt_bias, dt_softplus=True, backend='reference')
        y[:, rows] += out.flatten(2) / order.routes
    want = mixer.out_proj(mixer.norm((y * F.silu(z))[:, :15]))
    assert relative_l2(mixer(tokens), want) < 1e-12


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('mixer', list_mixers())
@pytest.mark.parametrize(
    'scan',
    ['hilbert', 'axes', ('raster', 'windows7'), ['cross', 'column', ('snake', 'raster')]],
    ids=str,
)
def test_any_scan_and_mixer(name, mixer, scan):
    torch.manual_seed(0)
    model = timm.create_model(name, scan=scan, mixer=mixer, num_classes=5)
    x = torch.randn(2, 3, 32, 32)
    out = model(x)
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    other = timm.create_model(name, scan='zigzag', mixer=mixer, num_classes=5)
    if scan == 'hilbert':  # the same parameters, read in another order, are another function
        other.load_state_dict(model.state_dict())
        assert relative_l2(other.eval()(x), model.eval()(x)) > 2e-6


@pytest.mark.parametrize('mixer', [*list_mixers(), list_mixers()], ids=str)
@pytest.mark.parametrize('name', FAMILIES)
def test_every_mixer_serves_every_family(name, mixer):
    torch.manual_seed(0)
    model = timm.create_model(name, mixer=mixer, num_classes=5)
    shape = (2, *input_shape(model))
    out = model(torch.randn(shape))
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    weights = model.state_dict()
    again = timm.create_model(name, mixer=mixer, num_classes=5)
    again.load_state_dict(weights)


class Mean(Core):
    """Every token is replaced by the mean of those that its route has read so far."""

    def __init__(self, dim, routes, d_model, d_state=1, device=None, dtype=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def reset_parameters(self):
        torch.nn.init.ones_(self.weight)

    def forward(self, u, routes):
        u = u if u.ndim == 4 else u.unsqueeze(1)
        read = routes.read(u.transpose(2, 3))
        steps = torch.arange(1, read.shape[-1] + 1, device=u.device)
        return merge_routes(routes.unread(read.cumsum(-1) / steps).transpose(2, 3), routes, self.merge) * self.weight


@pytest.mark.parametrize('name', FAMILIES)
def test_a_mixer_of_ones_own_is_one_class(name, monkeypatch):
    monkeypatch.setattr('vimamba.mixers.mixer._MIXERS', dict(mixer._MIXERS))
    register_mixer('mean')(Mean)
    assert 'mean' in list_mixers()
    model = timm.create_model(name, mixer='mean', num_classes=5)
    assert model(torch.randn(2, *input_shape(model))).shape == (2, 5)
    with pytest.raises(UsageError, match='step: Mean carries no state'):
        Mean(4, 1, d_model=4, d_state=1).resume(torch.zeros(1, 2, 4), None)


@pytest.mark.parametrize('name', list_mixers())
def test_a_sequence_in_parts_is_the_whole(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 32, create_order('raster', (11,)), d_state=4).double()
    mixer.reset_parameters()
    if not mixer.is_causal:
        with pytest.raises(UsageError, match='step'):
            mixer.step(torch.zeros(1, 1, 32, dtype=torch.float64))
        return
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    parts, state = [], None
    for part in x.split([1, 4, 6], 1):
        y, state = mixer.step(part, state)
        parts.append(y)
    assert relative_l2(torch.cat(parts, 1), mixer(x)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize('mixer', list_mixers())
@pytest.mark.parametrize('name', NAMES)
def test_what_was_composed_compiles_and_exports(name, mixer):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = timm.create_model(name, scan=('hilbert', 'windows7'), mixer=mixer).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        assert relative_l2(torch.compile(model, fullgraph=True, backend='aot_eager')(x), want) < 1e-5
        assert relative_l2(torch.export.export(model, (x,)).module()(x), want) < 1e-5


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'scan': 'hilbrt'}, "did you mean 'hilbert'. known: .*hilbert, .*_bidirectional and _reversed"),
        ({'scan': ['cross', 'axis']}, "unknown scan order 'axis': did you mean 'axes'"),
        ({'scan': []}, 'scan: expected a name, several, or one for each layer'),
        ({'scan': ['cross'] * 99}, 'expected at most'),
        ({'mixer': 'mamba9'}, "unknown mixer 'mamba9'.*known: .*mamba1, mamba2"),
        ({'mixer': []}, 'mixer: expected a name, or a list'),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, kwargs, message):
    with pytest.raises(UsageError, match=message):
        timm.create_model(name, **kwargs)


def test_schedules_are_repeated_to_the_depth():
    assert schedule(['a_column', 'raster'][1:], 3) == ['raster'] * 3
    assert schedule([('raster', 'column'), 'cross'], 3) == [('raster', 'column'), 'cross', ('raster', 'column')]
    assert schedule('local_vim_tiny', 21)[20] == schedule('local_vim_tiny', 21)[0]


def test_a_subclass_of_a_core_is_itself_in_every_shell(monkeypatch):
    """Its block is its own, not that of the core it extends."""
    monkeypatch.setattr('vimamba.mixers.mixer._MIXERS', dict(mixer._MIXERS))

    class Doubled(SelectiveScan):
        def forward(self, u, routes):
            return 2 * super().forward(u, routes)

    register_mixer('doubled')(Doubled)
    for name in NAMES:
        model = timm.create_model(name, mixer='doubled')
        assert any(isinstance(module, Doubled) for module in model.modules()), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', list_mixers())
def test_pads_are_finite_in_half_precision(name, dtype):
    """Windows that do not divide the map read zeros."""
    torch.manual_seed(0)
    model = timm.create_model('test_vmamba', mixer=name, scan='windows7', d_state=4).to(dtype).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(1, 3, 72, 72).to(dtype))).all()


def test_a_core_without_merging_is_refused_one():
    with pytest.raises(UsageError, match="merge: expected 'sum' with StridedScan"):
        GridMixer(16, 'raster', StridedScan, merge='attention')


def test_a_causal_model_names_the_mixer_that_carries_no_state():
    with pytest.raises(UsageError, match='mixer: expected one that carries a state'):
        timm.create_model('test_videomamba_causal', mixer='mamba2')
