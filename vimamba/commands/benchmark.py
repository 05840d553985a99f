"""Time scans, or models of images or of clips.

    vimamba benchmark scan
    vimamba benchmark models --sizes 224 512 1024
    vimamba benchmark clips --frames 8 16 32 64 --training

The scans of a layer run on the backends cpu (compiled), portable (plain PyTorch) and triton, beside the loop over steps
of the state-spaces reference, which ported code falls back to.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from vimamba.cli import create_parser, find_device, load_models
from vimamba.errors import UsageError, bad_argument, check_integers, unknown_name
from vimamba.memory import keep_memory

__all__ = ['main']

_DTYPES = ('float32', 'bfloat16', 'float16')
_OPTIONS = {  # option -> its default, what it is for
    'sizes': ([224], ('models', 'clips')), 'frames': ([8, 16, 32, 64], ('clips',)),
    'batch': (1, ('models',)), 'training': (False, ('models', 'clips')),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('benchmark', __doc__)
    parser.add_argument('what', choices=('scan', 'models', 'clips'), help='the scans of a layer, or whole models')
    parser.add_argument('--cases', nargs='+', metavar='NAME', help='cases of scan, or timm models, to compare')
    parser.add_argument('--sizes', nargs='+', type=int, metavar='PIXELS', help='of models and clips (default: 224)')
    parser.add_argument('--frames', nargs='+', type=int, help='of clips (default: 8 16 32 64)')
    parser.add_argument('--batch', type=int, help='images, of models (default: 1)')
    parser.add_argument('--training', action='store_true', default=None, help='training steps, not inference')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: %(default)s')
    parser.add_argument('--dtype', choices=_DTYPES, default='float32', help='of the tokens; autocast, of models')
    parser.add_argument('--threads', type=int, default=1, help='on the CPU (default: %(default)s, by CPU time)')
    parser.add_argument('--repeats', type=int, default=21, help='of each measurement (default: %(default)s)')
    parser.add_argument('--append', metavar='FILE.csv', help='also add the rows to this file')
    args = parser.parse_args(argv)
    for option, (default, users) in _OPTIONS.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
        elif args.what not in users:
            raise UsageError(f'--{option} has no effect on {args.what}: leave it out')
    check_integers(1, **{'--batch': args.batch, '--threads': args.threads, '--repeats': args.repeats})
    if args.threads > (cores := os.cpu_count() or 1):
        raise bad_argument('--threads', f'at most {cores}, the cores of this machine', args.threads)
    check_integers(16, **{'--sizes': min(args.sizes)})
    check_integers(1, **{'--frames': min(args.frames)})
    load_models()

    import timm
    import torch

    from vimamba.profile import benchmark, clip_cost

    torch.set_num_threads(args.threads)
    device, dtype = find_device(args.device), getattr(torch, args.dtype)
    models = [*timm.list_models(), *([clip_cost.JOINT] if args.what == 'clips' else [])]
    known = list(benchmark.SCANS) if args.what == 'scan' else models
    for name in [name for name in args.cases or () if name not in known]:
        raise unknown_name('case' if args.what == 'scan' else 'model', name, known)
    if args.what == 'scan':
        cases = {name: benchmark.SCANS[name] for name in args.cases or known}
        results = benchmark.time_scans(device, dtype, cases, args.repeats)
    elif args.what == 'clips':
        costs = clip_cost.plan(args.frames, args.sizes, args.cases, args.training)
        results = clip_cost.time_clips(costs, device, dtype, args.repeats, _prepare)
    else:
        names = tuple(args.cases or benchmark.MODELS)
        work = names, tuple(args.sizes), args.batch, args.repeats, args.training
        results = benchmark.time_models(device, dtype, *work)
    if args.append is not None:
        benchmark.append([], Path(args.append))  # checks its columns before the work
    where = benchmark.environment(device)
    print(', '.join(f'{key} {value}' for key, value in where.items() if key != 'date'))
    with_memory = args.what == 'clips' or (args.what == 'models' and args.device == 'cuda')
    line = '{case:<26} {direction:<19} {median_ms:>10} {p20_ms:>9} {p80_ms:>9} {batch:>6} {rate:>9}'
    line += ' {memory_mib:>6}' * with_memory + '  {implementation}'
    heads = {'median_ms': 'median ms', 'p20_ms': 'p20', 'p80_ms': 'p80', 'rate': 'inputs/s', 'memory_mib': 'MiB'}
    print(line.format(**heads, **{name: name for name in ('case', 'direction', 'batch', 'implementation')}))
    rows = []
    for row in results:
        rows.append({**where, **row})
        rate = f'{1e3 * row["batch"] / float(row["median_ms"]):.4g}'
        print(line.format(**{'memory_mib': '', **row}, rate=rate), flush=True)
    if args.append is not None:
        benchmark.append(rows, Path(args.append))
        print(f'{len(rows)} rows added to {args.append}')
    return 0


def _prepare() -> None:
    """Prepares the process of a measurement, which an interrupt ends silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    keep_memory()
