"""A checkpoint on a split: table, JSON, confusion matrix and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vimamba.checkpoint import load_checkpoint, load_weights, model_weights, written_by
from vimamba.errors import UsageError, prepare_output

from . import distributed, schema
from .config import read_config
from .loop import evaluate
from .train import create_loaders

__all__ = ['evaluate_checkpoint']

_SHOWN = 25  # images in the grid of predictions
_LISTED = 50  # classes in the table; of more, the worst


def evaluate_checkpoint(
    path: str | Path,
    checkpoint: str | Path,
    task_type: Any,
    *,
    options: Sequence[str] = (),
    split: str = 'val',
    json_file: str | None = None,
    out_dir: str | None = None,
    plots: Any = None,
) -> int:
    """Evaluates a checkpoint on a split of the configured data, prints the table and writes what is asked for.

    Args:
        path: the configuration.
        checkpoint: of our training (the averaged weights where it has them), or any file of weights that fit.
        task_type: as in `train`.
        options: ``key.subkey=value``, over the configuration.
        split: of the data set.
        json_file: for all numbers, the confusion matrix among them.
        out_dir: for ``confusion.png`` and ``predictions.png``.
        plots: a module with ``plot_confusion`` and ``plot_predictions``.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: anything that the user can mend.
    """
    config = schema.check(read_config(path, options))
    preprocessing = task_type.preprocessing(config)
    if json_file is not None:
        prepare_output('--json', json_file)
    if out_dir is not None:
        prepare_output('--out-dir', out_dir, folder=True)
    state = load_checkpoint(checkpoint)
    device = distributed.local_device(config.run.device)
    with distributed.initialized(device):
        [loader] = create_loaders(config, preprocessing._asdict(), [split], training=False)
        classes = list(loader.dataset.classes)
        if state.get('classes', classes) != classes:
            raise UsageError(
                f'{checkpoint}: trained on {len(state["classes"])} classes ({", ".join(state["classes"][:3])}, ..), '
                f'{config.data.name} has {len(classes)} ({", ".join(classes[:3])}, ..): use the data it was trained on'
            )
        task = task_type.build(config, classes, with_weights=False)
        load_weights(task.model, model_weights(state, checkpoint), checkpoint, config.model.name, written_by(state))
        sample = _Sample()
        metric = evaluate(task.to(device), loader, device, config.run.amp, sample.observe)
        if not distributed.is_main():
            return 0
    result = {
        'model': config.model.name,
        'checkpoint': str(checkpoint),
        'data': config.data.name,
        'split': split,
        **metric.compute(),
        'per_class': dict(zip(classes, metric.per_class())),
        'confusion': metric.state['confusion'].tolist(),
    }
    print(_table(result, metric.state['confusion']))
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1).replace('NaN', 'null') + '\n')
        print(f'numbers in {json_file}')
    if out_dir:
        folder = Path(out_dir)
        plots.plot_confusion(metric.state['confusion'], classes, folder / 'confusion.png')
        plots.plot_predictions(*sample.of(preprocessing), classes, folder / 'predictions.png')
        print(f'confusion matrix and predictions, mistakes first, in {folder}')
    return 0


class _Sample:
    """A few images to look at: mistakes first."""

    def __init__(self) -> None:
        self.wrong: list[tuple[Tensor, int, Tensor]] = []
        self.right: list[tuple[Tensor, int, Tensor]] = []

    def observe(self, images: Tensor, targets: Tensor, logits: Tensor) -> None:
        for image, target, row in zip(images, targets.tolist(), logits.softmax(1)):
            kept = self.right if int(row.argmax()) == target else self.wrong
            if len(kept) < _SHOWN:
                kept.append((image.clone(), target, row))

    def of(self, preprocessing: Any) -> tuple[Tensor, list[int], list[int], list[float]]:
        """Images in 0..1, targets, predictions, scores."""
        chosen = (self.wrong + self.right)[:_SHOWN]
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        images = torch.stack([image * std + mean for image, _, _ in chosen]).clamp(0, 1)
        predictions = [int(row.argmax()) for _, _, row in chosen]
        return images, [target for _, target, _ in chosen], predictions, [float(row.max()) for _, _, row in chosen]


def _table(result: dict[str, Any], confusion: Tensor) -> str:
    where = f'{result["data"]}/{result["split"]}, {result["images"]} images'
    lines = [f'{result["model"]} from {result["checkpoint"]} on {where}']
    lines.append(f'top-1 {result["top1"]:.2f} %   top-5 {result["top5"]:.2f} %   loss {result["loss"]:.4f}')
    rows = list(zip(result['per_class'].items(), confusion.sum(1).tolist()))
    if len(rows) > _LISTED:
        rows = sorted(rows, key=lambda row: row[0][1])[:10]
        lines.append('the ten worst classes:')
    width = max(5, *(min(len(name), 30) for (name, _), _ in rows))
    lines.append(f'{"class":<{width}} {"images":>7} {"accuracy":>9}')
    lines += [f'{name[:30]:<{width}} {images:>7} {accuracy:>9.2f}' for (name, accuracy), images in rows]
    return '\n'.join(lines)
