"""What the Triton selective scan promises.

- Values and every gradient are those of the recurrence in float64: any d_state, groups, odd lengths, masked tails,
  strides, float32, bfloat16 and float16, with and without each optional argument, either direction, one state carried
  into the next call, split into chunks or not, and for K routes over one copy of the tokens.
- Each kernel compiles for sm_80, sm_90 and sm_100 with no spill, and its inner loop has so many instructions.
- On a GPU the same holds at sizes that fill it, past 2^31 elements, and 100 repeats are equal bit for bit.

Without a GPU the kernels run under Triton's interpreter, at small shapes.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

triton = pytest.importorskip('triton', reason='Triton is not installed: no GPU backend to test')

import vimamba.kernels.selective_scan as package  # noqa: E402
from tests import cubins  # noqa: E402
from vimamba.kernels.routes import route_rows  # noqa: E402
from vimamba.kernels.selective_scan.scan import Scan  # noqa: E402

ARGUMENTS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state')
FOLDER = Path(package.__file__).parent


class Routes(NamedTuple):
    """K routes: their steps, or a table (k, l) that takes their place."""

    steps: tuple[int, ...]
    table: torch.Tensor | None = None

    def scan(self, args, softplus=True):
        return Scan(*args, self.table, list(self.steps), softplus, False)


def gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')(test))


def load(interpret: bool) -> types.SimpleNamespace:
    """The kernels, loaded apart from the package's own copy: Triton decides at import who is to run them."""
    name = f'triton_scan_{"interpreted" if interpret else "compiled"}'
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(FOLDER)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRITON_INTERPRET', str(int(interpret)))
        modules = {m: importlib.import_module(f'{name}.triton_{m}') for m in ('common', 'chunks', 'fwd', 'bwd')}
    return types.SimpleNamespace(**modules)


@pytest.fixture(scope='module')
def scan():
    return load(interpret=True)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory from torch.empty holds NaN: what a kernel does not write shows."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        t = empty(*args, **kwargs)
        return t.fill_(float('nan')) if t.is_floating_point() else t

    monkeypatch.setattr(torch, 'empty', poisoned)


def recurrence(u, delta, A, B, C, D, z, delta_bias, initial_state, softplus, order):
    """The scan in float64, one step at a time in the given order of tokens; B and C (b, g, n, l)."""
    b, d, _ = u.shape
    B, C = (t.repeat_interleave(d // t.shape[1], 1) for t in (B, C))  # (b, d, n, l)
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = torch.nn.functional.softplus(delta) if softplus else delta
    h = u.new_zeros(b, d, A.shape[1]) if initial_state is None else initial_state
    out = [None] * len(order)
    for t in order:
        h = torch.exp(delta[..., t, None] * A) * h + (delta * u)[..., t, None] * B[..., t]
        out[t] = (h * C[..., t]).sum(-1) + (0 if D is None else D * u[..., t])
    out = torch.stack(out, -1)
    return out if z is None else out * torch.nn.functional.silu(z), h


def route_reference(args, softplus, orders):
    u, delta, A, B, C, D, z, bias, initial_state = args
    pairs = [
        recurrence(
            u if u.ndim == 3 else u[:, k], delta[:, k], A[k], B[:, k], C[:, k], None if D is None else D[k], z,
            None if bias is None else bias[k], None if initial_state is None else initial_state[:, k], softplus, order,
        )
        for k, order in enumerate(orders)
    ]  # fmt: skip
    return sum(out for out, _ in pairs), torch.stack([h for _, h in pairs], 1)


def make_inputs(
    b, d, l, n, k=1, g=1, dtype=torch.float32, layout='channels_last', own_u=False, drop=(), device='cpu', seed=0
):
    gen = torch.Generator(device).manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=gen, device=device)

    def sequence(*shape):  # (..., d, l)
        if layout == 'channels_last':
            return randn(*shape, l, d).to(dtype).transpose(-1, -2)
        if layout == 'strided':
            return randn(*shape, d, 2 * l).to(dtype)[..., ::2]
        return randn(*shape, d, l).to(dtype)

    proj = randn(b, l, k, g, 4 + 2 * n).to(dtype).permute(0, 2, 3, 4, 1)
    args = dict(
        u=sequence(b, k) if own_u else sequence(b),
        delta=sequence(b, k),
        A=-torch.rand(k, d, n, generator=gen, device=device) - 0.3,
        B=proj[..., 4 : 4 + n, :],
        C=proj[..., 4 + n :, :],
        D=randn(k, d),
        z=sequence(b),
        delta_bias=randn(k, d) - 1,
        initial_state=randn(b, k, d, n),
    )
    return [None if name in drop else args[name] for name in ARGUMENTS]


def orders_of(routes, l):
    table = routes.table if routes.table is not None else [route_rows(step, l) for step in routes.steps]
    return [row.tolist() for row in table]


def assert_scan_matches(scan, args, routes, softplus=True, how=None, keep_states=True, grad_last=True):
    """Value and gradients against the recurrence: relative 2-norm of the error, by the dtype that carries each."""
    leaves = [None if t is None else t.detach().double().requires_grad_() for t in args]
    want, want_last = route_reference(leaves, softplus, orders_of(routes, args[0].shape[-1]))
    gen = torch.Generator(args[0].device).manual_seed(1)
    grad_out = torch.randn(want.shape, generator=gen, device=want.device).to(args[0].dtype)
    grad_last = torch.randn(want_last.shape, generator=gen, device=want.device) if grad_last else None
    outputs, grads = (
        ((want, want_last), (grad_out.double(), grad_last.double()))
        if grad_last is not None
        else (want, grad_out.double())
    )
    want_grads = iter(torch.autograd.grad(outputs, [t for t in leaves if t is not None], grads))

    out, last, states = scan.fwd.route_scan_fwd(routes.scan(args, softplus), save_states=keep_states, how=how)
    got = scan.bwd.route_scan_bwd(grad_out, grad_last, routes.scan(args, softplus), states, how=how)

    def close(name, value, wanted):
        bound = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[value.dtype]
        error = ((value.double() - wanted).norm() / wanted.norm()).item()
        assert error <= bound, f'{name}: relative error {error:.1e}, bound {bound:.0e}'

    assert out.dtype == args[0].dtype
    assert last.dtype == torch.float32
    close('out', out, want)
    close('last state', last, want_last)
    for name, arg, grad in zip(ARGUMENTS, args, got):
        assert (grad is None) == (arg is None), name
        if arg is not None:
            assert grad.dtype == arg.dtype
            assert grad.shape == arg.shape
            close(f'gradient of {name}', grad, next(want_grads))


CASES = {
    'vim': dict(b=2, d=32, l=9, n=16),
    'vim_bf16': dict(b=1, d=32, l=9, n=16, dtype=torch.bfloat16),
    'half_precision': dict(b=1, d=32, l=6, n=8, dtype=torch.float16),
    'two_channels_a_thread': dict(b=1, d=64, l=6, n=16, channels_of_a_program=64),
    'one_state': dict(b=1, d=128, l=9, n=1, channels_of_a_program=128),
    'one_state_whole_blocks': dict(b=1, d=128, l=8, n=1, dtype=torch.bfloat16, channels_of_a_program=128),
    'whole_blocks': dict(b=1, d=8, l=8, n=3),
    'states_not_a_power_of_two': dict(b=1, d=8, l=5, n=5),
    'more_states_than_registers': dict(b=1, d=4, l=5, n=18),
    'two_groups_and_masked_channels': dict(b=1, d=24, l=6, n=3, g=2, dtype=torch.bfloat16),
    'length_one': dict(b=1, d=8, l=1, n=2),
    'sequence_last_memory': dict(b=2, d=5, l=7, n=2, layout='sequence_last'),
    'every_other_step': dict(b=1, d=5, l=7, n=4, layout='strided'),
    'only_what_must_be': dict(b=1, d=8, l=6, n=4, drop=('D', 'z', 'delta_bias', 'initial_state')),
}


@pytest.mark.parametrize('step', [1, -1], ids=['forth', 'back'])
@pytest.mark.parametrize('case', CASES)
def test_value_and_gradients(scan, case, step):
    sizes = dict(CASES[case])
    block = sizes.pop('channels_of_a_program', None)
    how = scan.common.Plan(block, scan.common.STEPS, 1) if block else None
    assert_scan_matches(scan, make_inputs(**sizes), Routes((step,)), how=how)


@pytest.mark.parametrize('step', [1, -1], ids=['forth', 'back'])
def test_chunks_do_not_show(scan, step):
    args = make_inputs(b=1, d=8, l=19, n=3)
    assert_scan_matches(scan, args, Routes((step,)), how=scan.common.Plan(32, 4, 3))


def test_states_may_be_computed_again(scan):
    assert_scan_matches(scan, make_inputs(b=1, d=8, l=9, n=2), Routes((1,)), keep_states=False)


def test_last_state_may_be_unused_and_softplus_left_out(scan):
    args = make_inputs(b=1, d=8, l=7, n=2)
    args[1] = args[1].abs() + 2  # step sizes as they are: positive
    assert_scan_matches(scan, args, Routes((1,)), softplus=False, grad_last=False)


@pytest.mark.parametrize('chunks', [1, 2])
@pytest.mark.parametrize(
    'routes',
    [
        dict(steps=(1, 5, -1, -5)),
        dict(steps=(1, 1), table=(torch.arange(15) * torch.tensor([[7], [4]]) % 15).int()),
    ],
    ids=['cross', 'table'],
)  # fmt: skip
def test_routes_are_summed_in_token_order(scan, routes, chunks):
    routes = Routes(**routes)
    args = make_inputs(b=1, d=8, l=15, n=2, k=len(routes.steps))
    assert_scan_matches(scan, args, routes, how=scan.common.Plan(32, 4, chunks))


@pytest.mark.parametrize('width', [1, 6])
def test_columns_of_a_grid_one_wide_or_one_high(scan, width):
    routes = Routes((width, -width))
    assert_scan_matches(scan, make_inputs(b=1, d=8, l=6, n=2, k=2), routes)


def test_routes_may_have_their_own_input(scan):
    args = make_inputs(b=1, d=8, l=5, n=17, k=2, own_u=True, dtype=torch.bfloat16)
    assert_scan_matches(scan, args, Routes((1, -1)))


def test_nothing_is_launched_for_nothing(scan):
    for b, l in ((0, 4), (2, 0)):
        args = make_inputs(b=b, d=8, l=l, n=2)
        routes = Routes((1,))
        out, last, states = scan.fwd.route_scan_fwd(routes.scan(args), save_states=True)
        assert out.shape == (b, 8, l)
        torch.testing.assert_close(last, args[-1])
        grads = scan.bwd.route_scan_bwd(out, last, routes.scan(args), states)
        torch.testing.assert_close(grads[-1], last)
        assert not grads[2].any()


def test_a_sequence_in_two_calls_is_the_sequence_in_one(scan):
    u, delta, A, B, C, D, z, bias, state = make_inputs(b=1, d=8, l=12, n=3)
    routes = Routes((1,))
    whole, last, _ = scan.fwd.route_scan_fwd(routes.scan((u, delta, A, B, C, D, z, bias, state)))
    parts = []
    for span in (slice(0, 7), slice(7, 12)):
        u_, delta_, B_, C_, z_ = (t[..., span] for t in (u, delta, B, C, z))
        out, state, _ = scan.fwd.route_scan_fwd(routes.scan((u_, delta_, A, B_, C_, D, z_, bias, state)))
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, -1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize('x', [-18.0, -8.0, -1.0, 0.0, 3.0, 19.9, 50.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_softplus_and_its_slope_keep_their_digits(scan, x, dtype):
    """Step sizes down to e^-18, where 1 + e^x has lost them, and up to where softplus is linear."""
    args = make_inputs(b=1, d=4, l=2, n=1, dtype=dtype, drop=('D', 'z', 'delta_bias'))
    args[1] = torch.full_like(args[1], x)
    assert_scan_matches(scan, args, Routes((1,)))


def test_far_batch_items_are_reached(scan):
    """A batch stride of 2^30 elements: the third item lies past 2^31. The pages between are never touched."""
    storage = torch.UntypedStorage(4 * (2**31 + 64))
    flat = torch.tensor([], dtype=torch.float32).set_(storage, 0, (2**31 + 64,), (1,))
    args = make_inputs(b=3, d=4, l=2, n=1)
    u = flat.as_strided((3, 4, 2), (2**30, 1, 4))
    u.copy_(args[0])
    args[0] = u
    assert_scan_matches(scan, args, Routes((1,)))


DATA = {'u', 'delta', 'B', 'C', 'z', 'out', 'gout', 'du', 'ddelta', 'dz'}
FLOATS = {'A', 'D', 'bias', 'start', 'acc', 'states', 'end', 'decay', 'partial', 'partial_bc'}
MULTIPLES = {'chunk', *(f'{s}_{axis}' for s in ('su', 'sd', 'sz', 'sg') for axis in 'bk')}


def kind(name):
    if name in DATA:
        return '*bf16'
    return '*fp32' if name in FLOATS or name.endswith('_acc') else '*i32' if name == 'rows' else 'i32'


VIM = dict(N=16, PACK=4, HELD=4, ORDER='rows', BC=44)  # and the row that B and C are slices of
SEARCHED = VIM | dict(ORDER='table')
VMAMBA = dict(N=1, PACK=1, HELD=1, ORDER='columns', BC=32, z=None, dz=None, dz_acc=None, final=False)
ALONE = dict(acc=None, dz_acc=None)  # one route: nothing to add to
KERNELS = {  # kernel, channels a thread, constants, most instructions and MUFU a (batch, channel, step), bytes spilled
    'forward, N 16': ('fwd.scan_kernel', 2, VIM | ALONE | dict(states=None), 130, 20, 0),
    'forward saving states, N 16': ('fwd.scan_kernel', 2, VIM | ALONE, 133, 20, 0),
    'forward, N 16, last of two routes': ('fwd.scan_kernel', 2, VIM, 135, 20, 0),
    'states at the ends of chunks, N 16': ('fwd.scan_kernel', 2, VIM | dict(out=None, states=None, z=None), 95, 18, 0),
    'gradients at the ends of chunks, N 16': ('chunks.adjoint_kernel', 2, VIM, 104, 20, 0),
    'backward, N 16': ('bwd.scan_backward_kernel', 2, VIM | ALONE, 365, 26, 0),
    'backward, N 16, last of two routes': ('bwd.scan_backward_kernel', 2, VIM, 365, 26, 0),
    'backward, N 16, one channel a thread': ('bwd.scan_backward_kernel', 1, VIM | ALONE, 488, 28, 0),
    'backward, N 16, float32': ('bwd.scan_backward_kernel', 1, VIM | ALONE | dict(PACK=2), 422, 28, 8),
    'backward, N 16, by a table': ('bwd.scan_backward_kernel', 2, SEARCHED, 380, 28, 16),
    'backward, N 16, by a table, l a multiple of 4': (
        'bwd.scan_backward_kernel', 2, SEARCHED | dict(EVEN_L=True), 374, 28, 16,
    ),
    'backward, N 16, by columns': ('bwd.scan_backward_kernel', 2, SEARCHED | dict(ORDER='columns'), 377, 28, 8),
    'forward, N 1, one of four routes': ('fwd.scan_kernel', 2, VMAMBA, 32, 3, 0),
    'forward, N 1, one of four routes, four channels a thread': ('fwd.scan_kernel', 4, VMAMBA, 26, 3, 0),
    'backward, N 1, one of four routes': ('bwd.scan_backward_kernel', 2, VMAMBA, 60, 5, 0),
    'backward, N 1, one of four routes, four channels a thread': ('bwd.scan_backward_kernel', 4, VMAMBA, 53, 5, 0),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('arch', [80, 90, 100])
@pytest.mark.parametrize('name', KERNELS)
def test_compiles_without_a_spill(name, arch, tmp_path):
    """But for 8 or 16 bytes on the way back with N 16: in float32, by columns and by a table."""
    kernel, per_thread, constants, most, most_mufu, most_spilled = KERNELS[name]
    module, function = kernel.split('.')
    scan, constants = load(interpret=False), dict(constants)
    n, d, row = constants['N'], 384, constants.pop('BC')
    rows, ends = constants['ORDER'] == 'rows', module == 'chunks' or 'out' in constants
    common = dict(
        INDEX=triton.language.int32, BLOCK=32 * per_thread, T=scan.common.STEPS, SIGN=1, SOFTPLUS=True,
        WORDS='float32' not in name, SHARED=not rows, EVEN_D=True, EVEN_L=False, start=None,
        ddelta_acc=None, more=True, final=True, more_turns=False, final_turn=True,
        channels=d, n_total=n, su_l=d, sd_l=d, sg_l=d, sz_l=2 * d, sB_l=row,
        sC_l=row, **dict.fromkeys(('su_d', 'sd_d', 'sB_n', 'sC_n', 'sz_d', 'sg_d'), 1),
        **(dict(du_acc=None) if rows else {}), **({} if constants['ORDER'] == 'table' else dict(rows=None)),
        **({} if ends else dict(decay=None)),
    )  # fmt: skip
    kernel = getattr(getattr(scan, module), function)
    limits = dict(
        fwd=scan.fwd.REGISTERS,
        bwd=scan.bwd.registers(32 * per_thread, n, constants['ORDER'], 4 if 'float32' in name else 2),
    )
    options = dict(num_warps=1, enable_fp_fusion=True, maxnreg=limits.get(module))
    data = '*fp32' if 'float32' in name else '*bf16'
    cubin = cubins.compile_kernel(
        kernel, arch, lambda name: data if name in DATA else kind(name), common | constants, MULTIPLES, tmp_path,
        **options,
    )  # fmt: skip
    registers, stack = cubins.registers_and_stack(cubin)
    inner = min((loop for loop in cubins.loops(cubin) if any('MUFU.EX2' in i for i in loop)), key=len)
    mix = cubins.mix(inner)
    share = scan.common.STEPS * per_thread
    each = {op: round(count / share, 1) for op, count in mix.most_common()}
    total = round(sum(mix.values()) / share, 1)
    print(f'{name}, sm_{arch}: {registers} registers, {stack} bytes spilled; a (batch, channel, step) {total}: {each}')
    assert stack <= most_spilled
    assert most_spilled > 0 or 'LDL' not in mix
    assert total <= most
    assert each['MUFU'] <= most_mufu


@gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('n', [1, 5, 16, 64])
@pytest.mark.parametrize('l', [1, 7, 197, 1000])
def test_on_the_gpu(l, n, dtype):
    scan = load(interpret=False)
    args = make_inputs(b=3, d=96, l=l, n=n, dtype=dtype, g=2, device='cuda')
    for how in (None, scan.common.Plan(32, 4, 3)):
        for step in (1, -1):
            assert_scan_matches(scan, args, Routes((step,)), how=how)


@gpu
@pytest.mark.parametrize('chunks', [1, 4])
def test_routes_on_the_gpu(chunks):
    scan = load(interpret=False)
    routes = Routes((1, 14, -1, -14))
    args = make_inputs(b=2, d=64, l=196, n=1, k=4, dtype=torch.bfloat16, device='cuda')
    assert_scan_matches(scan, args, routes, how=scan.common.Plan(64, 4, chunks))


@gpu
def test_repeats_are_equal_bit_for_bit():
    scan = load(interpret=False)
    args = make_inputs(b=8, d=384, l=197, n=16, dtype=torch.bfloat16, device='cuda')
    routes = Routes((1,))

    def run():
        out, last, states = scan.fwd.route_scan_fwd(routes.scan(args), save_states=True)
        return out, last, *scan.bwd.route_scan_bwd(out, last, routes.scan(args), states)

    first = run()
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, run()))


@gpu
def test_more_than_two_to_the_31_elements():
    scan = load(interpret=False)
    b, d, l = 2, 16, 2**26 + 128  # 2^31 + 4096 elements
    u = torch.randn(b, l, d, device='cuda', dtype=torch.bfloat16).transpose(1, 2)
    A, BC = -torch.ones(1, d, 1, device='cuda'), torch.ones(b, 1, 1, 1, l, device='cuda', dtype=torch.bfloat16)
    args = (u, u.unsqueeze(1), A, BC, BC, None, None, None, None)
    out, last, _ = scan.fwd.route_scan_fwd(Routes((1,)).scan(args))
    tail = tuple(None if t is None else t[-1:, ..., -4096:].contiguous() if t is not A else t for t in args)
    want, want_last, _ = scan.fwd.route_scan_fwd(Routes((1,)).scan(tail))
    torch.testing.assert_close(out[-1:, :, -64:], want[..., -64:])
    torch.testing.assert_close(last[-1:], want_last, rtol=1e-4, atol=1e-4)
