"""What an exported file promises: the values of the model, at any batch or length, without vimamba.

onnxruntime runs the ONNX files; a process that cannot import vimamba runs the torch.export files.
"""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import vimamba  # noqa: F401  (registers the models)
from vimamba.errors import UsageError
from vimamba.export import export_onnx, export_program, save_program
from vimamba.kernels.routes import walk_of
from vimamba.kernels.selective_scan import selective_scan
from vimamba.scans import ScanOrder, create_order

LENGTH = torch.export.Dim('l', min=2)
BATCH = ({0: torch.export.Dim('batch')},)


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)})


class Scan(nn.Module):
    def __init__(self, reverse=False, **options):
        super().__init__()
        self.reverse, self.options = reverse, options

    def forward(self, u, delta, A, B, C, D=None, z=None, bias=None, h0=None):
        options = {'return_last_state': True, 'initial_state': h0, 'reverse': self.reverse, **self.options}
        return selective_scan(u, delta, A, B, C, D, z, bias, **options)


def scan_inputs(length, optional, groups=2):
    generator = torch.Generator().manual_seed(length)
    rand = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    b, d, n, l = 2, 6, 3, length
    given = [rand(b, d, l), rand(b, d, l), -rand(d, n).exp(), rand(b, groups, n, l), rand(b, groups, n, l)]
    return given + ([rand(d), rand(b, d, l), rand(d), rand(b, d, n)] if optional else [])


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('optional', [False, True])
def test_a_scan_of_any_length(tmp_path, reverse, optional):
    module, args = Scan(reverse, delta_softplus=True), scan_inputs(64, optional)
    shapes = tuple({t.ndim - 1: LENGTH} if t.shape[-1] == 64 else None for t in args)
    program = export_program(module, args, shapes)
    export_onnx(program, tmp_path / 'scan.onnx')
    for length in (64, 100, 3):
        given = scan_inputs(length, optional)
        for expected, ours, theirs in zip(
            module(*given), program.module()(*given), run(tmp_path / 'scan.onnx', *given), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(theirs, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('each', [False, True])
@pytest.mark.parametrize('order', ['cross', 'snake', 'bidirectional'])
def test_routes(tmp_path, order, each):
    order: ScanOrder = create_order(order, (3, 5))
    walk = walk_of(order.index)  # once, as the mixers have it

    class Routes(nn.Module):
        def forward(self, x, weight, delta, A, B, C):
            u = torch.ops.vimamba.route_conv1d(x, weight, None, *walk, True)
            none = (None,) * 4
            return torch.ops.vimamba.route_scan(u, delta, A, B, C, *none, *walk, True, each, False, 'auto')[0]

    rand = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(0))  # noqa: E731
    k, d, n, l = order.routes, 4, 3, order.length
    args = (
        rand(2, d, l),
        rand(k, d, 4),
        rand(2, k, d, l),
        -rand(k, d, n).exp(),
        rand(2, k, 1, n, l),
        rand(2, k, 1, n, l),
    )
    export_onnx(export_program(Routes(), args), tmp_path / 'routes.onnx')
    (out,) = run(tmp_path / 'routes.onnx', *args)
    np.testing.assert_allclose(out, Routes()(*args).numpy(), rtol=1e-4, atol=1e-4)


def vim(height, width):
    torch.manual_seed(0)
    return timm.create_model('vim_nano_patch4_32', img_size=(height, width)).eval()


@pytest.mark.slow
def test_a_model_at_any_batch(tmp_path):
    model = vim(24, 32)
    program = export_program(model, (torch.zeros(2, 3, 24, 32),), BATCH)
    names = {'input_names': ['images'], 'dynamic_shapes': BATCH}
    export_onnx(program, tmp_path / 'vim.onnx', **names, metadata={'classes': 'cat, dog'})
    save_program(program, tmp_path / 'vim.pt2')
    for batch in (1, 5):
        images = torch.randn(batch, 3, 24, 32)
        expected = model(images).detach()
        (logits,) = run(tmp_path / 'vim.onnx', images)
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-5)
        out = torch.export.load(tmp_path / 'vim.pt2').module()(images)
        torch.testing.assert_close(out, expected)
        assert not out.requires_grad
    assert all(p.requires_grad for p in model.parameters())
    session = onnxruntime.InferenceSession(tmp_path / 'vim.onnx')
    assert session.get_modelmeta().custom_metadata_map['classes'] == 'cat, dog'
    assert session.get_inputs()[0].name == 'images'
    assert session.get_inputs()[0].shape == ['batch', 3, 24, 32]
    assert session.get_outputs()[0].shape[0] == 'batch'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['vim.onnx', 'vim.pt2']


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith('2.10'), reason='its AOTInductor does not take our loop')
def test_aotinductor_compiles_a_program_of_any_batch(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('test_vmamba', depths=(1, 1), embed_dim=16).eval()  # layers of two widths
    save_program(export_program(model, (torch.zeros(2, 3, 16, 16),), BATCH), tmp_path / 'model.pt2')
    program = torch.export.load(tmp_path / 'model.pt2')
    compiled = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / 'compiled.pt2'))
    run = torch._inductor.aoti_load_package(compiled)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 16, 16)
        torch.testing.assert_close(run(images), model(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_program_runs_without_vimamba(tmp_path):
    model, images = vim(32, 32), torch.randn(1, 3, 32, 32)
    save_program(export_program(model, (images,)), tmp_path / 'vim.pt2')
    torch.save({'images': images, 'logits': model(images).detach()}, tmp_path / 'case.pt')
    code = """
import sys, torch
sys.modules['vimamba'] = None
case = torch.load(sys.argv[2])
torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(case['images']), case['logits'])
"""
    files = [str(tmp_path / 'vim.pt2'), str(tmp_path / 'case.pt')]
    subprocess.run([sys.executable, '-c', code, *files], check=True, cwd=tmp_path, capture_output=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    program = export_program(nn.Linear(2, 2), (torch.zeros(1, 2),))
    for save in (save_program, export_onnx):
        with pytest.raises(UsageError, match=r'file.*choose another place'):
            save(program, tmp_path / 'file' / 'model')
