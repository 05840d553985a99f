"""Tests of the dense layers: the values and gradients of PyTorch's, whatever library multiplies.

A graph, a FLOP count, autocast and function transforms see PyTorch's own function.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vimamba.kernels import linear as module
from vimamba.kernels.linear import linear, linears
from vimamba.layers.linear import dense

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this PyTorch has no oneDNN')


@pytest.fixture(params=[False, pytest.param(True, marks=onednn)], ids=['as chosen here', 'by oneDNN'])
def forced(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(module, 'onednn_pays', lambda: True)
        monkeypatch.setattr(module, '_WORTH', 0)
    return request.param


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x):
        return dense(self.layer, x)


def inputs(shape, out, bias=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    weight = torch.randn(out, shape[-1], generator=generator).requires_grad_()
    return x, weight, torch.randn(out, generator=generator).requires_grad_() if bias else None


@pytest.mark.parametrize('shape', [(5,), (1, 3), (7, 16), (2, 5, 33), (2, 3, 4, 65)], ids=str)
@pytest.mark.parametrize('bias', [False, True])
def test_values_and_gradients_are_pytorchs(forced, shape, bias):
    tensors = [t for t in inputs(shape, 11, bias) if t is not None]
    ours, theirs = linear(*tensors), F.linear(*tensors)
    grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(ours, tensors, grad), torch.autograd.grad(theirs, tensors, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_strided_and_empty_inputs(forced):
    x, weight, bias = (t.detach() for t in inputs((6, 7, 8), 4))
    for strided in (x.transpose(0, 1), x[:, ::2], x[..., :0].new_empty(0, 8)):
        torch.testing.assert_close(linear(strided, weight, bias), F.linear(strided, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('stride', [0, 2])
def test_a_strided_bias(forced, stride):
    x, weight, _ = (None if t is None else t.detach() for t in inputs((6, 8), 4, bias=False))
    bias = torch.arange(1.0, 9.0).as_strided((4,), (stride,))
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(x=torch.zeros(2, 7)),
        dict(weight=torch.zeros(2, 4, 8)),
        dict(bias=torch.zeros(5)),
        dict(bias=torch.zeros(4, dtype=torch.float64)),
        dict(bias=torch.zeros(4, device='meta')),
    ],
    ids=lambda wrong: '{} {}'.format(*next((name, t.shape) for name, t in wrong.items())),
)
def test_what_does_not_fit_is_refused_in_pytorchs_words(forced, wrong):
    given = dict(x=torch.zeros(2, 8), weight=torch.zeros(4, 8), bias=torch.zeros(4)) | wrong
    with pytest.raises(RuntimeError) as theirs:
        F.linear(given['x'], given['weight'], given['bias'])
    with pytest.raises(RuntimeError) as ours:
        linear(**given)
    assert str(ours.value) == str(theirs.value)


def test_routes_that_do_not_fit_are_refused(forced):
    for x, weight in ((torch.zeros(2, 5, 7), torch.zeros(3, 4, 7)), (torch.zeros(2, 5, 7), torch.zeros(2, 4, 6))):
        with pytest.raises(RuntimeError, match='Expected size'):
            linears(x, weight)


def test_second_derivatives(forced):
    x, weight, _ = inputs((3, 4), 5)

    def penalty(f):
        (grad,) = torch.autograd.grad(f(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight))

    for a, b in zip(penalty(linear), penalty(F.linear), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_one_layer_for_each_route(forced):
    x, weight = torch.randn(3, 5, 7), torch.randn(3, 4, 7)
    expected = torch.stack([F.linear(a, w) for a, w in zip(x, weight, strict=True)])
    torch.testing.assert_close(linears(x, weight), expected, rtol=1e-5, atol=1e-5)


def test_who_looks_on_sees_pytorchs_function(forced):
    x, weight, bias = (t.detach() for t in inputs((4, 8), 6))
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * 4 * 8 * 6
    assert torch.func.vmap(lambda row: linear(row, weight, bias))(x).shape == (4, 6)
    torch.testing.assert_close(torch.func.jvp(lambda t: linear(t, weight), (x,), (x,))[1], F.linear(x, weight))
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert 'mkldnn' not in torch.fx.symbolic_trace(Dense()).code
    assert 'mkldnn' not in str(torch.export.export(Dense(), (x,)).graph)


def test_a_layer_computes_the_same(forced):
    model, x = Dense(), torch.randn(2, 5, 8)
    torch.testing.assert_close(model(x), model.layer(x), rtol=1e-5, atol=1e-5)
