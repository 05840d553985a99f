"""Takes the figures of `make detection`, `instances`, `segmentation` and `detection-flat` into scenes.csv.

python benchmarks/scenes.py [runs]
"""

import csv
import json
import re
import sys
from datetime import date
from pathlib import Path

import torch
from digits import commit, cpu_name

ROOT = Path(__file__).parents[1]
TARGETS = ('detection', 'instances', 'segmentation', 'detection-flat')
FIGURES = ('AP', 'AP50', 'mask_AP', 'mask_AP50', 'mIoU', 'aAcc')


def spent(folder: Path) -> dict[str, object]:
    """What the training of a run took, and the size of its model."""
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
    """The figures of one run on the test split, with its time and machine."""
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
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / 'runs')
    rows = [row(runs / target) for target in TARGETS if (runs / target / 'test.json').exists()]
    with open(ROOT / 'benchmarks/scenes.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    print(f'{len(rows)} runs in benchmarks/scenes.csv')


if __name__ == '__main__':
    main()
