"""What SSD promises: the recurrence, in values and every gradient, whatever the shape, the chunks and the dtype.

Also: it is the selective scan with one A and one step size a head; a sequence in chunks is the sequence; arguments are
refused by name.
"""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba.errors import UsageError
from vimamba.kernels.selective_scan import selective_scan
from vimamba.kernels.ssd import ssd
from vimamba.testing import assert_close_to_float64

NAMES = ('x', 'dt', 'A', 'B', 'C', 'D', 'z', 'dt_bias', 'initial_state')
OPTIONAL = NAMES[5:]
SHAPES = [  # batch, length, heads, channels of a head, groups, states
    (b, l, h, p, g, n)
    for b, l in ((1, 1), (2, 7), (1, 32), (2, 33), (1, 100))
    for h, p, g, n in (
        (1, 1, 1, 1),
        (2, 4, 1, 3),
        (4, 3, 2, 16),
        (3, 8, 3, 5),
        (2, 5, 2, 64),
        (6, 2, 3, 7),
        (1, 4, 1, 128),
    )
]


def make(b=2, l=9, h=4, p=3, g=2, n=5, skip_each=False, dtype=torch.float64, strided=False):
    generator = torch.Generator().manual_seed(0)

    wide = torch.promote_types(dtype, torch.float32)  # of the parameters and the state

    def rand(*shape, dtype=wide):
        t = torch.randn(*shape, 2 if strided else 1, generator=generator, dtype=torch.float64)
        return t.to(dtype)[..., 0]

    inputs = dict(A=-rand(h).exp(), D=rand(h, p) if skip_each else rand(h), dt_bias=rand(h) - 1)
    for name, shape in dict(x=(b, l, h, p), dt=(b, l, h), B=(b, l, g, n), C=(b, l, g, n), z=(b, l, h, p)).items():
        inputs[name] = rand(*shape, dtype=dtype)
    inputs['initial_state'] = rand(b, h, p, n)
    return {name: inputs[name] for name in NAMES}


def leaves(inputs, dtype=None):
    return {name: t.detach().to(dtype or t.dtype).requires_grad_() for name, t in inputs.items()}


def results(inputs, upstream=torch.float64, **options):
    out, last = ssd(**inputs, dt_softplus=True, return_last_state=True, **options)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator).to(upstream).to(t.dtype) for t in (out, last)]
    found = torch.autograd.grad([out, last], list(inputs.values()), grads)
    return dict(zip(('out', 'last', *inputs), (out, last, *found), strict=True))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_values_and_gradients_are_the_recurrences(shape, dtype):
    rounded = make(*shape, dtype=dtype)
    expected = results(leaves(rounded, torch.float64), upstream=dtype, backend='reference')
    for name, value in results(leaves(rounded), upstream=dtype).items():
        norm = expected[name].norm()
        if norm > 0 or value.norm() > 0:
            assert_close_to_float64(value, expected[name], dtype, name)


@pytest.mark.parametrize('options', [dict(skip_each=True), dict(strided=True)], ids=str)
@pytest.mark.parametrize('reverse', [False, True])
def test_strides_and_directions(reverse, options):
    inputs = make(**options)
    expected = results(leaves(inputs), backend='reference', reverse=reverse)
    for name, value in results(leaves(inputs), reverse=reverse).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize('shape', SHAPES[::4], ids=str)
def test_the_non_causal_form(shape):
    inputs = make(*shape)
    expected = results(leaves(inputs), backend='reference', causal=False)
    for name, value in results(leaves(inputs), causal=False).items():
        torch.testing.assert_close(value, expected[name])


def test_the_non_causal_form_does_not_know_the_order_of_tokens():
    inputs = make()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = {name: t[:, order] if name in ('x', 'dt', 'B', 'C', 'z') else t for name, t in inputs.items()}
    torch.testing.assert_close(ssd(**shuffled, causal=False), ssd(**inputs, causal=False)[:, order])


def test_a_chunk_longer_than_the_sequence_is_the_sequence():
    inputs = make(b=1, l=7)
    assert torch.equal(ssd(**inputs, chunk_size=10**9), ssd(**inputs, chunk_size=7))


@settings(max_examples=25, deadline=None)
@given(l=st.integers(0, 40), chunk=st.integers(1, 50), without=st.sets(st.sampled_from(OPTIONAL)))
def test_chunks_do_not_show(l, chunk, without):
    inputs = {name: t for name, t in make(b=1, l=l).items() if name not in without}
    expected, last = ssd(**inputs, return_last_state=True, backend='reference')
    out, end = ssd(**inputs, return_last_state=True, chunk_size=chunk)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(end, last)


def test_back_is_forth_on_the_flipped_sequence():
    inputs = make()
    flipped = {name: t.flip(1) if name in ('x', 'dt', 'B', 'C', 'z') else t for name, t in inputs.items()}
    torch.testing.assert_close(ssd(**inputs, reverse=True), ssd(**flipped).flip(1))


def test_it_is_the_selective_scan_with_one_decay_a_head():
    inputs = make(b=2, l=37, h=4, p=3, g=2, n=5)
    x, dt, A, B, C, D, z, bias, start = (inputs[name] for name in NAMES)
    h, p = x.shape[2:]
    out, last = ssd(**inputs, dt_softplus=True, return_last_state=True)
    each = lambda t: t.repeat_interleave(p, -1)  # noqa: E731
    scanned, state = selective_scan(
        x.flatten(2).mT, each(dt).mT, each(A)[:, None].expand(-1, 5), B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1),
        each(D), z.flatten(2).mT, each(bias), True, True, initial_state=start.flatten(1, 2),
    )  # fmt: skip
    torch.testing.assert_close(out, scanned.mT.unflatten(2, (h, p)))
    torch.testing.assert_close(last, state.unflatten(1, (h, p)))


def test_a_sequence_in_chunks_is_the_sequence():
    inputs = leaves(make(l=50))
    shared = {name: inputs[name] for name in ('A', 'D', 'dt_bias')}

    def run(span, state):
        tokens = {name: inputs[name][:, span] for name in ('x', 'dt', 'B', 'C', 'z')}
        return ssd(**tokens, **shared, dt_softplus=True, initial_state=state, return_last_state=True)

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
    inputs = leaves(make(b=1, l=5, h=2, p=2, g=1, n=2))

    def function(*tensors):
        return ssd(**dict(zip(inputs, tensors, strict=True)), dt_softplus=True, return_last_state=True,
                   backend=backend, chunk_size=2)  # fmt: skip

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))
    if backend == 'portable':
        assert torch.autograd.gradgradcheck(function, tuple(inputs.values()))


def test_large_decays_stay_finite_and_exact():
    """Products of decays underflow within a chunk: quotients of them would be 0 / 0."""
    inputs = make(l=64, dtype=torch.float32)
    inputs['dt'] = inputs['dt'].abs() * 40
    exact = ssd(**{name: t.double() for name, t in inputs.items()}, backend='reference')
    out = results(leaves(inputs))
    assert all(t.isfinite().all() for t in out.values())
    assert_close_to_float64(ssd(**inputs), exact, torch.float32)


def test_it_compiles_in_one_graph_and_exports():
    inputs = make(dtype=torch.float32)
    compiled = torch.compile(lambda kwargs: ssd(**kwargs), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(inputs), ssd(**inputs))

    class Module(torch.nn.Module):
        def forward(self, x, dt, A, B, C):
            return ssd(x, dt, A, B, C)

    args = tuple(inputs[name] for name in NAMES[:5])
    torch.testing.assert_close(torch.export.export(Module(), args).module()(*args), ssd(*args))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('fault', ['rank', 'size', 'dtype', 'device', 'type'])
def test_each_argument_is_refused_by_name(name, fault):
    inputs = make()
    t = inputs[name]
    inputs[name] = {
        'rank': t[None, None],
        'size': t[..., :-1] if name in ('A', 'D', 'dt_bias', 'dt', 'z', 'initial_state', 'C') else t[:-1],
        'dtype': t.int(),
        'device': t.to('meta'),
        'type': t.tolist(),
    }[fault]
    blamed = {'x', 'dt'} if (name, fault) in {('x', 'size'), ('x', 'device')} else {name}
    with pytest.raises(UsageError, match=rf'^({"|".join(blamed)}): expected'):
        ssd(**inputs)


def test_a_forward_mode_derivative_is_right_or_refused(monkeypatch):
    inputs = make()
    x = inputs.pop('x')
    tangents = []
    for backend in ('auto', 'reference'):
        scan = partial(ssd, **inputs, backend=backend)
        tangents.append(torch.func.jvp(scan, (x,), (x,))[1])
    torch.testing.assert_close(*tangents)
    assert tangents[0].abs().max() > 0
    pytest.importorskip('triton')
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    inputs = {name: t.float() for name, t in inputs.items()}
    with pytest.raises(UsageError, match='no forward-mode derivative'):
        torch.func.jvp(partial(ssd, **inputs, backend='triton'), (x.float(),), (x.float(),))


def test_no_batch_is_too_large_for_a_launch():
    """CUDA takes 2^31 - 1 programs along the first axis of a grid, 65535 along the others."""
    kernels = pytest.importorskip('vimamba.kernels.ssd.triton_ssd', exc_type=ImportError)
    x, B = torch.empty(8192, 49, 24, 64, device='meta'), torch.empty(8192, 49, 1, 16, device='meta')
    for backward, blocks in ((False, 2), (True, 4)):
        assert kernels._layout(x, B, B, backward)[0] == (8192 * 24, blocks)


def test_options_are_refused_by_name():
    with pytest.raises(UsageError, match="unknown backend 'cuda'"):
        ssd(**make(), backend='cuda')
    with pytest.raises(UsageError, match='chunk_size: expected an integer >= 1, got 0'):
        ssd(**make(), chunk_size=0)
    for name in ('dt_softplus', 'return_last_state', 'reverse', 'causal'):
        with pytest.raises(UsageError, match=f"{name}: expected True or False, got 'no'"):
            ssd(**make(), **{name: 'no'})
