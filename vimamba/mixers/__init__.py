"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .mamba1 import Mamba1, MapMamba1
from .mamba2 import Mamba2
from .mambavision import ConcatMixer
from .plain_mamba import DirectionalSSM
from .ss2d import GridMixer, RouteSSD, RouteSSM, StridedSSM

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
