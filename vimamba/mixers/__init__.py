"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .concat import ConcatMixer
from .grid import GridMixer, RouteSSD, RouteSSM
from .mamba1 import Mamba1

__all__ = ['ConcatMixer', 'GridMixer', 'Mamba1', 'RouteSSD', 'RouteSSM']
