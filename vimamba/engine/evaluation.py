"""A checkpoint on a split: table, JSON, confusion matrix and predictions."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine import dist

from vimamba.checkpoint import load_checkpoint, load_weights, model_weights, written_by
from vimamba.data import BrokenImage
from vimamba.engine import distributed
from vimamba.errors import UsageError
from vimamba.outputs import check_output, whole_file, write_text
from vimamba.tasks import load_task
from vimamba.visualize.plots import plot_confusion

from .loop import Sample, evaluate
from .train import open_loader

__all__ = ['evaluate_checkpoint']

_SHOWN = 25  # images in the picture of predictions


def evaluate_checkpoint(
    path: str | Path,
    checkpoint: str | Path,
    *,
    options: Sequence[str] = (),
    split: str = 'val',
    json_file: str | None = None,
    out_dir: str | None = None,
) -> int:
    """Evaluates a checkpoint on a split of the configured data, prints the table and writes the requested files.

    Args:
        path: the configuration.
        checkpoint: a checkpoint of `vimamba train` (its averaged weights, if any), or a file of weights that fit.
        options: ``key.subkey=value``, over the configuration.
        split: split of the data set.
        json_file: file for all figures, including the confusion matrix.
        out_dir: folder for ``predictions.png`` and, if the metric has one, ``confusion.png``.

    Returns:
        The exit code, 0.
    """
    config, task_type = load_task(path, options)
    if json_file is not None:
        check_output('--json', json_file)
    if out_dir is not None:
        check_output('--out-dir', out_dir, folder=True)
    state = load_checkpoint(checkpoint)
    with config.located(), distributed.initialized(config.run.device) as device:
        dataset = task_type.dataset(config, split, training=False)
        classes = list(dataset.classes)
        if state.get('classes', classes) != classes:
            raise UsageError(
                f'{checkpoint}: trained on {len(state["classes"])} classes ({", ".join(state["classes"][:3])}, ..), '
                f'{config.data.name} has {len(classes)} ({", ".join(classes[:3])}, ..): use the data it was trained on'
            )
        task = task_type.build(config, classes, with_weights=False)
        load_weights(task.model, model_weights(state, checkpoint), checkpoint, config.model.name, written_by(state))
        loader, sample = open_loader(task, dataset, config, training=False), Sample(_SHOWN)
        try:
            metric = evaluate(task.to(device), loader, device, config.run.amp, sample if out_dir else None)
        except BrokenImage as error:
            raise UsageError(f'{error}; an evaluation leaves none out: mend or remove it') from error
        if not dist.is_main_process():
            return 0
    result = {'model': config.model.name, 'checkpoint': str(checkpoint), 'data': config.data.name, 'split': split}
    result |= metric.summary()
    where = f'{config.data.name}/{split}, {result[task.what]} {task.what}'
    print(f'{config.model.name} from {checkpoint} on {where}\n{metric.table()}')
    if json_file:
        write_text(json_file, json.dumps(result, indent=1).replace('NaN', 'null') + '\n')
        print(f'numbers in {json_file}')
    if out_dir:
        folder = Path(out_dir)
        if 'confusion' in metric.state:
            plot_confusion(metric.state['confusion'], classes, folder / 'confusion.png')
        picture = sample.picture(task)
        with whole_file(folder / 'predictions.png') as part:
            picture.save(part)
        print(f'pictures in {folder}')
    return 0
