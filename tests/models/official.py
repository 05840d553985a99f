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
    last, ndim, z = key.split('.')[-1], len(shape), _normal(key, shape)
    small = np.float32(0.1) * z
    if 'A_' in last and 'log' in last:
        return np.log(np.arange(1, shape[-1] + 1)).astype(np.float32) + small
    if last in ('D', 'Ds', 'D_b', 'D_c', 'D_s'):
        return 1 + small
    if 'dt_proj' in key and key.endswith('bias'):
        return np.float32(-4) + np.float32(0.5) * z
    if key.endswith('weight') and ndim == 1:
        return 1 + small
    if last == 'gamma':
        return np.float32(0.5) + small
    if ndim <= 1 or (ndim == 3 and shape[0] == 1) or 'token' in key or 'pos_embed' in key:
        return small
    return z / np.float32(math.sqrt(math.prod(shape[1:])))


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
        return {key: torch.from_numpy(fill(key, shape)) for key, shape, _ in self.info['keys']}

    def input(self) -> torch.Tensor:
        return torch.from_numpy(_normal(self.name, self.info['input_shape']))
