"""Selective scan: every backend computes the equation, and its gradients, wherever and however it is called.

Promised: agreement with the state-spaces reference's outputs and gradients in float64; with the float64 twin over
shapes, groups, dtypes, strides and options, values and every gradient; gradcheck and opcheck; determinism; a sequence
in chunks equals the whole; empty batches and sequences; arguments refused by name.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vimamba.errors import UsageError
from vimamba.kernels.cpu.library import is_built
from vimamba.kernels.selective_scan import portable, selective_scan
from vimamba.kernels.selective_scan.scan import Scan
from vimamba.testing import assert_close_to_float64, relative_l2

DATA = Path(__file__).parent / 'data'
CASES = json.loads((DATA / 'selective_scan_cases.json').read_text())
ARRAYS = np.load(DATA / 'selective_scan_cases.npz')
TENSORS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state')
BACKENDS = ('portable', 'reference')
compiled = pytest.param('cpu', marks=pytest.mark.skipif(not is_built(), reason='the CPU kernels were not built'))


def make_inputs(b, d, l, n, g, dtype=torch.float64, seed=0, optional=TENSORS[5:]):
    rand = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rand, dtype=torch.float64)

    inputs = dict(
        u=randn(b, d, l),
        delta=0.5 * randn(b, d, l),
        A=-torch.exp(0.5 * randn(d, n)),
        B=randn(b, g, n, l),
        C=randn(b, g, n, l),
        D=randn(d),
        z=randn(b, d, l),
        delta_bias=0.5 * randn(d) - 1,
        initial_state=randn(b, d, n),
    )
    wide = ('A', 'D', 'delta_bias', 'initial_state')  # parameters and states stay wide, as under autocast
    narrow = torch.promote_types(dtype, torch.float32)
    return {
        k: v.to(narrow if k in wide else dtype).requires_grad_()
        for k, v in inputs.items()
        if k in TENSORS[:5] or k in optional
    }


def run(inputs, backend, **options):
    """Outputs and every gradient of a random projection of both, the same one in every dtype."""
    outputs = selective_scan(**inputs, return_last_state=True, backend=backend, **options)
    rand = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=rand).bfloat16().to(t.dtype) for t in outputs]
    grads = torch.autograd.grad(outputs, list(inputs.values()), weights, allow_unused=True, materialize_grads=True)
    return dict(zip(('out', 'last_state', *(f'grad_{k}' for k in inputs)), (*outputs, *grads)))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('case', CASES, ids=lambda c: f'{c["case"]}-L{c["L"]}-G{c["groups"]}-N{c["d_state"]}')
def test_agrees_with_the_state_spaces_reference(case, backend):
    arrays = {
        k.split('_', 1)[1]: torch.from_numpy(ARRAYS[k]).double() for k in ARRAYS.files if k.startswith(case['case'])
    }
    inputs = {k: arrays[k].requires_grad_(case['has_grad']) for k in TENSORS if k in arrays}
    out, last = selective_scan(**inputs, delta_softplus=case['delta_softplus'], return_last_state=True, backend=backend)
    assert relative_l2(out, arrays['out']) < 1e-12
    if 'last_state' in arrays:
        assert relative_l2(last, arrays['last_state']) < 1e-12
    if case['has_grad']:
        grads = torch.autograd.grad((out * arrays['w']).sum(), list(inputs.values()))
        for name, grad in zip(inputs, grads):
            assert relative_l2(grad, arrays[f'grad_{name}']) < 1e-11, name


SHAPES = [
    # b, d, l, n, g
    *[(2, 6, l, 4, 1) for l in (1, 2, 7, 8, 9, 63, 64, 65, 196, 197)],
    *[(1, 4, 63, n, 1) for n in (1, 2, 3, 8, 16, 64, 100, 256)],
    *[(2, 12, 17, 4, g) for g in (1, 2, 3, 4, 6, 12)],
    (1, 1, 1, 1, 1),
    (3, 1, 40, 16, 1),
    (5, 32, 49, 1, 4),
    (1, 8, 1000, 16, 2),
    (1, 2, 4096, 1, 1),
]


@pytest.mark.parametrize('backend', ['portable', compiled])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('shape', SHAPES, ids=lambda s: 'b{}d{}l{}n{}g{}'.format(*s))
def test_values_and_every_gradient_against_the_float64_twin(shape, dtype, backend):
    inputs = make_inputs(*shape, dtype=dtype)
    twin = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    for reverse in (False, True):
        options = dict(delta_softplus=True, reverse=reverse)
        got, want = run(inputs, backend, **options), run(twin, 'reference', **options)
        for name, value in got.items():
            assert_close_to_float64(value, want[name], dtype if value.dtype == dtype else torch.float32, name)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 3),
    g=st.integers(1, 3),
    per_group=st.integers(1, 4),
    l=st.integers(1, 40),
    n=st.integers(1, 5),
    softplus=st.booleans(),
    reverse=st.booleans(),
    optional=st.sets(st.sampled_from(TENSORS[5:])),
    seed=st.integers(0, 10**6),
)
def test_portable_equals_reference_for_any_options(b, g, per_group, l, n, softplus, reverse, optional, seed):
    inputs = make_inputs(b, g * per_group, l, n, g, seed=seed, optional=optional)
    if not softplus:
        inputs['delta'] = inputs['delta'].detach().abs().requires_grad_()
        inputs.pop('delta_bias', None)
    options = dict(delta_softplus=softplus, reverse=reverse)
    got, want = run(inputs, 'portable', **options), run(inputs, 'reference', **options)
    for name in want:
        assert_close_to_float64(got[name], want[name], torch.float64, name)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('optional', [(), TENSORS[5:]], ids=['bare', 'all'])
@pytest.mark.parametrize('reverse', [False, True], ids=['forth', 'back'])
def test_gradcheck(backend, optional, reverse):
    inputs = make_inputs(2, 4, 11, 3, 2, optional=optional)

    def scan(*tensors):
        named = dict(zip(inputs, tensors))
        return selective_scan(**named, delta_softplus=True, return_last_state=True, reverse=reverse, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize('backend', ['portable', compiled])
@pytest.mark.parametrize('optional', [(), TENSORS[5:]], ids=['bare', 'all'])
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
def test_opcheck(optional, layout, backend):
    inputs = make_inputs(2, 4, 9, 3, 2, dtype=torch.float32, optional=optional)
    if layout == 'channels_last':
        inputs = {
            k: v.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() if v.ndim == 3 else v
            for k, v in inputs.items()
        }
    args = tuple(inputs.get(k) for k in TENSORS)
    u, delta, A, B, C, D, z, bias, start = args
    routes = (
        *(u, delta.unsqueeze(1), A.unsqueeze(0), B.unsqueeze(1), C.unsqueeze(1)),
        *(None if D is None else D.unsqueeze(0), z, None if bias is None else bias.unsqueeze(0)),
        None if start is None else start.unsqueeze(1),
    )
    for each, save in ((False, True), (False, False), (True, True)):
        torch.library.opcheck(torch.ops.vimamba.route_scan.default, (*routes, None, [-1], True, each, save, backend))


@pytest.mark.parametrize('backend', ['portable', compiled])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.bfloat16]), data=st.data())
def test_strides_do_not_matter(backend, seed, dtype, data):
    inputs = make_inputs(2, 4, 13, 3, 2, dtype=dtype, seed=seed)

    def restride(t):
        order = data.draw(st.permutations(range(t.ndim)))
        step = data.draw(st.integers(1, 3))
        back = sorted(range(t.ndim), key=order.__getitem__)
        stored = t.detach().permute(*order).repeat_interleave(step, -1)[..., ::step].permute(*back)
        return stored.requires_grad_()

    strided = {k: restride(v) for k, v in inputs.items()}
    got, want = (run(x, backend, delta_softplus=True) for x in (strided, inputs))
    for name in want:
        assert torch.equal(got[name], want[name]), name


@pytest.mark.parametrize('reverse', [False, True], ids=['forth', 'back'])
@pytest.mark.parametrize('cuts', [[5], [1, 2, 3], [8, 16, 24], [31]], ids=str)
def test_a_sequence_in_chunks_equals_the_whole(cuts, reverse):
    whole = make_inputs(2, 4, 32, 3, 1)

    def chunked(inputs):
        edges = [0, *cuts, 32]
        spans = list(pairwise(edges))
        outs, state = [], inputs['initial_state']
        for a, e in reversed(spans) if reverse else spans:
            part = {k: v[..., a:e] if k in ('u', 'delta', 'B', 'C', 'z') else v for k, v in inputs.items()}
            part['initial_state'] = state
            out, state = selective_scan(
                **part, delta_softplus=True, return_last_state=True, reverse=reverse, backend='portable'
            )
            outs.append(out)
        return torch.cat(outs[::-1] if reverse else outs, -1), state

    want = selective_scan(**whole, delta_softplus=True, return_last_state=True, reverse=reverse, backend='portable')
    got = chunked(whole)
    for a, e in zip(got, want):
        assert_close_to_float64(a, e, torch.float64)
    grads = [torch.autograd.grad(o.square().sum() + s.square().sum(), list(whole.values())) for o, s in (got, want)]
    for a, e in zip(*grads):
        assert relative_l2(a, e) < 1e-11


@pytest.mark.parametrize('backend', [*BACKENDS, compiled])
@pytest.mark.parametrize(('b', 'l'), [(0, 5), (2, 0), (0, 0)])
def test_empty_batches_and_sequences(backend, b, l):
    inputs = make_inputs(b, 4, l, 3, 2, dtype=torch.float32)
    got = run(inputs, backend, delta_softplus=True)
    assert got['out'].shape == (b, 4, l)
    assert torch.equal(got['last_state'], inputs['initial_state'])
    for name, value in inputs.items():
        assert got[f'grad_{name}'].shape == value.shape
        assert torch.isfinite(got[f'grad_{name}']).all()
    assert not got['grad_A'].any()


def test_reversing_the_walk_is_reversing_the_sequence():
    inputs = make_inputs(2, 4, 20, 3, 2)
    flipped = {k: v.flip(-1) if k in ('u', 'delta', 'B', 'C', 'z') else v for k, v in inputs.items()}
    out, last = selective_scan(**inputs, delta_softplus=True, return_last_state=True, reverse=True)
    want, want_last = selective_scan(**flipped, delta_softplus=True, return_last_state=True)
    assert torch.equal(out, want.flip(-1))
    assert torch.equal(last, want_last)


@pytest.mark.parametrize('backend', ['portable', compiled])
def test_large_steps_and_inputs_stay_finite_in_bfloat16(backend):
    inputs = make_inputs(1, 8, 65, 16, 1, dtype=torch.bfloat16)
    inputs['delta'] = (200 * torch.rand(1, 8, 65) - 100).bfloat16().requires_grad_()
    inputs['u'] = (2e3 * torch.rand(1, 8, 65) - 1e3).bfloat16().requires_grad_()
    for name, value in run(inputs, backend, delta_softplus=True).items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(dtype):
    inputs = make_inputs(2, 16, 50, 8, 2, dtype=torch.float32)
    want = run(inputs, 'auto', delta_softplus=True)
    with torch.autocast('cpu', dtype):
        got = run(inputs, 'auto', delta_softplus=True)
    assert all(torch.equal(got[k], want[k]) for k in want)


def test_a_forward_mode_derivative_is_refused_not_zero():
    inputs = {k: v.detach() for k, v in make_inputs(1, 2, 5, 3, 1).items()}
    u = inputs.pop('u')
    with pytest.raises(UsageError, match='forward-mode'):
        torch.func.jvp(lambda u: selective_scan(u, **inputs), (u,), (u,))
    _out, tangent = torch.func.jvp(lambda u: selective_scan(u, **inputs, backend='reference'), (u,), (u,))
    assert tangent.abs().max() > 0


def test_torch_func_is_told_which_backend_it_can_differentiate():
    inputs = {k: v.detach() for k, v in make_inputs(1, 2, 5, 3, 1).items()}
    u = inputs.pop('u')
    scan = lambda u, **options: selective_scan(u, **inputs, **options)  # noqa: E731
    for transform in (torch.func.jacrev, lambda f: torch.func.grad(lambda u: f(u).sum())):
        with pytest.raises(UsageError, match=r"no derivative by torch\.func; backend='reference'"):
            transform(scan)(u)
        slope = transform(lambda u: scan(u, backend='reference'))(u)
    leaf = u.clone().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(scan(leaf).sum(), leaf)[0])


def test_repeats_are_bit_equal():
    inputs = make_inputs(2, 16, 50, 8, 2, dtype=torch.float32)
    first = run(inputs, 'auto', delta_softplus=True)
    for _ in range(20):
        again = run(inputs, 'auto', delta_softplus=True)
        assert all(torch.equal(again[k], first[k]) for k in first)


def test_memory_does_not_hold_all_states():
    """No tensor made on the way is larger than the inputs, though (b, d, l, n) is 16 times as large."""
    largest = 0
    inputs = make_inputs(1, 64, 1024, 16, 1, dtype=torch.float32)

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, torch.Tensor):
                    largest = max(largest, t.numel())
            return out

    u, delta, A, B, C, D, z, bias, start = (inputs.get(k).detach() for k in TENSORS)
    delta, B, C, start = (t.unsqueeze(1) for t in (delta, B, C, start))
    A, D, bias = (t.unsqueeze(0) for t in (A, D, bias))
    scan = Scan(u, delta, A, B, C, D, z, bias, start, None, [1], True)
    with Sizes():
        out, last, saved, y = portable.forward(scan, save=True)
        portable.backward(torch.ones_like(out), torch.ones_like(last), scan, saved, y)
    assert 0 < largest <= 64 * 1024


BAD = {
    'u': [torch.zeros(4, 8), torch.zeros(2, 4, 8, dtype=torch.int64), 'text'],
    'delta': [
        torch.zeros(2, 4, 7),
        torch.zeros(2, 4, 8, dtype=torch.bool),
        torch.zeros(2, 4, 8, device='meta'),
    ],
    'A': [torch.zeros(4), torch.zeros(5, 3), torch.zeros(4, 3, dtype=torch.complex64), None],
    'B': [
        torch.zeros(2, 8),
        torch.zeros(2, 3, 3, 8),
        torch.zeros(2, 1, 3, 7),
        torch.zeros(2, 3, 8, dtype=torch.int8),
    ],
    'C': [torch.zeros(2, 2, 3, 8), torch.zeros(2, 3, 8, device='meta'), torch.zeros(2, 3, 9)],
    'D': [1.0, torch.zeros(5), torch.zeros(4, 1), torch.zeros(4, dtype=torch.int32)],
    'z': [torch.zeros(2, 4, 9), torch.zeros(2, 4, 8, device='meta')],
    'delta_bias': [torch.zeros(3), torch.zeros(4, dtype=torch.complex64)],
    'initial_state': [torch.zeros(2, 4, 2), torch.zeros(4, 3), torch.zeros(2, 4, 3, dtype=torch.int64)],
    'delta_softplus': ['yes', 1],
    'return_last_state': [None],
    'reverse': ['no', torch.tensor(True)],
    'backend': ['tritn', None],
}


@pytest.mark.parametrize(
    ('name', 'value'),
    [(k, v) for k, vs in BAD.items() for v in vs],
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_a_wrong_argument_is_named(name, value):
    inputs = {k: v.detach() for k, v in make_inputs(2, 4, 8, 3, 1, dtype=torch.float32).items()}
    inputs[name] = value
    with pytest.raises(UsageError, match=rf'\b{name}\b') as error:
        selective_scan(**inputs)
    assert '\n' not in str(error.value)


def test_compiles_and_exports_as_one_node():
    inputs = {k: v.detach() for k, v in make_inputs(2, 4, 8, 3, 1, dtype=torch.float32).items()}

    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, delta_softplus=True)

    args = tuple(inputs[k] for k in TENSORS[:5])
    want = Scan()(*args)
    compiled = torch.compile(Scan(), fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(*args), want)
    steps = torch.export.Dim('l', min=2, max=4096)
    shapes = ({2: steps}, {2: steps}, None, {3: steps}, {3: steps})
    program = torch.export.export(Scan(), args, dynamic_shapes=shapes)
    assert any('route_scan' in str(node.target) for node in program.graph.nodes)
    longer = [t if i == 2 else torch.cat([t, t], -1) for i, t in enumerate(args)]
    assert torch.equal(program.module()(*longer), Scan()(*longer))
