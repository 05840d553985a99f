"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .concat import ConcatMixer
from .directional import DirectionalSSM
from .grid import GridMixer, RouteSSD, RouteSSM, StridedSSM
from .mamba1 import Mamba1, MapMamba1
from .mamba2 import Mamba2

__all__ = [
    'ConcatMixer',
    'DirectionalSSM',
    'GridMixer',
    'Mamba1',
    'Mamba2',
    'MapMamba1',
    'RouteSSD',
    'RouteSSM',
    'StridedSSM',
]
