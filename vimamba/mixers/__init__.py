"""Mixers: what a model computes along its routes (projections, convolution, gate); no indices, no kernel code."""

from .mamba1 import Mamba1

__all__ = ['Mamba1']
