"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .gated_delta import GatedDelta
from .mamba1 import Mamba1, SelectiveScan
from .mamba2 import SSD, Mamba2
from .mambavision import ConcatMixer
from .mixer import (
    Core,
    CoreMixer,
    Mixer,
    MixerState,
    create_mixer,
    find_mixer,
    list_mixers,
    merge_routes,
    mixer_per_block,
    register_mixer,
)
from .plain_mamba import DirectionalScan
from .routes import FixedScan, MapScan, Routes
from .ss2d import GridMixer, StridedScan

__all__ = [
    'SSD',
    'ConcatMixer',
    'Core',
    'CoreMixer',
    'DirectionalScan',
    'FixedScan',
    'GatedDelta',
    'GridMixer',
    'Mamba1',
    'Mamba2',
    'MapScan',
    'Mixer',
    'MixerState',
    'Routes',
    'SelectiveScan',
    'StridedScan',
    'create_mixer',
    'find_mixer',
    'list_mixers',
    'merge_routes',
    'mixer_per_block',
    'register_mixer',
]
