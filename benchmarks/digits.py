"""Compares a nano Vim, a ViT of its size and an RBF-SVM on digits. Appends one row per run to benchmarks/digits.csv.

    python benchmarks/digits.py --jobs 2         # both protocols; two runs in parallel, for two cores
    python benchmarks/digits.py seeds            # three seeds on the fixed split, trained as by `make demo`
    python benchmarks/digits.py folds            # 5-fold cross-validation: Vim, ViT and SVM on the same folds

The test part of a split is not used for any choice: networks are tested with the weights of the last epoch, and C and
gamma of the SVM are chosen on the validation part.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from vimamba.checkpoint import load_checkpoint  # noqa: E402
from vimamba.data import create_dataset  # noqa: E402
from vimamba.errors import check_integers, run  # noqa: E402

RESULTS = ROOT / 'benchmarks' / 'digits.csv'
FIELDS = ('date', 'protocol', 'model', 'seed', 'fold', 'params', 'test_images', 'top1', 'train_seconds', 'threads',
          'cpu', 'torch', 'python', 'commit')  # fmt: skip
CONFIGS = {'vim_nano': 'digits_vim_nano', 'vit': 'digits_vit'}


def commit() -> str:
    """The current commit, with a + if tracked files have changed."""
    git = ['git', '-C', str(ROOT)]
    head = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True, check=True).stdout
    return head.strip() + ('+' if changed else '')


def cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def neural(model: str, seed: int, fold: int | None, work: Path, threads: int) -> dict:
    """Trains and tests one network, each in a separate process."""
    config = ROOT / 'configs' / 'classification' / f'{CONFIGS[model]}.py'
    options = [f'run.seed={seed}', *([f'data.fold={fold}', 'data.folds=5'] if fold is not None else [])]
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    tools = [sys.executable, str(ROOT / 'tools' / 'train.py')], [sys.executable, str(ROOT / 'tools' / 'test.py')]
    start = time.perf_counter()
    train = [*tools[0], str(config), '--work-dir', str(work), '--overwrite', '--cfg-options', *options]
    subprocess.run(train, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    result = work / 'test.json'
    test = [*tools[1], str(config), str(work / 'last.pth'), '--split', 'test', '--json', str(result)]
    subprocess.run([*test, '--cfg-options', *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    params = sum(weight.numel() for weight in load_checkpoint(work / 'last.pth')['model'].values())
    return {**json.loads(result.read_text()), 'params': params, 'train_seconds': round(seconds, 1)}


def svm(fold: int) -> dict:
    """Fits an RBF-SVM to the pixels; C and gamma are chosen on the validation part."""
    from sklearn.svm import SVC

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        dataset = create_dataset('digits', split=split, fold=fold, folds=5)
        pairs = [dataset[i] for i in range(len(dataset))]
        return np.stack([image.numpy().ravel() for image, _ in pairs]), np.array([target for _, target in pairs])

    (x, y), validation, test = map(arrays, ('train', 'val', 'test'))
    grid = [(C, gamma) for C in (1, 10, 100) for gamma in (0.01, 0.02, 0.05, 0.1)]
    fitted = [SVC(C=C, gamma=gamma).fit(x, y) for C, gamma in grid]
    best = max(fitted, key=lambda machine: machine.score(*validation))
    return {'top1': 100 * best.score(*test), 'images': len(test[1]), 'params': '', 'train_seconds': ''}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('protocol', nargs='?', choices=('seeds', 'folds'), help='default: both')
    parser.add_argument('--models', nargs='+', choices=('svm', *CONFIGS), default=['svm', *CONFIGS], help='for folds')
    parser.add_argument('--jobs', type=int, default=1, help='runs in parallel, each with cores / jobs threads')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'runs' / 'benchmark')
    args = parser.parse_args()
    check_integers(1, **{'--jobs': args.jobs})
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    shared = {'date': time.strftime('%Y-%m-%d'), 'threads': threads, 'cpu': cpu_name(),
              'torch': torch.__version__, 'python': platform.python_version(), 'commit': commit()}  # fmt: skip
    runs: list[tuple[str, str, int, int | None]] = []
    if args.protocol != 'folds':
        runs += [('seeds', 'vim_nano', seed, None) for seed in range(3)]
    if args.protocol != 'seeds':
        runs += [('folds', model, 0, fold) for model in args.models for fold in range(5)]

    def measure(protocol: str, model: str, seed: int, fold: int | None) -> None:
        work = args.work_dir / f'{protocol}_{model}_{seed}_{fold}'
        got = svm(fold or 0) if model == 'svm' else neural(model, seed, fold, work, threads)
        measured = {'test_images': got['images'], 'top1': f'{got["top1"]:.4f}', 'train_seconds': got['train_seconds']}
        which = {
            'protocol': protocol,
            'model': model,
            'seed': seed,
            'fold': '' if fold is None else fold,
            'params': got['params'],
        }
        row = {**shared, **which, **measured}
        new = not RESULTS.exists()
        with open(RESULTS, 'a', newline='') as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(measure, *zip(*runs)))


if __name__ == '__main__':
    run(main)
