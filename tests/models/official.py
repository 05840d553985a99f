"""Official reference outputs: parameters and inputs are functions of their names, so no checkpoint is needed.

Each case in ``data/`` is one run of an official model class in float32 on a CPU: its state-dict keys, and its logits
and intermediate statistics for parameters filled by `fill` and an input made by `make_input`.
"""

import json
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / 'data'


def _normal(name: str, shape) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def fill(key: str, shape) -> np.ndarray:
    """The value of the parameter with the official name ``key``; the first rule that matches."""
    last, ndim = key.split('.')[-1], len(shape)
    if 'num_batches_tracked' in key:
        return np.zeros(tuple(shape), dtype=np.int64)
    z = _normal(key, shape)
    small = np.float32(0.1) * z
    if 'A_' in last and 'log' in last:
        levels = 1.0 + np.arange(shape[0]) % 16 if ndim == 1 else np.arange(1, shape[-1] + 1)
        return np.log(levels).astype(np.float32) + small
    if last in ('D', 'Ds', 'D_b', 'D_c', 'D_s'):
        return 1 + small
    if 'running_mean' in key:
        return small
    if 'running_var' in key:
        return 1 + np.abs(small)
    if 'dt_projs_bias' in last or 'dt_bias' in last or ('dt_proj' in key and key.endswith('bias')):
        return np.float32(-4) + np.float32(0.5) * z
    if key.endswith('weight') and ndim == 1:
        return 1 + small
    if ndim == 1 and not key.endswith('bias') and ('gamma' in last or 'layer_scale' in last):
        return np.float32(0.5) + small
    if key.endswith('bias') or ndim <= 1 or (ndim == 3 and shape[0] == 1):
        return small
    if any(name in key for name in ('pos_embed', 'cls_token', 'temporal_pos', 'token')):
        return small
    stacked = ndim == 3 and last.endswith(('proj_weight', 'projs_weight'))
    return z / np.float32(math.sqrt(shape[-1] if stacked else math.prod(shape[1:])))


@dataclass(frozen=True)
class Case:
    """One run of an official class."""

    name: str

    @cached_property
    def info(self) -> dict:
        return json.loads((DATA / f'{self.name}.json').read_text())

    @cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        with np.load(DATA / f'{self.name}.npz') as arrays:
            return {k: torch.from_numpy(arrays[k]) for k in arrays.files}

    @property
    def params(self) -> int:
        return self.info['params']

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All but the tables that the official model computes itself."""
        keys = [(key, shape) for key, shape, _ in self.info['keys'] if key not in self.info.get('kept_official', [])]
        return {key: torch.from_numpy(np.asarray(fill(key, shape))) for key, shape in keys}

    def input(self) -> torch.Tensor:
        return torch.from_numpy(_normal(self.name, self.info['input_shape']))


def save_detector(path: Path, backbone: dict[str, torch.Tensor], prefix: str = 'backbone.', under='state_dict') -> str:
    """A file in the layout of mmdet, mmseg and detectron2: a backbone among the parts of a model; returns its name."""
    rest = ('neck.conv.weight', 'decode_head.conv_seg.weight', 'roi_head.bbox_head.fc_cls.weight')
    parts = {**{prefix + key: value for key, value in backbone.items()}, **{key: torch.ones(1) for key in rest}}
    torch.save({'meta': {'epoch': 12}, under: parts}, path)
    return str(path)


def random_norms(widths, name: str = 'outnorm{}') -> dict[str, torch.Tensor]:
    """Weights and biases of a norm for every map, under official names."""
    return {
        f'{name.format(i)}.{kind}': torch.from_numpy(_normal(f'{name}{i}{kind}', (width,)))
        for i, width in enumerate(widths)
        for kind in ('weight', 'bias')
    }
