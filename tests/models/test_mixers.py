"""Compose your own: any scan order or schedule and any mixer, as arguments of a registered name.

Promised: the Mamba-2 mixer is its equation, route by route, on any order; orders, lists of orders and schedules serve
Vim and VMamba; an unknown name lists the known ones; what was composed compiles, scripts, exports and learns.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

import vimamba  # noqa: F401  (registers the models)
from vimamba.errors import UsageError
from vimamba.kernels.ssd import ssd
from vimamba.mixers import Mamba2
from vimamba.scans import create_order, schedule
from vimamba.testing import relative_l2

NAMES = 'vim_nano_patch4_32', 'test_vmamba'


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
@pytest.mark.parametrize('mixer', ['mamba1', 'mamba2'])
@pytest.mark.parametrize(
    'scan',
    ['hilbert', 'pyramid', 'axes', ('raster', 'windows7'), ['cross', 'column', ('snake', 'raster')]],
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


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_what_was_composed_compiles_scripts_and_exports(name, tmp_path):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = timm.create_model(name, scan=('hilbert', 'windows7'), mixer='mamba2').eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        assert relative_l2(torch.compile(model, fullgraph=True, backend='aot_eager')(x), want) < 1e-5
        torch.jit.script(model).save(tmp_path / 'script.pt')
        assert relative_l2(torch.jit.load(tmp_path / 'script.pt')(x), want) < 1e-5
        assert relative_l2(torch.export.export(model, (x,)).module()(x), want) < 1e-5


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'scan': 'hilbrt'}, "did you mean 'hilbert'. known: .*hilbert, .*_bidirectional and _reversed"),
        ({'scan': ['cross', 'axis']}, "unknown scan order 'axis': did you mean 'axes'"),
        ({'scan': []}, 'scan: expected a name, several, or one for each layer'),
        ({'scan': ['cross'] * 99}, 'expected at most'),
        ({'mixer': 'mamba3'}, "mixer: expected 'mamba1'.* 'mamba2', got 'mamba3'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, kwargs, message):
    with pytest.raises(UsageError, match=message):
        timm.create_model(name, **kwargs)


def test_schedules_are_repeated_to_the_depth():
    assert schedule(['a_column', 'raster'][1:], 3) == ['raster'] * 3
    assert schedule([('raster', 'column'), 'cross'], 3) == [('raster', 'column'), 'cross', ('raster', 'column')]
    assert schedule('local_vim_tiny', 21)[20] == schedule('local_vim_tiny', 21)[0]
