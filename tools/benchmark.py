"""Times operators, models of images or of clips:

python tools/benchmark.py scan
python tools/benchmark.py models --sizes 224 512 1024
python tools/benchmark.py clips --frames 8 16 32 64 [--training]

The scans of a layer are computed by the backends cpu (compiled), portable (plain PyTorch) and triton, and by the loop
over steps that ported code falls back to: the state-spaces loop does what the reference in that package does.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout works without installing it
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch
if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # while torch is imported
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b'interrupted\n') and 130))
elif __name__ == '__mp_main__':  # a process of `clips`, which ends without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from vimamba.cli import find_device
from vimamba.errors import UsageError, bad_argument, check_integers, run, unknown_name
from vimamba.memory import keep_memory

DTYPES = ('float32', 'bfloat16', 'float16')
OPTIONS = {'scan': (), 'models': ('sizes', 'batch', 'training'), 'clips': ('sizes', 'frames', 'training')}
DEFAULTS = {'sizes': [224], 'frames': [8, 16, 32, 64], 'batch': 1, 'training': False}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=('scan', 'models', 'clips'), help='the scans of a layer, or whole models')
    parser.add_argument('--cases', nargs='+', metavar='NAME', help='cases of scan, or timm models, to be compared')
    parser.add_argument('--sizes', nargs='+', type=int, metavar='PIXELS', help='of models and clips (default: 224)')
    parser.add_argument('--frames', nargs='+', type=int, help='of clips (default: 8 16 32 64)')
    parser.add_argument('--batch', type=int, help='images, of models (default: 1)')
    parser.add_argument('--training', action='store_true', default=None, help='training steps, not inference')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: %(default)s')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of the tokens; autocast, of models')
    parser.add_argument('--threads', type=int, default=1, help='on the CPU (default: %(default)s, by CPU time)')
    parser.add_argument('--repeats', type=int, default=21, help='of each measurement (default: %(default)s)')
    parser.add_argument('--append', metavar='FILE.csv', help='also add the rows to this file')
    args = parser.parse_args()
    for option, default in DEFAULTS.items():
        if getattr(args, option) is None:
            setattr(args, option, default)
        elif option not in OPTIONS[args.what]:
            raise UsageError(f'--{option} has no effect on {args.what}: leave it out')
    check_integers(1, **{'--batch': args.batch, '--threads': args.threads, '--repeats': args.repeats})
    if args.threads > (cores := os.cpu_count() or 1):
        raise bad_argument('--threads', f'at most {cores}, the cores of this machine', args.threads)
    check_integers(16, **{'--sizes': min(args.sizes)})
    check_integers(1, **{'--frames': min(args.frames)})

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
        results = clip_cost.time_clips(costs, device, dtype, args.repeats, keep_memory)
    else:
        names, sizes = tuple(args.cases or benchmark.MODELS), tuple(args.sizes)
        results = benchmark.time_models(device, dtype, names, sizes, args.batch, args.repeats, training=args.training)
    if args.append is not None:
        benchmark.append([], Path(args.append))  # before the work: is it one of ours?
    where = benchmark.environment(device)
    print(', '.join(f'{key} {value}' for key, value in where.items() if key != 'date'))
    with_memory = args.what == 'clips' or (args.what == 'models' and args.device == 'cuda')
    line = '{:<26} {:<19} {:>10} {:>9} {:>9} {:>6} {:>9}' + ' {:>6}' * with_memory
    print(line.format('case', 'direction', 'median ms', 'p20', 'p80', 'batch', 'inputs/s', 'MiB'), ' implementation')
    rows = []
    for row in results:
        rows.append({**where, **row})
        columns = [row[name] for name in ('case', 'direction', 'median_ms', 'p20_ms', 'p80_ms', 'batch')]
        rate = f'{1e3 * row["batch"] / float(row["median_ms"]):.4g}'
        print(line.format(*columns, rate, row.get('memory_mib')), f' {row["implementation"]}', flush=True)
    if args.append is not None:
        benchmark.append(rows, Path(args.append))
        print(f'{len(rows)} rows added to {args.append}')
    return 0


if __name__ == '__main__':
    keep_memory()
    run(main)
