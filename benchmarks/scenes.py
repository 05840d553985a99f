"""Collects the results of `make detection`, `instances`, `segmentation` and `detection-flat` in scenes.csv.

Rows of targets that have not been run are kept.
"""

import argparse
import csv
import json
import re
from datetime import date
from pathlib import Path

import torch
from digits import commit, cpu_name

from vimamba.errors import UsageError, run

ROOT = Path(__file__).parents[1]
TARGETS = ('detection', 'instances', 'segmentation', 'detection-flat')
FIGURES = ('AP', 'AP50', 'mask_AP', 'mask_AP50', 'mIoU', 'aAcc')


def spent(folder: Path) -> dict[str, object]:
    """Training time, peak memory and model size of a run."""
    summary = (folder / 'summary.txt').read_text()
    hours, minutes, seconds = map(int, re.findall(r'(\d+):(\d+):(\d+) in this session', summary)[0])
    (memory,) = re.findall(r'peak memory (\d+) MiB', summary)
    (size,) = re.findall(r'([\d.]+) M parameters', (folder / 'train.log').read_text())
    return {
        'parameters_m': size,
        'train_seconds': 3600 * hours + 60 * minutes + seconds,
        'memory_mib': memory,
    }


def row(folder: Path) -> dict[str, object]:
    """Test metrics of one run, with training time and machine."""
    result, config = (json.loads((folder / name).read_text()) for name in ('test.json', 'config.json'))
    return {
        'target': folder.name,
        'head': config['task']['head'],
        'backbone': config['model']['name'],
        'test_images': result['images'],
        **{name: f'{result[name]:.2f}' if name in result else '' for name in FIGURES},
        **spent(folder),
        'date': date.today().isoformat(),
        'cpu': cpu_name(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'commit': commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='?', type=Path, default=ROOT / 'runs', help='folder of the runs of `make`')
    parser.add_argument('--results', type=Path, default=ROOT / 'benchmarks/scenes.csv', metavar='FILE.csv')
    args = parser.parse_args()
    found = {target: row(args.runs / target) for target in TARGETS if (args.runs / target / 'test.json').exists()}
    if not found:
        raise UsageError(f'{args.runs}: none of the runs {", ".join(TARGETS)} in it: `make detection` makes the first')
    if args.results.exists():
        with open(args.results, newline='') as file:
            found = {there['target']: there for there in csv.DictReader(file)} | found
    rows = [found[target] for target in TARGETS if target in found]
    with open(args.results, 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    print(f'{len(rows)} runs in {args.results}')


if __name__ == '__main__':
    run(main)
