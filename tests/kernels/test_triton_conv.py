"""What the convolution promises on Triton: its values and gradients in float64, and kernels that do not spill.

This file runs itself in a process where Triton's interpreter runs the kernels.
"""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip('triton', reason='Triton is not installed: no GPU backend to test')

from tests import cubins
from tests.interpreter import inside, interpret, outside
from vimamba.kernels.causal_conv1d import portable, route_conv1d
from vimamba.kernels.routes import walk_of
from vimamba.scans import create_order
from vimamba.testing import assert_close_to_float64

NAMES = ('out', 'x', 'weight', 'bias')


def kernels():
    return importlib.import_module('vimamba.kernels.causal_conv1d.triton_conv')


@outside
@pytest.mark.slow
def test_under_the_interpreter():
    interpret(__file__)


@pytest.fixture(autouse=True)
def poison():
    """Memory that a kernel does not write is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make(order, b=2, d=6, w=4, dtype=torch.float32, channels_first=False, scale=1.0):
    rand = torch.Generator().manual_seed(0)
    x = (scale * torch.randn(b, order.length, d, generator=rand)).to(dtype).transpose(1, 2)
    weight, bias = (
        torch.randn(*sizes, generator=rand).to(dtype) for sizes in ((w, d, order.routes), (d, order.routes))
    )
    weight, bias = weight.permute(2, 1, 0), bias.T
    grad = torch.randn(b, order.routes, d, order.length, generator=rand).to(dtype)
    return x.contiguous() if channels_first else x, weight, bias, grad


def results(module, x, weight, bias, grad, walk, silu):
    return dict(zip(NAMES, [module.forward(x, weight, bias, *walk, silu),
                            *module.backward(grad, x, weight, bias, *walk, silu)]))  # fmt: skip


CASES = {
    'forth': ('raster', (1, 7), {}),
    'both ways': ('bidirectional', (3, 7), {}),  # more than a chunk
    'columns': ('cross', (5, 9), dict(d=32, b=1)),
    'columns too short for a product': ('cross', (2, 9), {}),
    'a table': ('snake', (4, 6), dict(d=33, b=1)),
    'fewer tokens than taps': ('bidirectional', (1, 2), {}),
    'three taps': ('bidirectional', (3, 6), dict(w=3)),
    'one tap': ('cross', (4, 6), dict(w=1)),
    'eight taps, channels first': ('raster', (5, 5), dict(w=8, channels_first=True)),
    'bfloat16': ('cross', (3, 6), dict(dtype=torch.bfloat16)),
    'float16': ('bidirectional', (3, 6), dict(dtype=torch.float16)),
    'values of thousands': ('raster', (3, 6), dict(scale=1e4)),
}


@inside
@pytest.mark.parametrize('silu', [True, False])
@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_are_those_in_float64(case, silu):
    name, grid, options = CASES[case]
    order = create_order(name, grid)
    tensors, walk = make(order, **options), walk_of(order.index)
    wanted = results(portable, *(t.double() for t in tensors), walk, silu)
    for what, value in results(kernels(), *tensors, walk, silu).items():
        assert value.dtype == tensors[0].dtype
        assert_close_to_float64(value, wanted[what], value.dtype, what)


@inside
@pytest.mark.parametrize('layout', [(128, 64), (64, 64), (64, 32), (32, 16)], ids=str)
def test_every_layout_gives_the_same(layout, monkeypatch):
    block, steps = layout
    order = create_order('bidirectional', (1, steps + 2))
    tensors, walk = make(order, b=1, d=block), walk_of(order.index)
    wanted = results(portable, *(t.double() for t in tensors), walk, True)
    monkeypatch.setattr(kernels(), 'LAYOUTS', (layout,))
    assert kernels().arrange(*tensors[:2], *walk, True, 0).constants['BLOCK'] == block
    for what, value in results(kernels(), *tensors, walk, True).items():
        assert_close_to_float64(value, wanted[what], value.dtype, what)


@inside
def test_without_a_bias_through_the_operator(monkeypatch):
    order = create_order('cross', (3, 4))
    x, weight, _, grad = make(order)
    found = {}
    for wanted in ('1', '0'):
        monkeypatch.setenv('VIMAMBA_TRITON', wanted)
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        out = route_conv1d(*leaves, order=order)
        found[wanted] = [out, *torch.autograd.grad(out, leaves, grad)]
    assert not torch.equal(found['1'][0], found['0'][0])  # another kernel's last digits
    for ours, theirs in zip(found['1'], found['0'], strict=True):
        assert_close_to_float64(ours, theirs, torch.float32)


@inside
@pytest.mark.parametrize('steps', [[1, -1] * 16 + [1], [3, -5]], ids=['more than an int has bits', 'of two grids'])
def test_routes_that_only_a_table_tells_apart(steps):
    walk, rand = (None, steps), torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 15, 2, generator=rand).transpose(1, 2), torch.randn(len(steps), 2, 2, generator=rand)
    wanted = portable.forward(x, weight, None, *walk, True)
    assert_close_to_float64(kernels().forward(x, weight, None, *walk, True), wanted, torch.float32)


@inside
def test_a_gradient_whose_routes_lie_far_apart(tmp_path):
    """Past 2^31 elements, in a file that takes no room."""
    walk, apart = (None, [1, 1, 1]), 2**30
    grad = torch.from_file(str(tmp_path / 'gradient'), True, 2 * apart + 15, dtype=torch.float16)
    grad = grad.as_strided((1, 3, 3, 5), (15, apart, 1, 3)).copy_(torch.arange(45).view(3, 5, 3).transpose(1, 2) / 45)
    x, weight = torch.ones(1, 5, 3, dtype=torch.float16).transpose(1, 2), torch.ones(3, 3, 2)
    wanted = portable.backward(grad.double(), x.double(), weight.double(), None, *walk, True)
    assert_close_to_float64(kernels().backward(grad, x, weight, None, *walk, True)[1], wanted[1], torch.float16)


@inside
@pytest.mark.parametrize('sizes', [(0, 5), (2, 0)], ids=str)
def test_nothing_to_convolve(sizes):
    b, l = sizes
    x, weight, bias = torch.zeros(b, l, 6).transpose(1, 2), torch.ones(2, 6, 4), torch.ones(2, 6)
    walk = (None, [1, -1])
    assert kernels().forward(x, weight, bias, *walk, True).shape == (b, 2, 6, l)
    dx, dweight, dbias = kernels().backward(torch.zeros(b, 2, 6, l), x, weight, bias, *walk, True)
    assert (dx.shape, dweight.shape, dbias.shape) == (x.shape, weight.shape, bias.shape)
    assert not dweight.any()
    assert not dbias.any()


@inside
def test_strides_are_those_that_the_compiler_is_told(monkeypatch):
    monkeypatch.setenv('VIMAMBA_TRITON', '1')
    x, weight, bias, grad = make(create_order('bidirectional', (1, 5)))

    def run(x, weight, bias, grad):
        rest = (None, [1, -1], True)
        out = torch.ops.vimamba.route_conv1d(x, weight, bias, *rest)
        return [out, *torch.ops.vimamba.route_conv1d_backward(grad, x, weight, bias, *rest)]

    real = run(x, weight, bias, grad)
    with FakeTensorMode() as mode:
        told = run(*map(mode.from_tensor, (x, weight, bias, grad)))
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in told]


@outside
def test_another_batch_or_length_is_not_another_compilation(monkeypatch):
    """As models give tokens and gradients: the first half of a projection's channels, and a tensor for each route."""
    triton, compiled = kernels().triton, set()
    hopper = SimpleNamespace(
        get_current_device=lambda: -1,  # under which the kernels keep nothing for a real one
        get_current_stream=lambda device: 0,
        get_current_target=lambda: triton.backends.compiler.GPUTarget('cuda', 90, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, '_active', hopper)
    monkeypatch.setattr(triton.knobs.runtime, 'jit_cache_hook', lambda key, **_: compiled.add(key) or True)  # and stops
    for b, l in ((128, 197), (64, 197), (33, 771), (8, 6085)):
        x = torch.empty(b, l, 768, dtype=torch.bfloat16).chunk(2, -1)[0].transpose(1, 2)
        grad = torch.empty(2, b, l, 384, dtype=torch.bfloat16).permute(1, 0, 3, 2)
        own = x, torch.empty(2, 384, 4), torch.empty(2, 384), None, [1, -1], True
        kernels().forward(*own)
        kernels().backward(grad, *own)
    assert len(compiled) == 2


@outside
@pytest.mark.slow
@pytest.mark.parametrize('arch', [80, 90, 100])
@pytest.mark.parametrize(('direction', 'dtype', 'order', 'most'), [
    ('forward', 'bf16', 'rows', 16), ('forward', 'bf16', 'columns', 17), ('forward', 'bf16', 'table', 17),
    ('backward', 'bf16', 'rows', 31), ('backward', 'bf16', 'columns', 32), ('backward', 'bf16', 'table', 32),
    ('forward', 'fp32', 'rows', 14), ('backward', 'fp32', 'rows', 28),
])  # fmt: skip
def test_compiles_without_a_spill(direction, dtype, order, most, arch, tmp_path):
    """Of an element, instructions: an H200's memory feeds a multiprocessor 5.5 in bfloat16 a clock, 3 backward."""
    module = kernels()
    kernel = getattr(module, f'{direction}_kernel')
    block, steps = module.LAYOUTS[0]
    constants = {'channels': 384, 'W': 4, 'SILU': True, 'ORDER': order, 'BLOCK': block, 'STEPS': steps,
                 'UNROLL': module.UNROLL, 'sx_l': 768, 'sx_d': 1, 'sg_l': 384, 'sg_d': 1}  # fmt: skip
    constants |= {} if order == 'table' else {'rows': None}
    own = {'weight': '*fp32', 'bias': '*fp32', 'sums': '*fp32', 'rows': '*i32'}
    own |= dict.fromkeys(('x', 'out', 'grad', 'dx'), f'*{dtype}')
    multiples = {'sx_b', 'sg_b', 'sg_k'}
    cubin = cubins.compile_kernel(
        kernel, arch, lambda name: own.get(name, 'i32'), constants, multiples, tmp_path, num_warps=1, **module.OPTIONS
    )
    assert cubins.registers_and_stack(cubin)[1] == 0
    loop = max(cubins.loops(cubin), key=len)
    assert cubins.mix(loop)['LDG'] == module.UNROLL * (1 if direction == 'forward' else 2) + (order == 'table') * 8
    most += tuple(map(int, module.triton.__version__.split('.')[:2])) < (3, 8)  # which negates by a subtraction
    assert len(loop) <= most * module.UNROLL * block // 32
