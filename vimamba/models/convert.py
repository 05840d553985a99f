"""Official files to files of this package: what was renamed, and nothing silently left out."""

from __future__ import annotations

import sys
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
        source: a file as it was published, with or without wrapper keys; nothing in it is executed.
        name: timm name of the model that the weights belong to.
        target: the ``.safetensors`` file to write; it is whole or not there.
        options: keyword arguments of the model, where they are not those of the variant (``num_classes=10``).

    Returns:
        'renamed': lines 'official -> ours'; 'made': keys computed from several or resized; 'dropped': official keys
        that the model has no use for.

    Raises:
        UsageError: unknown model; unreadable file; or weights that do not fit.
    """
    ours = [m for m in timm.list_models() if timm.models.model_entrypoint(m).__module__.startswith('vimamba.')]
    if name not in ours:
        raise unknown_name('model', name, ours)
    model = timm.create_model(name, **options)
    filter_fn = sys.modules[timm.models.model_entrypoint(name).__module__].checkpoint_filter_fn
    checkpoint = load_checkpoint(source)
    official = model_weights(checkpoint, source)
    weights = filter_fn(checkpoint, model)
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
    if not report['made']:  # else what went into them cannot be told from what was left out
        report['dropped'] = [key for key in official if key not in used]
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    with whole_file(target) as part:
        save_file(weights, part, {'model': name, 'source': Path(source).name, 'format': 'pt'})
    return report
