"""Measures what models learn of the order of frames in moving digits, and writes moving_digits.csv.

Train the three runs first:

python tools/train.py configs/video/moving_digits_videomamba.py --work-dir runs/moving_digits
python tools/train.py configs/video/moving_digits_videomamba.py --work-dir runs/moving_digits_shuffled \
    --cfg-options data.time=shuffled
python tools/train.py configs/video/moving_digits_videomamba.py --work-dir runs/moving_digits_causal \
    --cfg-options model.name=videomamba_tiny_causal_patch16_224 model.num_frames=8
python benchmarks/moving_digits.py
"""

import argparse
import csv
from datetime import date
from pathlib import Path

import numpy as np
import torch
from digits import commit, cpu_name
from scenes import spent

from vimamba.checkpoint import load_checkpoint, load_weights, model_weights
from vimamba.config import load_config
from vimamba.data import create_loader
from vimamba.data.moving_digits import MovingDigits, opposite
from vimamba.errors import UsageError, run
from vimamba.tasks import VideoTask

ROOT = Path(__file__).parents[1]


def scores(folder: Path, time: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (clips, 80) of the last weights of a run on the test split, and the true classes (clips,)."""
    config = load_config(folder / 'config.json', [f'data.time={time}'])
    dataset = VideoTask.dataset(config, 'test', training=False)
    task, state = VideoTask.build(config, dataset.classes, with_weights=False), load_checkpoint(folder / 'last.pth')
    load_weights(task.model, model_weights(state, folder), folder, config.model.name)
    task.eval()
    task.prepare(dataset, config, training=False)
    with torch.no_grad():
        parts = [(task(clips), targets) for clips, targets in create_loader(dataset, 50, training=False, seed=0)]
    return torch.cat([logits for logits, _ in parts]), torch.cat([targets for _, targets in parts])


def accuracy(logits: torch.Tensor, targets: torch.Tensor, modulo: int = 80) -> float:
    """Top-1 accuracy in percent; with ``modulo=8``, that of the direction alone."""
    return 100 * (logits.argmax(1) % modulo == targets % modulo).double().mean().item()


def sense(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """How often the true class scores higher than the same digit in the opposite direction, in percent."""
    other = torch.tensor([opposite(int(target)) for target in targets])
    return 100 * (logits.gather(1, targets[:, None]) > logits.gather(1, other[:, None])).double().mean().item()


def centroid() -> float:
    """Accuracy in percent of the direction in which the centroid of the moving pixels shifts, without training."""
    dataset, right = MovingDigits(split='test'), 0
    y, x = np.mgrid[:32, :32]
    for clip, target in (dataset[i] for i in range(len(dataset))):
        light = np.abs(clip[0].numpy() - np.median(clip[0].numpy(), axis=0))
        light = np.where(light > 0.2, light, 0) + 1e-9
        shift = [((light * axis).sum((1, 2)) / light.sum((1, 2)))[[0, -1]] for axis in (x, y)]
        east, south = (float(ends[1] - ends[0]) for ends in shift)
        right += round(np.arctan2(south, east) / (np.pi / 4)) % 8 == target % 8
    return 100 * right / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('moving_digits', 'moving_digits_shuffled', 'moving_digits_causal'):
        parser.add_argument(
            name, nargs='?', type=Path, default=ROOT / 'runs' / name, help='folder of a run (default: %(default)s)'
        )
    ordered, shuffled, causal = vars(parser.parse_args()).values()
    for folder in (ordered, shuffled, causal):
        if not (folder / 'summary.txt').exists():
            raise UsageError(f'{folder}: not a finished run: --help gives the command that trains it')
    figures: dict[str, float] = {}
    logits, targets = scores(ordered, 'forward')
    figures['top1'] = accuracy(logits, targets)
    figures['causal_top1'] = accuracy(*scores(causal, 'forward'))
    logits, targets = scores(ordered, 'backward')  # reversed clips have the opposite classes
    figures['reversed_direction'] = accuracy(logits, targets, 8)
    figures['shuffled_sense'] = sense(*scores(shuffled, 'shuffled'))
    figures['centroid_direction'] = centroid()
    row = {
        **{name: f'{value:.2f}' for name, value in figures.items()},
        'clips': len(targets),
        **spent(ordered),
        'threads': torch.get_num_threads(),
        'date': date.today().isoformat(),
        'cpu': cpu_name(),
        'torch': torch.__version__,
        'commit': commit(),
    }
    with open(ROOT / 'benchmarks/moving_digits.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, row, lineterminator='\n')
        writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == '__main__':
    run(main)
