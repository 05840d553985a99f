"""Conversion of official files to safetensors files of this package, with a report of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from vimamba.checkpoint import load_checkpoint, load_weights, model_weights
from vimamba.errors import unknown_name
from vimamba.outputs import whole_file

__all__ = ['convert_checkpoint']


def convert_checkpoint(source: str | Path, name: str, target: str | Path, **options: Any) -> dict[str, list[str]]:
    """Writes the weights of an official file as safetensors under the keys of a model of ours.

    Args:
        source: a published file, with or without wrapper keys; nothing in it is executed.
        name: timm name of the model.
        target: the ``.safetensors`` file to write; it is written whole or not at all.
        options: arguments of the model that differ from the variant's (``num_classes=10``).

    Returns:
        'renamed': lines 'official -> ours'; 'made': keys that were merged or resized; 'dropped': unused official keys.

    Raises:
        UsageError: unknown model; unreadable file; or weights that do not fit.
    """
    ours = [m for m in timm.list_models() if timm.models.model_entrypoint(m).__module__.startswith('vimamba.')]
    if name not in ours:
        raise unknown_name('model', name, ours)
    model = timm.create_model(name, **options)
    checkpoint = load_checkpoint(source)
    official = model_weights(checkpoint, source)
    weights = model.checkpoint_filter_fn(checkpoint, model)
    load_weights(model, weights, source, name)

    origin = {value.untyped_storage().data_ptr() + value.storage_offset(): key for key, value in official.items()}
    report: dict[str, list[str]] = {'renamed': [], 'made': [], 'dropped': []}
    used = set()
    for key, value in weights.items():
        old = origin.get(value.untyped_storage().data_ptr() + value.storage_offset())
        used.add(old)
        if old is None:
            report['made'].append(key)
        elif old != key:
            report['renamed'].append(f'{old} -> {key}')
    if not report['made']:  # else dropped keys cannot be told from merged ones
        report['dropped'] = [key for key in official if key not in used]
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    with whole_file(target) as part:
        save_file(weights, part, {'model': name, 'source': Path(source).name, 'format': 'pt'})
    return report
