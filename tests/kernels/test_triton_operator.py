"""What the operator promises on Triton: what it does on every other backend, whatever the routes.

This file runs itself in a process where Triton's interpreter runs the kernels.
"""

import importlib

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip('triton', reason='Triton is not installed: no GPU backend to test')

from tests.interpreter import inside, interpret, outside
from vimamba.errors import UsageError
from vimamba.kernels.selective_scan import route_scan, selective_scan
from vimamba.scans import create_order

LEAVES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state')


@outside
@pytest.mark.slow
def test_the_operator_under_the_interpreter():
    interpret(__file__)


@outside
def test_a_cpu_tensor_is_refused():
    u, delta = torch.rand(2, 1, 4, 8).unbind(0)
    B, C = torch.rand(2, 1, 3, 8).unbind(0)
    with pytest.raises(UsageError, match=r"backend: expected 'portable' on cpu .* on a GPU, with Triton"):
        selective_scan(u, delta, -torch.ones(4, 3), B, C, backend='triton')


def make(order, d=6, n=3, g=1, own_u=False, optional=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    k, l, b = order.routes, order.length, 2

    def rand(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = dict(u=rand(b, k, d, l) if own_u else rand(b, d, l), delta=rand(b, k, d, l) - 1, A=-rand(k, d, n).exp(),
                  B=rand(b, k, g, n, l), C=rand(b, k, g, n, l))  # fmt: skip
    if optional:
        inputs |= dict(D=rand(k, d), z=rand(b, d, l), delta_bias=rand(k, d), initial_state=rand(b, k, d, n))
    tokens = ('u', 'delta', 'B', 'C', 'z')
    return {name: (t.to(dtype) if name in tokens else t).requires_grad_() for name, t in inputs.items()}


CASES = {
    'raster': ('raster', (1, 7), {}),
    'bidirectional': ('bidirectional', (3, 3), dict(n=1)),
    'cross': ('cross', (3, 4), dict(optional=False)),
    'snake, by a table': ('snake', (3, 4), {}),
    'own input, groups': ('bidirectional', (1, 5), dict(own_u=True, g=2, n=17)),
    'bfloat16': ('cross', (2, 3), dict(dtype=torch.bfloat16)),
    'float16': ('column', (3, 2), dict(dtype=torch.float16)),
    'each route': ('bidirectional', (1, 5), dict(each=True)),
    'each route, own input, bfloat16': ('snake', (2, 2), dict(each=True, own_u=True, n=17, dtype=torch.bfloat16)),
}


@inside
@pytest.mark.parametrize('case', CASES)
def test_value_and_gradients_are_the_references(case):
    name, grid, options = CASES[case]
    each = options.get('each', False)
    order = create_order(name, grid)
    inputs = make(order, **{name: value for name, value in options.items() if name != 'each'})
    results = {}
    for backend in ('triton', 'reference'):
        out, last = route_scan(
            **inputs, order=order, delta_softplus=True, return_last_state=True, each=each, backend=backend
        )
        generator = torch.Generator().manual_seed(1)
        grads = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (out, last)]
        results[backend] = [out, last, *torch.autograd.grad([out, last], list(inputs.values()), grads)]
    for what, ours, theirs in zip(('out', 'last', *inputs), *results.values(), strict=True):
        bound = {torch.float32: 5e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}[ours.dtype]
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= bound * theirs.norm(), what


@inside
def test_a_sequence_in_chunks_is_the_sequence():
    inputs = make(create_order('raster', (1, 9)))
    u, delta, A, B, C, D, z, bias, start = (inputs[name] for name in LEAVES)
    delta, B, C, A, D, bias, start = delta[:, 0], B[:, 0], C[:, 0], A[0], D[0], bias[0], start[:, 0]

    def run(span, state):
        return selective_scan(
            u[..., span], delta[..., span], A, B[..., span], C[..., span], D, z[..., span], bias, True, True,
            initial_state=state, backend='triton',
        )  # fmt: skip

    whole, last = run(slice(None), start)
    first, state = run(slice(0, 4), start)
    second, end = run(slice(4, 9), state)
    torch.testing.assert_close(torch.cat([first, second], -1), whole)
    torch.testing.assert_close(end, last)
    wanted = torch.autograd.grad(whole.square().sum(), list(inputs.values()), retain_graph=True)
    found = torch.autograd.grad(first.square().sum() + second.square().sum(), list(inputs.values()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@inside
@pytest.mark.parametrize('each', [False, True])
def test_the_operator_is_well_formed(each):
    order = create_order('bidirectional', (1, 5))
    i = make(order)
    tensors = [i[name] for name in LEAVES]
    args = (*tensors, None, [1, -1], True, each, True, 'triton')
    torch.library.opcheck(torch.ops.vimamba.route_scan.default, args)


@inside
@pytest.mark.parametrize('each', [False, True])
@pytest.mark.parametrize('own_u', [False, True])
def test_strides_are_those_that_the_compiler_is_told(own_u, each):
    i = make(create_order('bidirectional', (1, 5)), own_u=own_u)
    tensors = [i[name].detach() for name in LEAVES]
    rest = ([1, -1], True, each)

    def run(tensors, grad):
        outputs = torch.ops.vimamba.route_scan(*tensors, None, *rest, True, 'triton')
        saved = outputs[2:]
        return [*outputs, *torch.ops.vimamba.route_scan_backward(grad, None, *tensors, None, *saved, *rest, 'triton')]

    grad = torch.randn(2, 2, 6, 5) if each else torch.randn(2, 6, 5)
    real = run(tensors, grad)
    with FakeTensorMode() as mode:
        told = run([mode.from_tensor(t) for t in tensors], mode.from_tensor(grad))
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in told]


@inside
def test_nothing_to_scan():
    inputs = make(create_order('raster', (1, 4)))
    empty = {name: t[..., :0] if name in ('u', 'delta', 'B', 'C', 'z') else t for name, t in inputs.items()}
    u, delta, A, B, C, D, z, bias, start = (empty[name] for name in LEAVES)
    out, last = selective_scan(u, delta[:, 0], A[0], B[:, 0], C[:, 0], D[0], z, bias[0], True, True,
                               initial_state=start[:, 0], backend='triton')  # fmt: skip
    assert out.shape == (2, 6, 0)
    torch.testing.assert_close(last, start[:, 0])
    last.sum().backward()
    assert (inputs['initial_state'].grad == 1).all()


@inside
def test_float64_is_refused():
    order = create_order('raster', (1, 4))
    inputs = {name: t.double() for name, t in make(order).items()}
    with pytest.raises(UsageError, match='backend'):
        route_scan(**inputs, order=order, backend='triton')


@inside
def test_auto_takes_it_only_where_it_is_asked_for(monkeypatch):
    module = importlib.import_module('vimamba.kernels.selective_scan.triton_scan')
    forward, calls = module.forward, []
    monkeypatch.setattr(module, 'forward', lambda *args: calls.append(args) or forward(*args))
    order = create_order('raster', (1, 4))
    expected = route_scan(**make(order), order=order)
    assert not calls
    monkeypatch.setenv('VIMAMBA_TRITON', '1')
    torch.testing.assert_close(route_scan(**make(order), order=order), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 1
