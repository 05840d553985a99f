"""What SSD promises on Triton: the recurrence, in values and every gradient, and kernels that do not spill.

This file runs itself in a process where Triton's interpreter runs the kernels.
"""

import importlib

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip('triton', reason='Triton is not installed: no GPU backend to test')

from tests import cubins
from tests.interpreter import inside, interpret, outside
from tests.kernels.test_ssd import leaves, make, results
from vimamba.errors import UsageError
from vimamba.kernels.ssd import ssd
from vimamba.testing import assert_close_to_float64


def kernels():
    return importlib.import_module('vimamba.kernels.ssd.triton_ssd')


@outside
@pytest.mark.slow
def test_under_the_interpreter():
    interpret(__file__)


@outside
def test_a_cpu_tensor_is_refused():
    with pytest.raises(UsageError, match=r"backend: expected 'portable' on cpu .* on a GPU, with Triton"):
        ssd(**make(dtype=torch.float32), backend='triton')


@inside
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    'shape',  # batch, length, heads, channels of a head, groups, states
    [(1, 1, 1, 1, 1, 1), (2, 16, 2, 3, 1, 16), (2, 33, 4, 20, 2, 5), (1, 50, 3, 40, 3, 20), (1, 17, 2, 4, 1, 128)],
    ids=str,
)
def test_values_and_gradients_are_the_recurrences(shape, dtype):
    rounded = make(*shape, dtype=dtype)
    expected = results(leaves(rounded, torch.float64), upstream=dtype, backend='reference')
    for name, value in results(leaves(rounded), upstream=dtype, backend='triton').items():
        if expected[name].norm() > 0 or value.norm() > 0:
            assert_close_to_float64(value, expected[name], dtype, name)


@inside
@pytest.mark.parametrize('options', [dict(skip_each=True), dict(strided=True)], ids=str)
@pytest.mark.parametrize('reverse', [False, True])
def test_strides_and_directions(reverse, options):
    inputs = make(l=20, dtype=torch.float32, **options)
    expected = results(leaves(inputs, torch.float64), backend='reference', reverse=reverse)
    for name, value in results(leaves(inputs), backend='triton', reverse=reverse).items():
        assert_close_to_float64(value, expected[name], torch.float32, name)


@inside
def test_a_sequence_in_chunks_is_the_sequence():
    inputs = leaves(make(l=40, dtype=torch.float32))
    shared = {name: inputs[name] for name in ('A', 'D', 'dt_bias')}

    def run(span, state):
        tokens = {name: inputs[name][:, span] for name in ('x', 'dt', 'B', 'C', 'z')}
        return ssd(**tokens, **shared, dt_softplus=True, initial_state=state, return_last_state=True, backend='triton')

    whole, last = run(slice(None), inputs['initial_state'])
    first, state = run(slice(0, 21), inputs['initial_state'])
    second, end = run(slice(21, 40), state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)
    wanted = torch.autograd.grad(whole.square().sum(), list(inputs.values()), retain_graph=True)
    found = torch.autograd.grad(first.square().sum() + second.square().sum(), list(inputs.values()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@inside
def test_large_decays_stay_finite_and_exact():
    inputs = make(l=40, dtype=torch.float32)
    inputs['dt'] = inputs['dt'].abs() * 40
    expected = results(leaves(inputs, torch.float64), backend='reference')
    for name, value in results(leaves(inputs), backend='triton').items():
        assert_close_to_float64(value, expected[name], torch.float32, name)


def arguments(length=17):
    i = make(l=length, dtype=torch.float32)
    return [i[name] for name in ('x', 'dt', 'A', 'B', 'C', 'initial_state')]


@inside
def test_the_operator_is_well_formed():
    kernels()
    torch.library.opcheck(torch.ops.vimamba.ssd.default, (*(t.requires_grad_() for t in arguments()), True))


@inside
def test_strides_are_those_that_the_compiler_is_told():
    kernels()

    def run(tensors, grad):
        outputs = torch.ops.vimamba.ssd(*tensors, True)
        return [*outputs, *torch.ops.vimamba.ssd_backward(grad, None, *tensors[:-1], outputs[2])]

    tensors = arguments()
    tensors[0] = tensors[0].mT.contiguous().mT
    real = run(tensors, torch.randn(tensors[0].shape))
    with FakeTensorMode() as mode:
        told = run([mode.from_tensor(t) for t in tensors], mode.from_tensor(torch.randn(tensors[0].shape)))
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in told]


@inside
@pytest.mark.parametrize('sizes', [dict(l=0), dict(b=0), dict(b=0, l=0)], ids=str)
def test_nothing_to_scan(sizes):
    inputs = leaves(make(**sizes, dtype=torch.float32))
    found = results(inputs, backend='triton')
    torch.testing.assert_close(found['last'], inputs['initial_state'])
    for name in set(inputs) - {'initial_state'}:
        assert found[name].shape == inputs[name].shape
        assert not found[name].any(), name


@inside
def test_its_matrix_products_are_counted():
    kernels()
    x, dt, A, B, C, start = arguments(32)
    with FlopCounterMode(display=False) as counter:
        torch.ops.vimamba.ssd(x, dt, A, B, C, start, False)
    (b, l, h, p), n = x.shape, B.shape[-1]
    assert counter.get_total_flops() == 2 * b * l * h * (16 * (n + p) + 2 * n * p)


@inside
@pytest.mark.parametrize('fault', [dict(dtype=torch.float64), dict(n=129), 'non-causal'], ids=str)
def test_what_it_does_not_take_is_refused(fault):
    inputs = make(**{'dtype': torch.float32, **(fault if isinstance(fault, dict) else {})})
    with pytest.raises(UsageError, match=r"backend: expected 'portable'"):
        ssd(**inputs, backend='triton', causal=fault != 'non-causal')


@outside
@pytest.mark.slow
@pytest.mark.parametrize('arch', [80, 90, 100])
@pytest.mark.parametrize('n', [16, 64, 128])
@pytest.mark.parametrize('direction', ['forward', 'backward'])
def test_compiles_without_a_spill(direction, n, arch, tmp_path):
    module = kernels()
    kernel = getattr(module, f'{direction}_kernel')
    pointers = {'dt', 'A', 'start', 'y', 'last', 'states', 'dy', 'dlast', 'dx', 'ddt', 'dA', 'dB', 'dC', 'dstart'}
    steps = {name for name in kernel.arg_names if name.startswith('s') and name[2:3] == '_'}

    def kind(name):
        return '*bf16' if name in ('x', 'B', 'C') else '*fp32' if name in pointers else 'i32'

    constants = module.constants(torch.bfloat16, 64, n, direction == 'backward')
    options = {name: constants.pop(name) for name in ('num_warps', *module.OPTIONS)}
    constants |= dict.fromkeys(('start', 'dlast')) | dict.fromkeys(('sx_p', 'sB_n', 'sC_n'), 1)
    cubin = cubins.compile_kernel(kernel, arch, kind, constants, steps, tmp_path, **options)
    registers, stack = cubins.registers_and_stack(cubin)
    print(f'{direction}, N {n}, sm_{arch}: {registers} registers, {stack} bytes spilled')
    assert stack == 0
