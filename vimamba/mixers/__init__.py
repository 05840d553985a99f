"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .grid import GridMixer, RouteSSD, RouteSSM
from .mamba1 import Mamba1

__all__ = ['GridMixer', 'Mamba1', 'RouteSSD', 'RouteSSM']
