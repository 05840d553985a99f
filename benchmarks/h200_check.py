"""Checks the Triton kernels on this GPU: one row per promise, with the error divided by its tolerance."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor

from vimamba.kernels.routes import walk_of
from vimamba.kernels.selective_scan import route_scan, selective_scan
from vimamba.kernels.ssd import ssd
from vimamba.profile.benchmark import ScanCase
from vimamba.scans import ScanOrder, create_order
from vimamba.testing import relative_l2
from vimamba.testing.compare import PARITY, RMS

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
SCANS = {  # the timed cases and some others; at batch 128 l is not split, which saves compilation
    'vim_tiny 224': (ScanCase(128, 384, 16, (1, 197)), BRAIN),
    'vim_tiny 224, float32': (ScanCase(128, 384, 16, (1, 197)), SINGLE),
    'vim_tiny 224, float16': (ScanCase(128, 384, 16, (1, 197)), HALF),
    'vim_tiny 1248': (ScanCase(4, 384, 16, (1, 6085)), BRAIN),
    'both directions': (ScanCase(128, 384, 16, (1, 197), 'bidirectional'), BRAIN),
    'vmamba_tiny, stage 1': (ScanCase(4, 96, 1, (56, 56), 'cross', gated=False), BRAIN),
    'vmamba_tiny, stage 2': (ScanCase(128, 192, 1, (28, 28), 'cross', gated=False), BRAIN),
    'vmamba_tiny, stage 3': (ScanCase(128, 384, 1, (14, 14), 'cross', gated=False), BRAIN),
    'vmamba_tiny, stage 4': (ScanCase(128, 768, 1, (7, 7), 'cross', gated=False), BRAIN),
    'vmamba_tiny, stage 4, float32': (ScanCase(8, 768, 1, (7, 7), 'cross', gated=False), SINGLE),
    'by a table': (ScanCase(128, 384, 16, (14, 14), 'snake'), BRAIN),
    '64 states': (ScanCase(128, 384, 64, (1, 197)), BRAIN),
    '5 states of 33 channels, one step': (ScanCase(3, 33, 5, (1, 1)), SINGLE),
}
STARTED = ('vim_tiny 224, float16', 'by a table', '5 states of 33 channels, one step')
REPEATED = ('vim_tiny 224, float16', 'vmamba_tiny, stage 3')
CONVS = {  # batch, channels, grid, order
    'both directions': ((128, 384, (1, 197), 'bidirectional'), BRAIN),
    'columns, float16': ((8, 384, (14, 14), 'cross'), HALF),
    'by a table, float32': ((8, 100, (14, 14), 'snake'), SINGLE),
}
SSD = {'16 states, float32': (16, SINGLE), '64 states': (64, BRAIN), '128 states': (128, BRAIN)}
MODELS = ('vim_tiny_patch16_224', 'vmamba_tiny_s1l8')


def check(
    device: torch.device, tiny: Callable[[ScanCase], ScanCase] | None
) -> Iterator[tuple[str, Callable[[], Iterable[dict]]]]:
    """Yields each promise and a function that returns its rows. A dry run uses ``tiny`` shapes."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions of whole models
    # the interpreter rounds bfloat16 towards zero, which doubles the error
    bounds = {dtype: bound * (2 if tiny else 1) for dtype, bound in RMS.items()}
    for name, (case, dtype) in SCANS.items():
        yield name, partial(_scan, name, tiny(case) if tiny else case, dtype, device, bounds, 2 if tiny else 100)
    for name, (sizes, dtype) in CONVS.items():
        yield name, partial(_conv, name, *((2, 6, (3, 4), sizes[-1]) if tiny else sizes), dtype, device, bounds)
    for name, (n, dtype) in SSD.items():
        shape = (1, 20, 1, 8, 4) if tiny else (8, 197, 6, 64, n)
        yield name, partial(_ssd, name, shape, dtype, device, bounds)
    yield 'past 2^31', partial(_past_int32, device, *((24, 16, 4) if tiny else (2**26 + 128, 4096, 64)))
    yield 'convolution past 2^31', partial(_conv_past_int32, device, *((2, 24) if tiny else (128, 2**23 + 64)))
    for name in ('test_mamba_nd_2d', 'test_vmamba') if tiny else MODELS:
        yield name, partial(_model, name, device, 32 if tiny else 224)


def _scan(
    name: str, case: ScanCase, dtype: torch.dtype, device: torch.device, bounds: dict, repeats: int
) -> Iterator[dict]:
    inputs, order = case.inputs(device, dtype)
    if name in STARTED:  # the others are compiled as they are timed, without an initial state
        start = torch.randn(*inputs['A'].shape, generator=torch.Generator(device).manual_seed(1), device=device)
        inputs['initial_state'] = start.expand(case.batch, *start.shape).contiguous().requires_grad_()
    scan = partial(route_scan, delta_softplus=True, order=order, return_last_state=True)
    yield _compare(f'scan, {name}', scan, inputs, dtype, bounds)
    if name in REPEATED:
        yield _repeat(f'scan, {name}', scan, inputs, dtype, repeats)


def _conv(
    name: str, b: int, d: int, grid: tuple[int, int], order: str, dtype: torch.dtype, device: torch.device, bounds: dict
) -> Iterator[dict]:
    from vimamba.kernels.causal_conv1d import portable, triton_conv

    given, walk = conv_inputs(device, dtype, b, d, create_order(order, grid))

    def every(module: Any, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> dict[str, Tensor]:
        out = module.forward(x, weight, bias, *walk, True)
        return dict(zip(('out', 'x', 'weight', 'bias'), (out, *module.backward(grad, x, weight, bias, *walk, True))))

    found, wanted = every(triton_conv, *given), every(portable, *(t.double() for t in given))
    yield _worst(f'convolution, {name}', dtype, found, wanted, bounds)


def _conv_past_int32(device: torch.device, d: int, length: int) -> Iterator[dict]:
    """The end of a forward and the start of a reversed route, in tensors of 2^31 + 16384 elements, against 8 tokens."""
    from vimamba.kernels.causal_conv1d import portable, triton_conv

    rand, walk = torch.Generator(device).manual_seed(0), (None, [1, -1])

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rand, device=device)

    x, grad = randn(1, length, d).to(BRAIN).mT, randn(2, 1, length, d).to(BRAIN).permute(1, 0, 3, 2)
    weight, ends = randn(2, d, 4), []
    for module, span in ((triton_conv, slice(None)), (portable, slice(-16, None))):
        tokens, slopes = x[..., span], grad[..., span]
        out = module.forward(tokens, weight, None, *walk, True)
        dx, *_ = module.backward(slopes, tokens, weight, None, *walk, True)
        ends.append(torch.cat((out[0, :, :, -8:].flatten(0, 1), dx[0, :, -8:])))
    size = f'2 routes x {d} x {length}'
    yield _row(f'convolution, {size}', 'value and gradient', BRAIN, relative_l2(*ends) / RMS[BRAIN], 'the tolerance')


def _ssd(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, bounds: dict) -> Iterator[dict]:
    b, l, h, p, n = shape
    inputs = ssd_inputs(device, dtype, b, l, h, p, n, initial_state=True)
    bounds = dict.fromkeys(bounds, bounds[dtype])  # products round to the dtype of the tokens
    yield _compare(f'ssd, {name}', partial(ssd, dt_softplus=True, return_last_state=True), inputs, dtype, bounds)


def _row(case: str, what: str, dtype: torch.dtype, error: float, of: str, target: str = '<= 1') -> dict:
    return {'what': 'check', 'case': case, 'implementation': 'triton', 'dtype': str(dtype).removeprefix('torch.'),
            'direction': what, 'ratio': f'{error:.2g}', 'of': of, 'target': target}  # fmt: skip


def _run(scan: Callable[..., tuple[Tensor, Tensor]], inputs: dict[str, Any], backend: str) -> dict[str, Tensor]:
    """Value, last state and all gradients."""
    leaves = {name: t for name, t in inputs.items() if t is not None}
    outputs = scan(**inputs, backend=backend)
    rand = torch.Generator(outputs[0].device).manual_seed(2)
    grads = [torch.randn(t.shape, generator=rand, device=t.device).bfloat16().to(t.dtype) for t in outputs]
    found = torch.autograd.grad(outputs, list(leaves.values()), grads)
    return {'out': outputs[0].detach(), 'last state': outputs[1].detach(), **dict(zip(leaves, found))}


def _compare(case: str, scan: Callable, inputs: dict[str, Any], dtype: torch.dtype, bounds: dict) -> dict:
    twins = {name: None if t is None else t.detach().double().requires_grad_() for name, t in inputs.items()}
    found, wanted = _run(scan, inputs, 'triton'), _run(scan, twins, 'reference')
    return _worst(case, dtype, found, wanted, bounds)


def _worst(case: str, dtype: torch.dtype, found: dict[str, Tensor], wanted: dict[str, Tensor], bounds: dict) -> dict:
    errors = {name: relative_l2(t, wanted[name]) / bounds[t.dtype] for name, t in found.items()}
    worst = max(errors, key=lambda name: float('inf') if errors[name] != errors[name] else errors[name])
    return _row(case, 'value and gradients', dtype, errors[worst], f'the tolerance ({worst})')


def _repeat(case: str, scan: Callable, inputs: dict[str, Any], dtype: torch.dtype, repeats: int) -> dict:
    first, other = _run(scan, inputs, 'triton'), 0
    for _ in range(repeats):
        again = _run(scan, inputs, 'triton')
        other += not all(torch.equal(t, again[name]) for name, t in first.items())
    return _row(case, f'{repeats} repeats, bit for bit', dtype, other, 'repeats that differ', '<= 0')


def _past_int32(device: torch.device, length: int, tail: int, kept: int) -> Iterator[dict]:
    """The end of 2 sequences of 16 channels, of 2^31 + 4096 elements, against a scan of the last steps alone."""
    b, d = 2, 16
    rand = torch.Generator(device).manual_seed(0)
    u = torch.randn(b, length, d, generator=rand, device=device, dtype=BRAIN).transpose(1, 2)
    BC, A, bias = (torch.ones(shape, device=device) for shape in ((b, 1, length), (d, 1), d))
    ends = []
    for span in (slice(None), slice(-tail, None)):
        x = u[..., span].detach().requires_grad_()
        weights = BC[..., span].to(BRAIN)
        out = selective_scan(x, x, -A, weights, weights, delta_bias=2 * bias, delta_softplus=True, backend='triton')
        (grad,) = torch.autograd.grad(out, x, x.detach())
        ends.append(torch.cat((out.detach()[-1, :, -kept:], grad[-1, :, -kept:])))
        del out, grad
    size = f'{b} x {d} x {length}'
    yield _row(f'scan, {size}', 'value and gradient', BRAIN, relative_l2(*ends) / RMS[BRAIN], 'the tolerance')


def _model(name: str, device: torch.device, size: int) -> Iterator[dict]:
    """A model against itself on the portable backend, in float32."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size).to(device).eval()
    images, outputs = torch.randn(2, 3, size, size, device=device), []
    wanted = os.environ['VIMAMBA_TRITON']
    for chosen in ('1', '0'):
        os.environ['VIMAMBA_TRITON'] = chosen
        with torch.inference_mode():
            outputs.append(model(images))
    os.environ['VIMAMBA_TRITON'] = wanted
    yield _row(name, 'scores', SINGLE, relative_l2(*outputs) / PARITY, 'the tolerance')


def conv_inputs(
    device: torch.device, dtype: torch.dtype, b: int, d: int, order: ScanOrder, seed: int = 0
) -> tuple[list[Tensor], tuple[Any, ...]]:
    """x, weight, bias and a gradient in the memory layout of a model; and the rows and steps of the routes."""
    rand, (k, l) = torch.Generator(device).manual_seed(seed), order.index.shape
    rows, steps = walk_of(order.index)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rand, device=device)

    tokens = [randn(b, l, 2 * d).to(dtype)[..., :d].transpose(1, 2), randn(k, b, l, d).to(dtype).permute(1, 0, 3, 2)]
    walk = None if rows is None else rows.to(device), steps
    return [tokens[0], randn(k, d, 4) / 2, randn(k, d), tokens[1]], walk


def ssd_inputs(
    device: torch.device, dtype: torch.dtype, b: int, l: int, h: int, p: int, n: int, seed: int = 0,
    initial_state: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of `ssd` as computed by a Mamba-2 block."""
    rand = torch.Generator(device).manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rand, device=device)

    start = {'initial_state': randn(b, h, p, n)} if initial_state else {}
    inputs = dict(x=randn(b, l, h, p).to(dtype), dt=randn(b, l, h).to(dtype), A=-randn(h).exp(),
                  B=randn(b, l, 1, n).to(dtype), C=randn(b, l, 1, n).to(dtype), D=randn(h),
                  z=randn(b, l, h, p).to(dtype), dt_bias=randn(h) - 4, **start)  # fmt: skip
    return {name: t.requires_grad_() for name, t in inputs.items()}
