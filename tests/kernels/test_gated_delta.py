"""Tests of the gated delta rule against its recurrence: values and every gradient, for any shape, chunk and dtype."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba.errors import UsageError
from vimamba.kernels.gated_delta import gated_delta
from vimamba.testing import assert_close_to_float64

NAMES = ('q', 'k', 'v', 'g', 'beta', 'initial_state')
TOKENS = NAMES[:5]


def make(b=2, l=9, h=3, n=4, p=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape, dtype=dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    return dict(
        q=rand(b, l, h, n),
        k=F.normalize(rand(b, l, h, n), dim=-1),
        v=rand(b, l, h, p),
        g=-rand(b, l, h, dtype=wide).exp(),
        beta=rand(b, l, h, dtype=wide).sigmoid(),
        initial_state=rand(b, h, n, p, dtype=wide),
    )


def leaves(inputs, dtype=None):
    return {name: t.detach().to(dtype or t.dtype).requires_grad_() for name, t in inputs.items()}


def results(inputs, upstream=torch.float64, **options):
    out, last = gated_delta(**inputs, return_last_state=True, **options)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator).to(upstream).to(t.dtype) for t in (out, last)]
    found = torch.autograd.grad([out, last], list(inputs.values()), grads)
    return dict(zip(('out', 'last', *inputs), (out, last, *found), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(0, 2), l=st.integers(1, 70), h=st.integers(1, 3), n=st.integers(1, 9), p=st.integers(1, 9),
    chunk_size=st.integers(1, 80), stateful=st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_the_recurrences(b, l, h, n, p, chunk_size, stateful):
    inputs = leaves(make(b, l, h, n, p))
    if not stateful:
        del inputs['initial_state']
    expected = results(inputs, backend='reference')
    for name, value in results(inputs, chunk_size=chunk_size).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('backend', ['portable', 'reference'])
@pytest.mark.parametrize('b', [0, 2])
def test_an_empty_sequence_keeps_its_state(b, backend):
    inputs = make(b, l=0)
    out, last = gated_delta(**inputs, return_last_state=True, backend=backend)
    assert out.shape == (b, 0, 3, 5)
    assert torch.equal(last, inputs.pop('initial_state'))
    assert not gated_delta(**inputs, return_last_state=True, backend=backend)[1].any()


def test_the_recurrence_is_the_equation():
    q, k, v, g, beta, S = (t[0, :, 0] if t.ndim < 4 or t.shape[1] == 9 else t[0, 0] for t in make().values())
    for t in range(9):
        erase = torch.eye(4) - beta[t] * torch.outer(k[t], k[t])
        S = g[t].exp() * erase @ S + beta[t] * torch.outer(k[t], v[t])
        expected = S.mT @ q[t] / 2  # n ** -0.5
        for backend in ('reference', 'portable'):
            out = gated_delta(**make(), backend=backend)
            torch.testing.assert_close(out[0, t, 0], expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('shape', [(1, 1, 1, 1, 1), (2, 33, 2, 8, 4), (1, 197, 2, 16, 32)], ids=str)
def test_narrow_dtypes_are_computed_in_float32(shape, dtype):
    rounded = make(*shape, dtype=dtype)
    expected = results(leaves(rounded, torch.float64), upstream=dtype, backend='reference')
    for backend in ('portable', 'reference'):
        found = results(leaves(rounded), upstream=dtype, backend=backend)
        assert (found['out'].dtype, found['last'].dtype) == (dtype, torch.float32)
        for name, value in found.items():
            assert_close_to_float64(value, expected[name], dtype, name)


@pytest.mark.parametrize('chunk_size', [32, 64])
def test_equal_keys_without_decay_keep_their_digits(chunk_size):
    """Powers of the triangular matrix reach 1e8 and more: a sum of them would cancel in float32."""
    inputs = make(b=1, l=128, dtype=torch.float32)
    inputs['k'] = inputs['k'][:, :1].expand_as(inputs['k'])
    inputs['g'] = torch.zeros_like(inputs['g'])
    inputs['beta'] = torch.ones_like(inputs['beta'])
    exact = gated_delta(**{name: t.double() for name, t in inputs.items()}, backend='reference')
    assert_close_to_float64(gated_delta(**inputs, chunk_size=chunk_size), exact, torch.float32)


def test_strong_decays_stay_finite_and_exact():
    inputs = make(l=64, dtype=torch.float32)
    inputs['g'] = inputs['g'] * 40
    exact = gated_delta(**{name: t.double() for name, t in inputs.items()}, backend='reference')
    assert all(t.isfinite().all() for t in results(leaves(inputs)).values())
    assert_close_to_float64(gated_delta(**inputs), exact, torch.float32)


def test_strides_do_not_matter():
    inputs = make()
    strided = {name: torch.stack((t, t), -1)[..., 0] for name, t in inputs.items()}
    assert torch.equal(gated_delta(**strided), gated_delta(**inputs))


def test_autocast_does_not_matter():
    inputs = make(dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = gated_delta(**inputs)
    assert torch.equal(out, gated_delta(**inputs))


def test_a_sequence_in_parts_is_the_sequence():
    inputs = leaves(make(l=50))

    def run(span, state):
        tokens = {name: inputs[name][:, span] for name in TOKENS}
        return gated_delta(**tokens, initial_state=state, return_last_state=True)

    whole, last = run(slice(None), inputs['initial_state'])
    first, state = run(slice(0, 21), inputs['initial_state'])
    second, end = run(slice(21, 50), state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)
    wanted = torch.autograd.grad(whole.square().sum(), list(inputs.values()), retain_graph=True)
    found = torch.autograd.grad(first.square().sum() + second.square().sum(), list(inputs.values()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('backend', ['portable', 'reference'])
def test_gradcheck(backend):
    inputs = leaves(make(b=1, l=5, h=2, n=2, p=3))

    def function(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        return gated_delta(**named, return_last_state=True, backend=backend, chunk_size=2)

    assert torch.autograd.gradcheck(function, tuple(inputs.values()), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, tuple(inputs.values()))


class Module(torch.nn.Module):
    def forward(self, q, k, v, g, beta):
        return gated_delta(q, k, v, g, beta, chunk_size=8)


def test_it_compiles_in_one_graph_with_gradients():
    inputs = leaves(make(l=19, dtype=torch.float32))
    args = tuple(inputs[name] for name in TOKENS)
    expected = Module()(*args)
    out = torch.compile(Module(), fullgraph=True, backend='aot_eager')(*args)
    torch.testing.assert_close(out, expected)
    wanted, found = (torch.autograd.grad(t.square().sum(), args) for t in (expected, out))
    torch.testing.assert_close(found, wanted)


def test_it_exports():
    args = tuple(make(l=19, dtype=torch.float32)[name] for name in TOKENS)
    torch.testing.assert_close(torch.export.export(Module(), args).module()(*args), Module()(*args))


def test_it_exports_to_onnx(tmp_path):
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    args = tuple(make(l=19, dtype=torch.float32)[name] for name in TOKENS)
    torch.onnx.export(Module(), args, tmp_path / 'm.onnx', dynamo=True, verbose=False, input_names=list(TOKENS))
    session = runtime.InferenceSession(tmp_path / 'm.onnx')
    (out,) = session.run(None, {name: t.numpy() for name, t in zip(TOKENS, args, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), Module()(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('fault', ['rank', 'size', 'dtype', 'device', 'type'])
def test_each_argument_is_refused_by_name(name, fault):
    inputs = make()
    t = inputs[name]
    inputs[name] = {
        'rank': t[None, None],
        'size': t[:, :, :-1],
        'dtype': t.int(),
        'device': t.to('meta'),
        'type': t.tolist(),
    }[fault]
    blamed = (
        'v' if (name, fault) in {('k', 'size'), ('k', 'device')} else name
    )  # k is what the others are compared with
    with pytest.raises(UsageError, match=f'^{blamed}: expected'):
        gated_delta(**inputs)


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(backend='cuda'), "unknown backend 'cuda'"),
        (dict(chunk_size=0), 'chunk_size: expected'),
        (dict(scale='1'), 'scale: expected'),
        (dict(scale=True), 'scale: expected'),
        (dict(return_last_state='no'), 'return_last_state: expected'),
    ],
    ids=str,
)
def test_options_are_refused_by_name(options, named):
    with pytest.raises(UsageError, match=named):
        gated_delta(**make(), **options)
