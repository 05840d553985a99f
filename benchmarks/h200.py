"""Checks the GPU kernels, then times them and the models that use them, in ten minutes.

    python benchmarks/h200.py                 # all sections; appends rows to results_gpu.csv as they are measured
    python benchmarks/h200.py scans models    # some sections
    python benchmarks/h200.py --plans         # all layouts of the scans, for comparison; writes no rows
    python benchmarks/h200.py --dry-run       # without a GPU: tiny shapes under Triton's interpreter; writes no rows

Requires torch, Triton and timm, and mamba_ssm for one section. A result that misses its target prints MISSED. The exit
code is 1 if a section did not complete or a check missed its target.

Sections, each in a separate process:
    check      values, all gradients, repeats and a tensor with more than 2^31 elements, against float64
    scans      all scans of one pass of a model, against the lower bound of an H200 (kernels/selective_scan/NOTES.md)
    conv       the convolutions of a layer, against the time to move its tensors and against PyTorch
    mamba_ssm  against the CUDA operator of mamba_ssm, if it is installed
    models     Vim-T against DeiT-T with PyTorch's fused attention at 1248 pixels, time and memory
    ssd        the scan of Mamba-2 against that of Mamba-1 with the same number of states
    clips      VideoMamba-T against joint space-time attention
    training   steps of Vim-T, VMamba-T and DeiT-T with AdamW

Times are medians from CUDA events. Functions run alternately, over sets of inputs that together exceed the L2 cache.
Kernels are timed with their launches queued, models as they are called. The lower bounds hold for an H200 only.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
os.environ['VIMAMBA_TRITON'] = '1'
os.environ['TRITON_INTERPRET'] = str(int('--dry-run' in sys.argv))  # read when Triton is imported

import torch
from h200_check import check, conv_inputs, ssd_inputs

from vimamba.errors import UsageError, run, unknown_name
from vimamba.kernels.routes import walk_of
from vimamba.kernels.selective_scan import route_scan, selective_scan
from vimamba.kernels.selective_scan.scan import Scan
from vimamba.kernels.ssd import ssd
from vimamba.outputs import check_output
from vimamba.profile import benchmark, clip_cost
from vimamba.profile.benchmark import ScanCase, Times, cells, infer, interleaved
from vimamba.scans import create_order
from vimamba.testing import relative_l2
from vimamba.testing.compare import RMS

RESULTS = Path(__file__).parent / 'results_gpu.csv'
COLUMNS = [*benchmark.COLUMNS, 'triton', 'checked', 'floor_ms', 'ratio', 'of', 'target']
SETS, REPEATS, SLOW_REPEATS = 3, 20, 5
BF16 = torch.bfloat16
BANDWIDTH = 4.3  # TB/s, reached by a copy on an H200
VIM, VIM_1248 = ScanCase(128, 384, 16, (1, 197)), ScanCase(4, 384, 16, (1, 6085))
VMAMBA = {'stage 1': (96, 56, 2), 'stage 2': (192, 28, 2), 'stage 3': (384, 14, 8), 'stage 4': (768, 7, 2)}
VMAMBA_CASES = {name: (ScanCase(128, d, 1, (side, side), 'cross', False), n) for name, (d, side, n) in VMAMBA.items()}
ACROSS = {  # the scans of one pass: cases and counts; lower bounds (ms) and targets as multiples of them
    'vim_tiny 224': ([(VIM, 48)], {'forward': (2.2, 1.5), 'backward': (4.6, 2)}),
    'vim_tiny 1248': ([(VIM_1248, 48)], {'forward': (2.15, 1.5), 'backward': (4.4, 2)}),
    'vim_tiny 224, both directions in one': (
        [(VIM._replace(order='bidirectional'), 24)], {'forward': (2.2, 1.5), 'backward': (4.6, 2)},
    ),
    'vmamba_tiny_s1l8 224': (list(VMAMBA_CASES.values()), {'forward': (0.565, 1.5)}),
}  # fmt: skip
AGAINST = {'vim_tiny 224': VIM, 'vim_tiny 1248': VIM_1248,
           **{f'vmamba_tiny 224, {name}': case for name, (case, _) in VMAMBA_CASES.items()}}  # fmt: skip


class Setting(NamedTuple):
    """Device and size of a section."""

    device: torch.device
    dry: bool = False
    plans: bool = False

    def sized(self, case: ScanCase) -> ScanCase:
        grid = (1, 5) if case.grid[0] == 1 else (2, 2)
        return case._replace(batch=1, channels=8, states=min(case.states, 2), grid=grid) if self.dry else case

    def time(self, functions: dict[str, Callable[[], object]]) -> dict[str, Times]:
        return interleaved(functions, self.device, 1 if self.dry else REPEATS, queued=True)

    def sets(self, make: Callable[[int], Any]) -> list:
        return [make(seed) for seed in range(1 if self.dry else SETS)]


def differentiate(scan: Callable[..., torch.Tensor], inputs: dict[str, Any]) -> None:
    """A forward and a backward pass; the gradient has the memory layout of the output, as in a model."""
    out = scan(**inputs)
    torch.autograd.grad(out, [t for t in inputs.values() if t is not None], out.detach())


def rotating(call: Callable[[Any], object], sets: list) -> Callable[[], object]:
    """Calls with each set of inputs in turn."""
    turns = itertools.cycle(sets)
    return lambda: call(next(turns))


def row(what: str, case: str, implementation: str, direction: str, times: Times | None = None, **more: Any) -> dict:
    return {'what': what, 'case': case, 'implementation': implementation, 'dtype': 'bfloat16', 'direction': direction,
            **(cells(times) if times else {}), **more}  # fmt: skip


def ratio(value: float, of: str, target: str = '') -> dict[str, str]:
    return {'ratio': f'{value:.3g}', 'of': of, 'target': target}


Parts = Iterator[tuple[str, Callable[[], Iterable[dict]]]]  # of a section; if one fails, the others continue


def scans(at: Setting) -> Parts:
    if at.plans:
        return ((name, partial(layouts, at, name)) for name in ACROSS)
    return iter([('copy', partial(copy, at)), *((name, partial(scan_pass, at, name)) for name in ACROSS)])


def copy(at: Setting) -> Iterator[dict]:
    x = torch.zeros(2**10 if at.dry else 2**30, dtype=torch.uint8, device=at.device)
    times = at.time({'copy': partial(torch.empty_like(x).copy_, x)})['copy']
    yield row(
        'copy', f'{len(x) >> 10} KiB', 'torch', 'read and written', times, **ratio(2e-9 * len(x) / times.median, 'TB/s')
    )


def scan_pass(at: Setting, name: str) -> Iterator[dict]:
    """All scans of one pass of a model."""
    stages, floors = ACROSS[name]
    totals: dict[str, Times] = {}
    for case, count in stages:
        sets = at.sets(partial(scan_set, at.sized(case), at.device))
        for direction, times in at.time(scan_calls(sets)).items():
            before = totals.get(direction, Times(0, 0, 0))
            totals[direction] = Times(*(a + count * b for a, b in zip(before, times)))
    for direction, total in totals.items():
        floor, most = floors.get(direction.split()[0], (None, None))
        against = {'floor_ms': floor, **ratio(total.median / floor, 'floor', f'<= {most}')} if floor else {}
        batch, tokens = stages[0][0].batch, math.prod(stages[0][0].grid)
        yield row('scans of a pass', name, 'triton', direction, total, batch=batch, tokens=tokens, **against)


def layouts(at: Setting, name: str) -> Iterator[dict]:
    from vimamba.kernels.selective_scan.triton_common import STEPS, Plan

    for case in (at.sized(full) for full, _ in ACROSS[name][0]):
        sets = at.sets(partial(scan_set, case, at.device))
        d, n, l = case.channels, case.states, math.prod(case.grid)
        widths = [w for w in (32, 64, 128) if w == 32 or (d % w == 0 and (w < 128 or n <= 4))]
        for w, c in itertools.product(widths, (1, 2, 4, 8, 16, 32, 64)):
            if c == 1 or l // c >= 24:
                how = Plan(w, STEPS, c)
                for direction, times in at.time(scan_calls(sets, how)).items():
                    yield row('plan', f'{name}, d {d}, l {l}', str(how), direction, times)


def scan_set(case: ScanCase, device: torch.device, seed: int) -> tuple[Any, ...]:
    """Arguments of the kernels, the states they save, and a gradient."""
    from vimamba.kernels.selective_scan.triton_fwd import route_scan_fwd

    inputs, order = case.inputs(device, BF16, seed)
    tensors = {name: None if t is None else t.detach() for name, t in inputs.items()}
    tensors |= {name: tensors[name].unsqueeze(2) for name in ('B', 'C')}  # one group of channels
    scan = Scan(**tensors, initial_state=None, rows=None, steps=walk_of(order.index)[1], softplus=True)
    out, _, states = route_scan_fwd(scan, save_states=True)
    return scan, torch.randn_like(out), states


def scan_calls(sets: list, how: Any = None) -> dict[str, Callable[[], object]]:
    from vimamba.kernels.selective_scan.triton_bwd import route_scan_bwd
    from vimamba.kernels.selective_scan.triton_fwd import route_scan_fwd

    calls: dict[str, Callable[[Any], object]] = {
        'forward': lambda s: route_scan_fwd(s[0], how=how),
        'forward saving states': lambda s: route_scan_fwd(s[0], save_states=True, how=how),
        'backward': lambda s: route_scan_bwd(s[1], None, s[0], s[2], how=how),
        'backward computing states': lambda s: route_scan_bwd(s[1], None, s[0], how=how),
    }
    return {direction: rotating(call, sets) for direction, call in calls.items()}


def conv(at: Setting) -> Parts:
    return ((name, partial(convolved, at, name, case)) for name, case in AGAINST.items() if name.startswith('vim'))


def convolved(at: Setting, name: str, full: ScanCase) -> Iterator[dict]:
    from vimamba.kernels.causal_conv1d import portable, triton_conv

    case = at.sized(full._replace(order='bidirectional'))
    order = create_order(case.order, case.grid)
    sets = at.sets(partial(conv_inputs, at.device, BF16, case.batch, case.channels, order))
    once = 2e-9 * case.batch * case.channels * order.length / BANDWIDTH  # ms to read or write x
    calls: dict[str, tuple[Callable, float, float]] = {
        'forward': (lambda module, s: module.forward(*s[0][:3], *s[1], True), 3, 1.5),
        'backward': (lambda module, s: module.backward(s[0][3], *s[0][:3], *s[1], True), 4, 3),
    }
    for direction, (call, passes, most) in calls.items():
        modules = {'triton': triton_conv, 'portable': portable}
        functions = {what: rotating(partial(call, module), sets) for what, module in modules.items()}
        times, floor = at.time(functions), passes * once
        against = {'floor_ms': f'{floor:.3g}', **ratio(times['triton'].median / floor, 'floor', f'<= {most}')}
        yield row('convolution', name, 'triton', direction, times['triton'], batch=full.batch, **against)
        more = ratio(times['portable'].median / times['triton'].median, 'the time of triton')
        yield row('convolution', name, 'portable', direction, times['portable'], batch=full.batch, **more)


def mamba_ssm(at: Setting) -> Parts:
    """The scan alone, without the copies in scan order and the sum of the routes that mamba_ssm also needs."""
    if find_spec('mamba_ssm') is None:
        print('mamba_ssm is not installed: nothing to compare with', flush=True)
        return
    gains: dict[str, list[float]] = {'forward': [], 'forward + backward': []}
    for name in AGAINST:
        yield name, partial(against_mamba_ssm, at, name, gains)
    yield 'geometric mean', partial(means, gains)


def in_turn(at: Setting, sets: list[dict]) -> Iterator[tuple[str, dict[str, Times]]]:
    """Yields each direction and the times of all operators, run alternately."""
    for direction, call in (('forward', infer), ('forward + backward', differentiate)):
        functions = {what: rotating(lambda s, what=what, call=call: call(*s[what]), sets) for what in sets[0]}
        yield direction, at.time(functions)


def against_mamba_ssm(at: Setting, name: str, gains: dict[str, list[float]]) -> Iterator[dict]:
    full, sets = AGAINST[name], []
    for inputs, order in at.sets(partial(at.sized(full).inputs, at.device, BF16)):
        ours = partial(route_scan, delta_softplus=True, order=order, backend='triton'), inputs
        sets.append({'triton': ours, 'mamba_ssm': benchmark.mamba_ssm(inputs, order)})
    with torch.no_grad():
        ours, theirs = (scan(**arguments) for scan, arguments in sets[0].values())
    theirs = order.merge(theirs.unflatten(1, (order.routes, -1)).transpose(1, 2), -1)
    if not (error := relative_l2(ours, theirs)) <= 2 * RMS[BF16]:
        raise UsageError(f'mamba_ssm computes something else: relative L2 {error:.1e}')
    for direction, times in in_turn(at, sets):
        gains[direction].append(times['mamba_ssm'].median / times['triton'].median)
        yield row('scan', name, 'mamba_ssm', direction, times['mamba_ssm'], batch=full.batch)
        more = ratio(gains[direction][-1], 'the speed of mamba_ssm', '>= 1')
        yield row('scan', name, 'triton', direction, times['triton'], batch=full.batch, **more)


def means(gains: dict[str, list[float]]) -> Iterator[dict]:
    for direction, found in gains.items():
        if len(found) < len(AGAINST):
            raise UsageError(f'{len(found)} of {len(AGAINST)} shapes were measured')
        mean = math.exp(sum(map(math.log, found)) / len(found))
        more = ratio(mean, 'the speed of mamba_ssm', '>= 1.5')
        yield row('scan', 'geometric mean', 'triton', direction, **more)


def models(at: Setting) -> Parts:
    return ((f'batch {batch}', partial(against_deit, at, batch)) for batch in ((1,) if at.dry else (4, 32)))


def against_deit(at: Setting, batch: int) -> Iterator[dict]:
    names = ('test_mamba_nd_2d', 'test_vit') if at.dry else ('vim_tiny_patch16_224', 'deit_tiny_patch16_224')
    found = timed_models(at, names, (32,) if at.dry else (1248,), batch)
    ours, theirs = (found[name] for name in names)
    yield theirs
    speed = float(theirs['median_ms']) / float(ours['median_ms'])
    yield {**ours, **ratio(speed, 'the speed of ' + names[1], '>= 2.8')}
    if ours['memory_mib']:  # measured on a GPU only
        share = float(ours['memory_mib']) / float(theirs['memory_mib'])
        more = ratio(share, 'the memory of ' + names[1], '<= 0.2')
        yield {**{key: ours[key] for key in ours if not key.endswith('_ms')}, 'what': 'peak memory', **more}


def timed_models(at: Setting, names: tuple[str, ...], sizes: tuple[int, ...], batch: int, **how: Any) -> dict:
    repeats = 1 if at.dry else SLOW_REPEATS
    rows = benchmark.time_models(at.device, BF16, names, sizes, batch, repeats, **how)
    return {found['implementation']: found for found in rows}


def state_space_duality(at: Setting) -> Parts:
    return ((f'{n} states', partial(against_mamba1, at, n)) for n in ((2, 3) if at.dry else (64, 128)))


def against_mamba1(at: Setting, n: int) -> Iterator[dict]:
    """One layer with d = 384 at batch 128: 6 heads of 64 channels against 384 channels."""
    b, l, h, p = (1, 5, 1, 8) if at.dry else (128, 197, 6, 64)
    case, mamba2 = ScanCase(b, h * p, n, (1, l)), partial(ssd, dt_softplus=True, backend='triton')
    sets = [
        {
            'ssd': (mamba2, ssd_inputs(at.device, BF16, b, l, h, p, n, seed)),
            'selective scan': (mamba1, case.inputs(at.device, BF16, seed)[0]),
        }
        for seed in at.sets(int)
    ]
    for direction, times in in_turn(at, sets):
        speed = times['selective scan'].median / times['ssd'].median
        more = {'selective scan': {}, 'ssd': ratio(speed, 'the speed of the selective scan', '>= 4')}
        for what in ('selective scan', 'ssd'):
            yield row('scan', f'{n} states', what, direction, times[what], batch=b, tokens=l, **more[what])


def mamba1(u, delta, A, B, C, D, z, delta_bias) -> torch.Tensor:
    return selective_scan(
        u, delta[:, 0], A[0], B[:, 0], C[:, 0], D[0], z, delta_bias[0], delta_softplus=True, backend='triton'
    )


def clips(at: Setting) -> Parts:
    return ((f'{n} frames', partial(against_joint, at, n)) for n in ((2, 4) if at.dry else (8, 16, 32, 64)))


def against_joint(at: Setting, frames: int) -> Iterator[dict]:
    video, size = ('test_videomamba', 16) if at.dry else (clip_cost.MODELS[0], 224)
    rates = []
    for model in (clip_cost.JOINT, video):
        cost = clip_cost.ClipCost(model, frames, size)
        found = clip_cost.measure(cost, at.device, BF16, 1 if at.dry else SLOW_REPEATS, torch.get_num_threads())
        rates.append(found['batch'] / float(found['median_ms']))
        more = ratio(rates[1] / rates[0], 'clips a second of joint', '>= 6' * (frames == 64)) if rates[1:] else {}
        yield {**found, **more}


def training(at: Setting) -> Parts:
    yield 'steps', partial(against_deit_in_training, at)


def against_deit_in_training(at: Setting) -> Iterator[dict]:
    names = ('vim_tiny_patch16_224', 'vmamba_tiny_s1l8', 'deit_tiny_patch16_224')
    names, size, batch = (('test_mamba_nd_2d', 'test_vit'), 32, 2) if at.dry else (names, 224, 128)
    found = timed_models(at, names, (size,), batch, training=True, adamw=True)
    theirs = found[names[-1]]
    for name in names:
        speed = float(theirs['median_ms']) / float(found[name]['median_ms'])
        yield {**found[name], **(ratio(speed, 'the speed of ' + names[-1]) if name != names[-1] else {})}


SECTIONS: dict[str, Callable[[Setting], Parts]] = {
    'check': lambda at: check(at.device, at.sized if at.dry else None),
    'scans': scans, 'conv': conv, 'mamba_ssm': mamba_ssm, 'models': models, 'ssd': state_space_duality,
    'clips': clips, 'training': training,
}  # fmt: skip


def reached(found: dict) -> bool | None:
    """Whether a row reaches its target; None without a target."""
    if not found.get('target'):
        return None
    sign, bound = found['target'].split()
    value = float(found['ratio'])
    return value <= float(bound) if sign == '<=' else value >= float(bound)


def report(found: dict) -> None:
    said = {None: '', True: 'reached', False: 'MISSED'}[reached(found)]
    times = f'{found["median_ms"]} ms ({found["p20_ms"]} to {found["p80_ms"]})' if 'median_ms' in found else ''
    against = f'{found["ratio"]} x {found["of"]}' if 'ratio' in found else ''
    against += f', target {found["target"]}: {said}' if said else ''
    more = ' '.join(f'{key} {found[key]}' for key in ('batch', 'memory_mib', 'floor_ms') if found.get(key))
    if found['what'] in ('model', 'clip'):
        more = f'{1e3 * found["batch"] / float(found["median_ms"]):.4g} a second, {more}'
    what = f'{found["case"]}, {found["direction"]}'
    print(f'{what:<64} {found["implementation"]:<24} {times:<32} {against:<64} {more}'.rstrip(), flush=True)


def inside(name: str, at: Setting, where: dict[str, str], results: Path) -> int:
    """Runs one section in this process."""
    try:
        where = {**benchmark.environment(at.device), 'triton': version('triton'), **where}
    except RuntimeError as error:  # the GPU is lost
        raise UsageError(f'{name}: {str(error).partition(chr(10))[0]}') from error
    print(', '.join(f'{key} {value}' for key, value in where.items() if key != 'threads'), flush=True)
    code = 0
    for case, part in SECTIONS[name](at):
        try:
            for found in part():
                report(found)
                code |= int(name == 'check' and not reached(found))
                benchmark.append([{**where, **found}], results, COLUMNS)  # at once: the next part may kill the process
        except Exception as error:  # an untested kernel can raise anything
            reason = str(error).strip().partition('\n')[0]
            print(f'{name}, {case}: {type(error).__name__}: {reason}', flush=True)
            code = 1
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sections', nargs='*', metavar='SECTION', help=f'{", ".join(SECTIONS)}; default: all')
    parser.add_argument('--minutes', type=float, default=8.0, help='time limit (default: %(default)s)')
    parser.add_argument('--plans', action='store_true', help='time all layouts of the scans, not only the chosen one')
    parser.add_argument('--dry-run', action='store_true', help='run everything at tiny shapes on the CPU')
    parser.add_argument('--results', default=str(RESULTS), metavar='FILE.csv', help='file to append rows to')
    parser.add_argument('--commit', help='commit for the rows, if the checkout has no history')
    parser.add_argument('--checked', help=argparse.SUPPRESS)  # result of `check`; this process runs one section
    args = parser.parse_args()
    for name in args.sections:
        if name not in SECTIONS:
            raise unknown_name('section', name, SECTIONS)
    if not args.minutes > 0:
        raise UsageError(f'--minutes: expected more than 0, got {args.minutes:g}')
    if find_spec('triton') is None:
        raise UsageError('Triton is not installed: pip install triton')
    if not args.dry_run and not torch.cuda.is_available():
        raise UsageError('no CUDA device: run it where there is one, or --dry-run')
    recorded = not args.dry_run and not args.plans
    if args.checked is not None:
        at = Setting(torch.device('cpu' if args.dry_run else 'cuda'), args.dry_run, args.plans)
        where = {'checked': args.checked, **({'commit': args.commit} if args.commit else {})}
        return inside(args.sections[0], at, where, Path(args.results if recorded else os.devnull))
    if recorded:
        check_output('--results', args.results)
    sections = list(dict.fromkeys(args.sections)) or (['scans'] if args.plans else list(SECTIONS))
    options = ['--dry-run'] * args.dry_run + ['--plans'] * args.plans + ['--results', args.results]
    options += ['--commit', args.commit] if args.commit else []
    return outside(sections, options, args.minutes * 60)


def outside(sections: list[str], options: list[str], seconds: float) -> int:
    """Runs each section in a process with a time limit, since it may fail, hang or lose the GPU."""
    end, checked, failed = time.monotonic() + seconds, 'no', []
    for i, name in enumerate(sections):
        left, others = max(end - time.monotonic(), 0), len(sections) - 1 - i
        limit = left * 3 / (others + 3)
        print(f'\n== {name}', flush=True)
        try:
            command = [sys.executable, __file__, name, *options, '--checked', checked]
            code = subprocess.run(command, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            print(f'{name}: stopped after {limit:.0f} s, its share of the time; --minutes gives more', flush=True)
            code = None
        failed += [name] * (code != 0)
        if name == 'check':
            checked = {0: 'yes', None: 'incomplete'}.get(code, 'failed')
    print(f'\n{"failed or incomplete: " + ", ".join(failed) if failed else "every section is complete"}', flush=True)
    return int(bool(failed))


if __name__ == '__main__':
    run(main)
