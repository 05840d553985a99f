"""Times of operators and models beside their alternatives, measured in turn in one process.

The clock is CPU time with one thread, which other programs disturb least, wall time with more threads, and CUDA events
on a GPU. Results are the median and the 20th and 80th percentile.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import vimamba
from vimamba.errors import UsageError
from vimamba.kernels.cpu.library import describe, is_built
from vimamba.kernels.linear import linear, onednn_pays
from vimamba.kernels.selective_scan import route_scan
from vimamba.outputs import naming
from vimamba.scans import ScanOrder, create_order

__all__ = ['COLUMNS', 'MODELS', 'SCANS', 'ScanCase', 'Times', 'append', 'cells', 'environment', 'infer',
           'interleaved', 'mamba_ssm', 'row', 'step', 'time_models', 'time_scans', 'with_dense_layers']  # fmt: skip

COLUMNS = ['date', 'commit', 'device', 'threads', 'clock', 'torch', 'flags', 'what', 'case', 'implementation', 'dtype',
           'batch', 'tokens', 'direction', 'median_ms', 'p20_ms', 'p80_ms', 'memory_mib']  # fmt: skip
_SHORT = 0.05  # seconds: a shorter function depends on what the others left in the caches
_SECONDS = 20.0  # per implementation, after at least three measurements


class Times(NamedTuple):
    """Milliseconds."""

    median: float
    p20: float
    p80: float


def interleaved(
    functions: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, queued: bool = False
) -> dict[str, Times]:
    """Times all functions in turn, so that a disturbance hits all of them; short ones are warmed up in each turn.

    With ``queued``, a GPU waits until all launches of a function are queued: its kernels are timed, not Python.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if sum(samples[name]) < _SECONDS or len(samples[name]) < 3:
                if not samples[name] or samples[name][-1] < _SHORT:
                    function()
                samples[name].append(_seconds(function, device, queued))
    return {name: _summary(sorted(times)) for name, times in samples.items()}


def _seconds(function: Callable[[], object], device: torch.device, queued: bool) -> float:
    if device.type == 'cuda':
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        if queued:
            torch.cuda._sleep(20_000_000)  # cycles, about 10 ms
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start_time = clock()
    function()
    return clock() - start_time


def _summary(seconds: list[float]) -> Times:
    return Times(*(1e3 * seconds[round(q * (len(seconds) - 1))] for q in (0.5, 0.2, 0.8)))


class ScanCase(NamedTuple):
    """The scans of one layer: K routes over the same tokens."""

    batch: int
    channels: int
    states: int
    grid: tuple[int, int]
    order: str = 'raster'
    gated: bool = True
    loop_trains: bool = True  # the loop's backward pass takes time quadratic in the length

    def inputs(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> tuple[dict[str, Any], ScanOrder]:
        """Creates tensors like a model's: channels-last, with step sizes after softplus in [0.001, 0.1]."""
        order = create_order(self.order, self.grid).to(device)
        (k, l), (b, d, n) = order.index.shape, self[:3]
        rand = torch.Generator(device).manual_seed(seed)

        def tokens(*shape: int) -> Tensor:
            t = torch.randn(*shape[:-2], shape[-1], shape[-2], generator=rand, device=device).to(dtype)
            return t.transpose(-1, -2).requires_grad_()

        def parameter(t: Tensor) -> Tensor:
            return t.to(device).requires_grad_()

        inputs = dict(
            u=tokens(b, d, l),
            delta=tokens(b, k, d, l),
            A=parameter(-torch.arange(1.0, n + 1).repeat(k, d, 1)),
            B=tokens(b, k, n, l),
            C=tokens(b, k, n, l),
            D=parameter(torch.ones(k, d)),
            z=tokens(b, d, l) if self.gated else None,
            delta_bias=parameter(torch.rand(k, d, generator=rand, device=device) * 4.5 - 7),
        )
        return inputs, order


SCANS = {
    'vim_tiny 224': ScanCase(1, 384, 16, (1, 197)),
    'vim_tiny 224, batch 8': ScanCase(8, 384, 16, (1, 197), loop_trains=False),
    'vim_small 224': ScanCase(1, 768, 16, (1, 197)),
    'vim_tiny 512': ScanCase(1, 384, 16, (1, 1025), loop_trains=False),
    'vim_tiny 1024': ScanCase(1, 384, 16, (1, 4097), loop_trains=False),
    'vim_tiny 1248': ScanCase(1, 384, 16, (1, 6085), loop_trains=False),
    'vmamba_tiny 224, stage 1': ScanCase(1, 96, 1, (56, 56), 'cross', gated=False, loop_trains=False),
    'vmamba_tiny 224, stage 2': ScanCase(1, 192, 1, (28, 28), 'cross', gated=False),
    'vmamba_tiny 224, stage 3': ScanCase(1, 384, 1, (14, 14), 'cross', gated=False),
    'vmamba_tiny 224, stage 4': ScanCase(1, 768, 1, (7, 7), 'cross', gated=False),
}
MODELS = ('vim_tiny_patch16_224', 'deit_tiny_patch16_224')


def state_spaces_loop(order: ScanOrder, u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The fallback of ported code without a kernel: exp(delta A) for all steps at once, then a loop over the steps.

    The recurrence of arXiv:2312.00752, Eq. 2, in the form of the state-spaces reference, with routes as copies.
    """
    u, delta, B, C = (order.scan(u, -1).transpose(1, 2).float(), *(
        torch.stack([t[:, k].float()[..., row] for k, row in enumerate(order.index)], 1) for t in (delta, B, C)
    ))  # fmt: skip
    delta = F.softplus(delta + delta_bias[..., None])
    decay = torch.exp(torch.einsum('bkdl,kdn->bkdln', delta, A))
    inputs = torch.einsum('bkdl,bknl,bkdl->bkdln', delta, B, u)
    h, ys = u.new_zeros(*u.shape[:3], A.shape[-1]), []
    for t in range(u.shape[-1]):
        h = decay[..., t, :] * h + inputs[..., t, :]
        ys.append(torch.einsum('bkdn,bkn->bkd', h, C[..., t]))
    y = torch.stack(ys, -1) + u * D[..., None]
    y = order.merge(y.transpose(1, 2), -1)
    return y if z is None else y * F.silu(z.float())


def time_scans(device: torch.device, dtype: torch.dtype, cases: Mapping[str, ScanCase], repeats: int) -> Iterator[dict]:
    """Times forward, and forward with backward, of every available backend for each case."""
    for name, case in cases.items():
        inputs, order = case.inputs(device, dtype)
        scans = _scans(inputs, order, device)
        trained = {what: scan for what, scan in scans.items() if case.loop_trains or what != 'state-spaces loop'}
        for direction, run, chosen in (('forward', infer, scans), ('forward + backward', _differentiate, trained)):
            functions = {what: partial(run, *scan) for what, scan in chosen.items()}
            for what, times in interleaved(functions, device, repeats).items():
                size = {'batch': case.batch, 'tokens': order.length}
                yield row(times, dtype, what='scan', case=name, implementation=what, direction=direction, **size)


def _scans(inputs: dict[str, Any], order: ScanOrder, device: torch.device) -> dict[str, tuple[Callable, dict]]:
    """The implementations of a scan, each with its arguments."""
    scans: dict[str, tuple[Callable, dict]] = {'state-spaces loop': (partial(state_spaces_loop, order), inputs)}
    cpu, gpu = device.type == 'cpu' and is_built(), device.type == 'cuda' and find_spec('triton') is not None
    for backend in ['cpu'] * cpu + ['triton'] * gpu + ['portable']:
        scans[backend] = partial(route_scan, delta_softplus=True, order=order, backend=backend), inputs
    if device.type == 'cuda' and find_spec('mamba_ssm') and order.routes == 1:
        scans['mamba_ssm'] = mamba_ssm(inputs, order)
    return scans


def mamba_ssm(inputs: dict[str, Any], order: ScanOrder) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The CUDA operator of mamba_ssm, which must be installed, and its arguments in its fastest layout.

    The arguments are copies: in scan order, steps adjacent, routes as groups of channels. Its output is not merged.
    """
    operator = import_module('mamba_ssm.ops.selective_scan_interface').selective_scan_fn

    def copy(name: str) -> Tensor:
        t = inputs[name].detach()
        if name == 'u':
            t = t.unsqueeze(1).expand(-1, order.routes, -1, -1)
        return torch.stack([t[:, k][..., row] for k, row in enumerate(order.index.to(t.device))], 1).contiguous()

    arguments = {
        **{name: copy(name).flatten(1, 2) for name in ('u', 'delta')},
        **{name: inputs[name].detach().flatten(0, 1) for name in ('A', 'D', 'delta_bias')},
        **{name: copy(name) for name in ('B', 'C')},
        'z': None if inputs['z'] is None else inputs['z'].detach().contiguous(),
    }
    leaves = {name: None if t is None else t.requires_grad_() for name, t in arguments.items()}
    return partial(operator, delta_softplus=True), leaves


def infer(scan: Callable[..., Tensor], inputs: dict[str, Any]) -> None:
    """A forward pass without gradients."""
    with torch.no_grad():
        scan(**inputs)


def _differentiate(scan: Callable[..., Tensor], inputs: dict[str, Any]) -> None:
    torch.autograd.grad(scan(**inputs).sum(), [t for t in inputs.values() if t is not None])


def time_models(
    device: torch.device, dtype: torch.dtype, names: tuple[str, ...], sizes: tuple[int, ...], batch: int, repeats: int,
    training: bool = False, adamw: bool = False,
) -> Iterator[dict]:  # fmt: skip
    """Times inference, or a training step without optimizer or with AdamW, of timm models at several image sizes."""
    direction = 'training step' + ' with AdamW' * adamw if training else 'forward'
    for size in sizes:
        functions = {}
        for name in names:
            images = torch.randn(batch, 3, size, size, device=device)
            model = _sized(name, size).to(device).train(training)
            optimizer = torch.optim.AdamW(model.parameters()) if adamw else None
            functions[name] = step(model, images, dtype, training, optimizer)
            if device.type == 'cpu' and onednn_pays() and not type(model).__module__.startswith('vimamba'):
                model = with_dense_layers(_sized(name, size)).train(training)
                functions[f'{name}, our dense layers'] = step(model, images, dtype, training)
        memory = {name: _memory(function, device) for name, function in functions.items()}
        for name, times in interleaved(functions, device, repeats).items():
            known = {'what': 'model', 'case': f'{size} px', 'tokens': (size // 16) ** 2, 'memory_mib': memory[name]}
            yield row(times, dtype, implementation=name, batch=batch, direction=direction, **known)


def with_dense_layers(model: torch.nn.Module) -> torch.nn.Module:
    """Gives a baseline the dense layers of vimamba, from which it gains too."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = partial(linear, weight=module.weight, bias=module.bias)  # type: ignore[method-assign]
    return model


def _sized(name: str, size: int) -> torch.nn.Module:
    try:
        model = timm.create_model(name, img_size=size)
    except TypeError:  # a model for any size, such as ConvNeXt
        model = timm.create_model(name)
    if getattr(model, 'num_frames', None) is not None:
        raise UsageError(f'{name} takes clips: measure it by `clips`, or choose a model of images')
    return model


def step(
    model: torch.nn.Module, images: Tensor, dtype: torch.dtype, training: bool,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], object]:  # fmt: skip
    """A function that runs a forward pass without gradients, or forward, backward and, if given, an optimizer step."""
    amp = torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32)

    def infer() -> None:
        with torch.inference_mode(), amp:
            model(images)

    def train() -> None:
        with amp:
            loss = model(images).float().square().mean()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()

    return train if training else infer


def _memory(function: Callable[[], object], device: torch.device) -> str:
    """Peak MiB above what is allocated before the call; empty without a GPU."""
    if device.type != 'cuda':
        return ''
    function()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return f'{(torch.cuda.max_memory_allocated(device) - before) / 2**20:.0f}'


def cells(times: Times) -> dict[str, str]:
    """The columns of a results file."""
    return {key: f'{value:.4g}' for key, value in zip(('median_ms', 'p20_ms', 'p80_ms'), times)}


def row(times: Times, dtype: torch.dtype, **columns: Any) -> dict[str, Any]:
    """A row of a results file, without the columns of `environment`."""
    return {'dtype': str(dtype).removeprefix('torch.'), **columns, **cells(times)}


def environment(device: torch.device) -> dict[str, str]:
    """The machine, versions and flags that a result depends on."""
    threads = torch.get_num_threads()
    if device.type == 'cuda':
        name, clock = torch.cuda.get_device_name(device), 'events'
        flags = f'tf32={torch.backends.cuda.matmul.allow_tf32} cudnn.benchmark={torch.backends.cudnn.benchmark}'
        flags += f' flash={torch.backends.cuda.flash_sdp_enabled()} triton={os.environ.get("VIMAMBA_TRITON", "0")}'
    else:
        name = f'{_processor()}, {describe() if is_built() else "no compiled kernels"}'
        clock = 'CPU time' if threads == 1 else 'wall'
        flags = f'matmul={torch.get_float32_matmul_precision()} malloc=kept'
    root, commit = Path(vimamba.__file__).resolve().parents[1], vimamba.__version__
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        git = ['git', 'rev-parse', '--short', 'HEAD']
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    return {'date': datetime.date.today().isoformat(), 'commit': commit, 'device': name, 'threads': str(threads),
            'clock': clock, 'torch': torch.__version__, 'flags': flags}  # fmt: skip


def _processor() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def append(rows: list[dict], file: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Appends rows to a results file, creating it if necessary.

    Raises:
        UsageError: the file has other columns.
    """
    new = not file.exists() or not file.stat().st_size
    if not new:
        with open(file, newline='') as there:
            if next(csv.reader(there)) != list(columns):
                raise UsageError(f'{file}: not a results file of these columns: choose another file')
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), open(file, 'a', newline='') as out:
        writer = csv.DictWriter(out, columns, restval='', lineterminator='\n')
        if new:
            writer.writeheader()
        writer.writerows(rows)
