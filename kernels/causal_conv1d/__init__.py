"""Depthwise causal convolution along routes, with SiLU (see interface.py)."""

from .interface import route_conv1d

__all__ = ['route_conv1d']
