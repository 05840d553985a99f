"""Times the Triton selective scan on one GPU: all scans of one pass of a model, its floor beside every figure.

    export PYTHONPATH=.
    python -m pytest -m gpu tests/kernels/test_triton_scan.py  # right first
    python benchmarks/h200_scan.py                             # then fast: a table, and rows for results_gpu.csv
    python benchmarks/h200_scan.py --plans                     # every layout, to choose among; no rows

Medians by events with the launches queued ahead, in turn over input sets that together exceed the L2. The floor is that
of an H200, counted from bytes and exponentials (kernels/selective_scan/NOTES.md); on another GPU it does not apply.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from vimamba.errors import UsageError, run
from vimamba.kernels.selective_scan.triton_bwd import route_scan_bwd
from vimamba.kernels.selective_scan.triton_common import STEPS, Plan, Routes
from vimamba.kernels.selective_scan.triton_fwd import route_scan_fwd

RESULTS = Path(__file__).parent / 'results_gpu.csv'
COLUMNS = ['date', 'device', 'torch', 'triton', 'commit', 'what', 'shape', 'dtype', 'direction']
COLUMNS += ['median_ms', 'p20_ms', 'p80_ms', 'floor_ms', 'ratio']
CROSS = ((False, False, True, True), (False, True, False, True))
# model: batch, gate, [(d, n, l, width, scans in one pass)], routes (reverse, columns), floor of one pass (ms)
MODELS = {
    'vim_tiny 224': (128, True, [(384, 16, 197, 1, 48)], ((False,), ()), {'forward': 2.2, 'backward': 4.6}),
    'vim_tiny 1248': (4, True, [(384, 16, 6085, 1, 48)], ((False,), ()), {'forward': 2.15, 'backward': 4.4}),
    'vim_tiny 224, both routes in one': (
        128, True, [(384, 16, 197, 1, 24)], ((False, True), ()), {'forward': 2.2, 'backward': 4.6},
    ),
    'vmamba_tiny_s1l8 224': (
        128, False, [(96, 1, 3136, 56, 2), (192, 1, 784, 28, 2), (384, 1, 196, 14, 8), (768, 1, 49, 7, 2)], CROSS,
        {'forward': 0.565},
    ),
}  # fmt: skip


def make_inputs(b, d, l, n, k, gate, dtype, seed) -> list[torch.Tensor | None]:
    """As a Mamba block makes them: channels last, B and C slices of one projection, small steps."""
    gen = torch.Generator('cuda').manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=gen, device='cuda')

    rank = max(4, d // 32 // 4 * 4)
    proj = randn(b, l, k, 1, rank + 2 * n).to(dtype).permute(0, 2, 3, 4, 1)
    u, z = (randn(b, l, d).to(dtype).transpose(1, 2) for _ in range(2))
    delta = randn(b, k, l, d).mul_(0.5).to(dtype).transpose(2, 3)
    A = -torch.rand(k, d, n, generator=gen, device='cuda') * n - 0.5
    B, C = proj[..., rank : rank + n, :], proj[..., rank + n :, :]
    return [u, delta, A, B, C, randn(k, d), z if gate else None, randn(k, d) - 4, None]


def time_ms(call: Callable[[Any], object], sets: list, repeats: int) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    turns = itertools.cycle(sets)
    for _ in range(3):
        call(next(turns))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # about 0.1 s, in which launches queue up: they are not what is timed
    for start, stop in events:
        inputs = next(turns)
        start.record()
        call(inputs)
        stop.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(stop) for start, stop in events)
    return times[len(times) // 2], times[len(times) // 5], times[len(times) * 4 // 5]


def copy_rate() -> float:
    """Bytes read and written by a copy of 1 GiB, in TB/s."""
    x = torch.randint(0, 255, (2**30,), dtype=torch.uint8, device='cuda')
    return 2 * x.numel() / time_ms(lambda to: to.copy_(x), [torch.empty_like(x)], 20)[0] / 1e9


def calls(routes: Routes, how: Plan | None) -> dict[str, Callable[[Any], object]]:
    return {
        'forward': lambda s: route_scan_fwd(*s[0], True, routes, how=how),
        'forward saving states': lambda s: route_scan_fwd(*s[0], True, routes, save_states=True, how=how),
        'backward': lambda s: route_scan_bwd(s[1], None, *s[0], True, routes, s[2], how=how),
        'backward computing states': lambda s: route_scan_bwd(s[1], None, *s[0], True, routes, how=how),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--plans', action='store_true', help='time every layout instead of the chosen one')
    parser.add_argument('--only', default='', help='models whose name has this in it')
    parser.add_argument('--repeats', type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise UsageError('no CUDA device: this benchmark times GPU kernels; run it where there is one')
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip()
    source = [str(datetime.date.today()), torch.cuda.get_device_name(), torch.__version__, triton.__version__, commit]
    print(f'{source[1]}, torch {source[2]}, triton {source[3]}, {commit}; copy {copy_rate():.2f} TB/s')
    rows = []
    for name, (b, gate, stages, (reverse, columns), floors) in MODELS.items():
        if args.only not in name:
            continue
        totals: dict[str, list[float]] = {}
        for d, n, l, width, scans in stages:
            routes, k = Routes(reverse, columns, width), len(reverse)
            sets = []
            for seed in range(3):
                inputs = make_inputs(b, d, l, n, k, gate, torch.bfloat16, seed)
                out, _, states = route_scan_fwd(*inputs, True, routes, save_states=True)
                sets.append((inputs, torch.randn_like(out), states))
            layouts = [None]
            if args.plans:
                widths = [w for w in (32, 64, 128) if d % w == 0 and (w < 128 or n <= 4)]
                layouts = [Plan(w, STEPS, c) for w in widths for c in (1, 2, 4, 8, 16, 32, 64) if l // c >= 24]
            for how in layouts:
                for direction, call in calls(routes, how).items():
                    times = time_ms(call, sets, args.repeats)
                    if how is not None:
                        print(f'{name}, d {d}, l {l}, {direction}, {how}: {times[0] * 1e3:.1f} us', flush=True)
                        continue
                    total = totals.setdefault(direction, [0.0, 0.0, 0.0])
                    for i, t in enumerate(times):
                        total[i] += t * scans
            del sets
        for direction, times in totals.items():
            floor = floors.get(direction.split()[0])
            shape = f'b {b}, ' + ' '.join(f'{scans}x(d {d}, n {n}, l {l})' for d, n, l, _, scans in stages)
            measured = [f'{t:.3f}' for t in times]
            ratio = '' if floor is None else f'{times[0] / floor:.2f}'
            rows.append([*source, name, shape, 'bfloat16', direction, *measured, floor or '', ratio])
            print(
                f'{name:32} {direction:26} {measured[0]:>8} ms ({measured[1]} to {measured[2]}), floor {floor} x{ratio}'
            )
    if rows:
        fresh = not RESULTS.exists()
        with RESULTS.open('a', newline='') as file:
            csv.writer(file).writerows(([COLUMNS] if fresh else []) + rows)


if __name__ == '__main__':
    run(main)
