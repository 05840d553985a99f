"""Scan and convolution along K routes: the same as reading every route into a copy, whatever the order and the machine.

Promised: `route_scan` equals merge(selective_scan(scan(x))) in values and every gradient, in float64 and float32, for
every registered order, with and without a table of rows; `route_conv1d` likewise; no instruction set and no number of
threads changes what the compiled kernels promise; arguments are refused by name.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from vimamba.errors import UsageError
from vimamba.kernels.causal_conv1d import route_conv1d
from vimamba.kernels.cpu import library
from vimamba.kernels.cpu.library import is_built
from vimamba.kernels.routes import find_steps, read, route_rows, unread, walk_of
from vimamba.kernels.selective_scan import route_scan, selective_scan
from vimamba.scans import create_order, list_orders
from vimamba.testing import assert_close_to_float64

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif(not is_built(), reason='the CPU kernels were not built')
BACKENDS = ['portable', 'reference', pytest.param('cpu', marks=built)]


def orders_over(*grids):
    for name in list_orders():
        for grid in grids:
            with suppress(UsageError):  # not defined on such a grid
                yield pytest.param(create_order(name, grid), id=f'{name}-{"x".join(map(str, grid))}')


ORDERS = list(orders_over((4, 6), (5, 3), (2, 3, 4)))


def test_every_registered_order_is_among_them():
    assert {order.id.rsplit('-', 1)[0] for order in ORDERS} == set(list_orders())


def make_inputs(order, b=2, d=6, n=3, g=2, shared=False, seed=0):
    k, l = order.index.shape
    rand = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rand, dtype=torch.float64)

    return dict(
        u=randn(b, d, l) if shared else randn(b, k, d, l),
        delta=0.5 * randn(b, k, d, l),
        A=-torch.exp(0.5 * randn(k, d, n)),
        B=randn(b, k, g, n, l),
        C=randn(b, k, g, n, l),
        D=randn(k, d),
        z=randn(b, d, l),
        delta_bias=0.5 * randn(k, d) - 1,
        initial_state=randn(b, k, d, n),
    )


def expected(order, inputs):
    """Values and gradients by copies."""
    twin = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    u = twin['u']
    read_in = (
        order.scan(u, -1).movedim(-2, 1)
        if u.ndim == 3
        else torch.stack([u[:, k][..., r] for k, r in enumerate(order.index)], 1)
    )
    outs, states = [], []
    for k, row in enumerate(order.index):
        out, state = selective_scan(
            read_in[:, k], twin['delta'][:, k][..., row], twin['A'][k], twin['B'][:, k][..., row],
            twin['C'][:, k][..., row], twin['D'][k], None, twin['delta_bias'][k], True, True,
            initial_state=twin['initial_state'][:, k], backend='reference',
        )  # fmt: skip
        outs.append(out)
        states.append(state)
    return with_gradients(order.merge(torch.stack(outs, -2), -1) * F.silu(twin['z']), torch.stack(states, 1), twin)


def with_gradients(out, state, inputs):
    rand = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=rand, dtype=torch.float64).to(t.dtype) for t in (out, state)]
    grads = torch.autograd.grad((out, state), list(inputs.values()), weights)
    return {'out': out, 'state': state, **{f'grad_{name}': grad for name, grad in zip(inputs, grads)}}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize('order', ORDERS)
def test_equals_the_scan_of_copies(order, shared, backend):
    inputs = make_inputs(order, shared=shared)
    want = expected(order, inputs)
    dtype = torch.float32 if backend == 'cpu' else torch.float64
    given = {name: t.to(dtype).requires_grad_() for name, t in inputs.items()}
    out, state = route_scan(**given, delta_softplus=True, return_last_state=True, order=order, backend=backend)
    for what, value in with_gradients(out, state, given).items():
        assert_close_to_float64(value, want[what], dtype, what)


@pytest.mark.parametrize('backend', BACKENDS)
def test_tokens_that_routes_have_as_views_of_one_copy(backend):
    """Each route's gradient is its own, though what they read lies in one place."""
    order = create_order('cross', (4, 6))
    inputs = make_inputs(order)
    want = expected(order, {**inputs, 'u': inputs['u'][:, :1].expand(-1, 4, -1, -1).contiguous()})
    dtype = torch.float32 if backend == 'cpu' else torch.float64
    given = {name: t.to(dtype) for name, t in inputs.items()}
    given['u'] = given['u'][:, :1].mT.contiguous().mT.expand(-1, 4, -1, -1)  # read as it lies, channels adjacent
    given = {name: t.requires_grad_() for name, t in given.items()}
    out, state = route_scan(**given, delta_softplus=True, return_last_state=True, order=order, backend=backend)
    for what, value in with_gradients(out, state, given).items():
        assert_close_to_float64(value, want[what], dtype, what)


def one_by_one(order, inputs, **options):
    """The outputs (b, k, d, l) and the states of a call for every route, with the gradients of both."""
    given = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    outs, states = [], []
    for k, row in enumerate(order.index):
        route = {
            name: t[k : k + 1] if name in ('A', 'D', 'delta_bias') else t[:, k : k + 1] for name, t in given.items()
        }
        route |= {name: t for name, t in given.items() if name == 'z' or (name == 'u' and t.ndim == 3)}
        one = SimpleNamespace(index=row.unsqueeze(0))
        out, state = route_scan(**route, delta_softplus=True, return_last_state=True, order=one, **options)
        outs.append(out)
        states.append(state)
    return with_gradients(torch.stack(outs, 1), torch.cat(states, 1), given)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('gate', [False, True], ids=['', 'gate'])
@pytest.mark.parametrize('shared', [False, True], ids=['own', 'shared'])
@pytest.mark.parametrize('name', ['raster', 'cross', 'hilbert'])
def test_the_output_of_each_route(name, shared, gate, backend):
    order = create_order(name, (4, 4))
    inputs = make_inputs(order, shared=shared)
    if not gate:
        del inputs['z']
    want = one_by_one(order, inputs, backend='reference')
    dtype = torch.float32 if backend == 'cpu' else torch.float64
    given = {name: t.to(dtype).requires_grad_() for name, t in inputs.items()}
    options = dict(delta_softplus=True, order=order, backend=backend)
    out, state = route_scan(**given, return_last_state=True, each=True, **options)
    for what, value in with_gradients(out, state, given).items():
        assert_close_to_float64(value, want[what], dtype, what)
    if backend != 'reference':
        assert out.permute(1, 0, 3, 2).is_contiguous()
        alone = one_by_one(order, {name: t.to(dtype) for name, t in inputs.items()}, backend=backend)
        assert torch.equal(out, alone['out'])
    assert_close_to_float64(out.sum(1), route_scan(**given, **options), dtype)


@built
@pytest.mark.parametrize(('d', 'n', 'g'), [(20, 16, 1), (129, 5, 3), (7, 256, 1)])
@pytest.mark.parametrize('l', [1, 33])
def test_the_output_of_each_route_at_odd_sizes(d, n, g, l):
    order = create_order('bidirectional', (1, l))
    inputs = make_inputs(order, d=d, n=n, g=g)
    want = one_by_one(order, inputs, backend='reference')
    given = {name: t.float().requires_grad_() for name, t in inputs.items()}
    out, state = route_scan(**given, delta_softplus=True, return_last_state=True, each=True, order=order, backend='cpu')
    for what, value in with_gradients(out, state, given).items():
        assert_close_to_float64(value, want[what], torch.float32, what)


@pytest.mark.parametrize('backend', ['portable', pytest.param('cpu', marks=built)])
def test_no_tokens_have_an_output_for_each_route(backend):
    order = SimpleNamespace(index=torch.empty(3, 0, dtype=torch.int64))
    inputs = make_inputs(SimpleNamespace(index=torch.empty(3, 0)), shared=True)
    given = {name: t.float().requires_grad_() for name, t in inputs.items()}
    out, state = route_scan(**given, return_last_state=True, each=True, order=order, backend=backend)
    assert out.shape == (2, 3, 6, 0)
    assert torch.equal(state, given['initial_state'])
    (out.sum() + state.sum()).backward()
    assert (given['initial_state'].grad == 1).all()


@built
@pytest.mark.parametrize(
    ('d', 'n', 'g'), [(16, 16, 1), (20, 16, 1), (129, 5, 3), (70, 1, 1), (7, 256, 1), (66, 130, 2)]
)
@pytest.mark.parametrize('l', [1, 31, 32, 33, 70])
def test_the_compiled_kernel_at_odd_sizes(d, n, g, l):
    order = create_order('bidirectional', (1, l))
    inputs = make_inputs(order, d=d, n=n, g=g)
    want = expected(order, inputs)
    given = {name: t.float().requires_grad_() for name, t in inputs.items()}
    out, state = route_scan(**given, delta_softplus=True, return_last_state=True, order=order, backend='cpu')
    for what, value in with_gradients(out, state, given).items():
        assert_close_to_float64(value, want[what], torch.float32, what)


@pytest.mark.parametrize('name', ['bidirectional', 'cross', 'hilbert', 'snake'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('width', [1, 3, 4, 5])
def test_the_convolution_equals_that_of_copies(name, dtype, width):
    order = create_order(name, (4, 6))
    k, l = order.index.shape
    rand = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=rand, dtype=torch.float64) for shape in ((2, 19, l), (k, 19, width), (k, 19))
    )

    def copies(x, weight, bias):
        outs = []
        for route, row in enumerate(order.index):
            taps = F.pad(x[..., row], (width - 1, 0))
            out = F.silu(F.conv1d(taps, weight[route].unsqueeze(1), bias[route], groups=19))
            outs.append(out[..., order.inverse[route]])
        return torch.stack(outs, 1)

    twin = [t.clone().requires_grad_() for t in (x, weight, bias)]
    given = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
    want, got = copies(*twin), route_conv1d(*given, order=order)
    assert_close_to_float64(got, want, dtype)
    seed = torch.randn(want.shape, generator=rand, dtype=torch.float64)
    grads = torch.autograd.grad(want, twin, seed), torch.autograd.grad(got, given, seed.to(dtype))
    for name, a, b in zip(('x', 'weight', 'bias'), *grads):
        assert_close_to_float64(b, a, dtype, name)
    torch.library.opcheck(torch.ops.vimamba.route_conv1d.default, (*given, *walk_of(order.index), True))


def operators():
    """Each as a function of its tokens (2, 6, 20), as mixers call it."""
    order = create_order('bidirectional', (4, 5))
    inputs = [t.float() for name, t in make_inputs(order, shared=True).items() if name != 'u']
    walk = walk_of(order.index)
    weight = torch.randn(2, 6, 4)
    yield lambda u: torch.ops.vimamba.route_scan(u, *inputs, *walk, True, False, torch.is_grad_enabled(), 'auto')[0]
    yield lambda x: torch.ops.vimamba.route_conv1d(x, weight, None, *walk, True)


@pytest.mark.parametrize('operator', list(operators()), ids=['scan', 'conv'])
def test_a_derivative_that_there_is_not_is_refused_not_zero(operator):
    x = torch.randn(2, 6, 20)
    with pytest.raises(UsageError, match='no forward-mode derivative'):
        torch.func.jvp(operator, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(operator(x), operator(x))  # of what has no tangent none is asked
        with pytest.raises(UsageError, match='no forward-mode derivative'):
            operator(torch.autograd.forward_ad.make_dual(x, x))
    leaf = x.clone().requires_grad_()
    [slope] = torch.autograd.grad(operator(leaf).square().sum(), leaf, create_graph=True)
    for second in (
        lambda: torch.autograd.grad(slope.square().sum(), leaf, retain_graph=True, allow_unused=True),
        lambda: (operator(leaf).sum() + slope.square().sum()).backward(),
        lambda: torch.autograd.functional.hessian(lambda x: operator(x).square().sum(), x),
    ):
        with pytest.raises(UsageError, match='no second derivative'):
            second()


@built
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_of_torch_is_not_that_of_the_kernels(dtype):
    order = create_order('bidirectional', (1, 40))
    given = {name: t.float() for name, t in make_inputs(order).items()}

    def gradients():
        inputs = {name: t.clone().requires_grad_() for name, t in given.items()}
        convolved = route_conv1d(inputs['z'], torch.ones(2, 6, 4, dtype=torch.float32), order=order)
        out = route_scan(**{**inputs, 'u': convolved}, delta_softplus=True, order=order, backend='cpu')
        return torch.autograd.grad(out.sum(), [t for name, t in inputs.items() if name != 'u'])

    want, before = gradients(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        got = gradients()
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_an_index_that_changed_is_looked_at_again():
    index = torch.tensor([[0, 1, 2, 3]])
    assert walk_of(index) == (None, [1])
    index.copy_(index.flip(-1))
    assert walk_of(index) == (None, [-1])
    with torch.inference_mode():
        silent = torch.tensor([[0, 1, 2, 3]])
        assert walk_of(silent) == (None, [1])
        silent.copy_(silent.flip(-1))
        assert walk_of(silent) == (None, [-1])


@pytest.mark.parametrize('each', [False, True])
@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('backend', ['portable', pytest.param('cpu', marks=built)])
def test_strides_are_those_that_the_compiler_is_told(backend, shared, each):
    """torch.compile asserts them; opcheck does not look at those of a backward pass."""
    order = create_order('bidirectional', (1, 5))
    tensors = [t.float() for t in make_inputs(order, shared=shared).values()]
    rest = ([1, -1], True, each)

    def run(tensors, grad):
        outputs = torch.ops.vimamba.route_scan(*tensors, None, *rest, True, backend)
        saved = outputs[2:]
        return [*outputs, *torch.ops.vimamba.route_scan_backward(grad, None, *tensors, None, *saved, *rest, backend)]

    grad = torch.randn(2, 2, 6, 5) if each else torch.randn(2, 6, 5)
    real = run(tensors, grad)
    with FakeTensorMode() as mode:
        told = run([mode.from_tensor(t) for t in tensors], mode.from_tensor(grad))
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in told]


@pytest.mark.parametrize('order', ORDERS)
def test_steps_say_what_the_table_says(order):
    steps, l = find_steps(order.index), order.length
    if steps is not None:
        assert torch.equal(torch.stack([route_rows(step, l) for step in steps]), order.index)
    rows, steps = walk_of(order.index)
    x = torch.arange(2 * l).view(1, 1, 2, l)
    along = read(x, rows, steps)
    assert torch.equal(along, order.scan(x[:, 0], -1).movedim(-2, 1))
    assert torch.equal(unread(along, rows, steps), x.expand(1, len(steps), 2, l))


def test_flat_orders_need_no_table():
    assert find_steps(create_order('bidirectional', (4, 6)).index) == [1, -1]
    assert find_steps(create_order('cross', (4, 6)).index) == [1, 6, -1, -6]
    assert find_steps(create_order('hilbert', (4, 4)).index) is None


IN_A_PROCESS = """
import sys, torch
from tests.kernels.test_route_scan import compiled
first = compiled(1)
for i in range(100):
    again = compiled(1 + i % 7)
    assert all(torch.equal(again[name], first[name]) for name in first), f'repeat {i}'
torch.save(first, sys.argv[1])
"""


def compiled(threads):
    """Values and gradients of both operators by the compiled kernels, with so many threads."""
    torch.manual_seed(0)
    library._WORTH = 1e-9  # no work is too little
    torch.set_num_threads(threads)
    order = create_order('cross', (7, 9))
    given = {name: t.float().requires_grad_() for name, t in make_inputs(order, b=3, d=150, n=6).items()}
    out, state = route_scan(**given, delta_softplus=True, return_last_state=True, order=order, backend='cpu')
    result = with_gradients(out, state, given)
    x = given['z'].detach().requires_grad_()
    result['conv'] = route_conv1d(x, torch.ones(4, 150, 4), torch.ones(4, 150), order=order)
    [result['grad_conv']] = torch.autograd.grad(result['conv'].sum(), x)
    return {name: t.detach() for name, t in result.items()}


@built
@pytest.mark.slow
@pytest.mark.parametrize('level', ['avx512', 'avx2', 'generic'])
def test_a_hundred_repeats_are_the_same_whatever_the_threads(tmp_path, level):
    command = [sys.executable, '-c', IN_A_PROCESS, str(tmp_path / 'results.pt')]
    environment = {**os.environ, 'VIMAMBA_CPU': level}
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=120)
    first = torch.load(tmp_path / 'results.pt')
    order = create_order('cross', (7, 9))
    for name, value in expected(order, make_inputs(order, b=3, d=150, n=6)).items():
        assert_close_to_float64(first[name], value, torch.float32, name)


EXPONENTIALS = """
import torch
from vimamba.kernels.selective_scan import selective_scan
inside = torch.linspace(-87, 88.7, 4080)
outside = torch.tensor([88.8, 89, 200, 1e30, torch.inf, torch.nan])
A = torch.cat([inside, outside])[:, None]
one, each = torch.ones(1, 1, 1), torch.ones(1, len(A), 1)
decays = selective_scan(0 * each, each, A, one, one, initial_state=each, backend='cpu').flatten()
torch.testing.assert_close(decays[:4080], inside.double().exp().float(), rtol=1e-5, atol=0)
torch.testing.assert_close(decays[4080:], outside.exp(), equal_nan=True)
"""


@built
@pytest.mark.slow
@pytest.mark.parametrize('level', ['avx512', 'avx2', 'generic'])
def test_the_exponential_of_each_instruction_set_is_right_to_its_ends(level):
    environment = {**os.environ, 'VIMAMBA_CPU': level}
    subprocess.run([sys.executable, '-c', EXPONENTIALS], check=True, env=environment, cwd=ROOT, timeout=120)


@built
def test_a_library_of_other_sources_is_not_called(monkeypatch, caplog):
    monkeypatch.setattr(library, '_sources', lambda: 1)
    with pytest.raises(UsageError, match=r'built from other sources.*run pip install again'):
        library.library.__wrapped__()
    monkeypatch.setattr(library, 'library', library.library.__wrapped__)
    assert not library.is_built.__wrapped__()
    assert 'until then, plain PyTorch' in caplog.text


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv('VIMAMBA_CPU', 'avx-2')
    for function in (library.is_built, library.library):
        with pytest.raises(UsageError, match="unknown VIMAMBA_CPU 'avx-2': did you mean 'avx2'"):
            function.__wrapped__()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('u', torch.zeros(2, 3, 3, 6, 24)),
        ('u', 'text'),
        ('u', torch.zeros(())),
        ('delta', torch.zeros(2, 6, 24)),
        ('A', torch.zeros(6, 3)),
        ('B', torch.zeros(2, 2, 4, 3, 24)),
        ('C', torch.zeros(2, 2, 2, 3, 23)),
        ('D', torch.zeros(6)),
        ('z', torch.zeros(2, 2, 6, 24)),
        ('delta_bias', torch.zeros(2, 6, dtype=torch.int32)),
        ('initial_state', torch.zeros(2, 6, 3)),
        ('order', create_order('bidirectional', (4, 5))),
        ('order', [[0, 1]]),
    ],
)
def test_a_wrong_argument_is_named(name, value):
    order = create_order('bidirectional', (4, 6))
    given = {**make_inputs(order), 'order': order, name: value}
    with pytest.raises(UsageError, match=rf'^{name}: expected'):
        route_scan(**given)
    with pytest.raises(UsageError, match=r'^each: expected'):
        route_scan(**make_inputs(order), order=order, each='yes')


@pytest.mark.parametrize(
    'index',
    [
        torch.tensor([[0, 1, 2, 3, 4, 1_000_000_000]]),
        torch.tensor([[0, 1, 2, 3, 4, -1]]),
        torch.tensor([[0, 1, 2, 3, 4, 4]]),
        torch.tensor([[0, 2, 4, 0, 2, 5]]),  # a step that leaves tokens out
        torch.arange(6),
        torch.arange(6.0).unsqueeze(0),
        torch.arange(6, device='meta').unsqueeze(0),
        torch.zeros(0, 6, dtype=torch.int64),
    ],
    ids=['beyond', 'negative', 'twice', 'step', 'rank', 'dtype', 'device', 'no route'],
)
def test_an_order_that_is_none_is_refused_before_memory_is_read(index):
    order, k = SimpleNamespace(index=index), len(index) if index.ndim == 2 else 1
    tokens = torch.zeros(2, k, 6, 6)
    with pytest.raises(UsageError, match=r'^order: expected'):
        route_conv1d(tokens[:, 0] if k else torch.zeros(2, 6, 6), torch.zeros(k, 6, 4), order=order)
    with pytest.raises(UsageError, match=r'^order: expected'):
        route_scan(torch.zeros(2, 6, 6), tokens, torch.zeros(k, 6, 3), tokens[:, :, :3], tokens[:, :, :3], order=order)


def test_one_graph_for_any_order():
    """Whatever order comes, of as many routes, and one that is none is refused whenever the graph runs."""
    torch.compiler.reset()
    weight = torch.randn(4, 6, 4)

    def both(order, inputs):
        out = route_scan(**inputs, delta_softplus=True, order=order)
        return out, route_scan(**inputs, order=order, each=True), route_conv1d(inputs['z'], weight, order=order)

    compiled = torch.compile(both, fullgraph=True, backend='aot_eager')
    for name in ('cross', ('hilbert', 'snake', 'zigzag', 'column'), 'cross'):
        order = create_order(name, (4, 5))
        inputs = {name: t.float() for name, t in make_inputs(order, shared=True).items()}
        for out, expected in zip(compiled(order, inputs), both(order, inputs), strict=True):
            torch.testing.assert_close(out, expected)
        inputs['u'] = u = (
            inputs['u'].clone().requires_grad_()
        )  # another tensor: torch 2.10 does not see it begin to train
        want = torch.autograd.grad(both(order, inputs)[0].sum(), u)[0]
        torch.testing.assert_close(torch.autograd.grad(compiled(order, inputs)[0].sum(), u)[0], want)
    with pytest.raises(UsageError, match=r'^order: expected each of the rows'):
        compiled(SimpleNamespace(index=order.index + 1), inputs)


def test_a_table_goes_where_the_tokens_are():
    order = create_order('hilbert', (4, 4))
    x, weight = torch.zeros(2, 6, 16, device='meta'), torch.zeros(order.routes, 6, 4, device='meta')
    assert route_conv1d(x, weight, order=order).shape == (2, order.routes, 6, 16)
    of_a_meta_model = torch.ops.vimamba.route_conv1d(x, weight, None, *walk_of(order.index), True)
    assert of_a_meta_model.shape == (2, order.routes, 6, 16)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('x', torch.zeros(2, 6)),
        ('x', [1.0]),
        ('weight', None),
        ('weight', torch.zeros(2, 6, 0)),
        ('weight', torch.zeros(2, 6, 4, dtype=torch.complex64)),
        ('weight', torch.zeros(2, 6, 4, device='meta')),
        ('bias', [1.0]),
        ('order', None),
        ('order', [[0, 1]]),
        ('order', create_order('bidirectional', (4, 5))),
        ('weight', torch.zeros(2, 5, 4)),
        ('bias', torch.zeros(6)),
        ('x', torch.zeros(2, 6, 24).int()),
    ],
)
def test_a_wrong_argument_of_the_convolution_is_named(name, value):
    given = {'x': torch.zeros(2, 6, 24), 'weight': torch.zeros(2, 6, 4), 'bias': torch.zeros(2, 6)}
    given |= {'order': create_order('bidirectional', (4, 6)), name: value}
    with pytest.raises(UsageError, match=f'^{name}: expected'):
        route_conv1d(**given)


def test_the_operator_of_the_convolution_checks_its_routes():
    x, weight = torch.zeros(2, 6, 24), torch.zeros(1, 6, 4)
    rows = torch.arange(24, dtype=torch.int32).unsqueeze(0)
    operator = torch.ops.vimamba.route_conv1d
    for bad in (rows[:, :23], rows.long(), rows.to('meta')):
        with pytest.raises(UsageError, match=r'^rows: expected'):
            operator(x, weight, None, bad, [1], True)
    with pytest.raises(UsageError, match=r'^steps: expected'):
        operator(x, weight[:0], None, None, [], True)
