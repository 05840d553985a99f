"""Structured state space duality, the operator of Mamba-2 (see README.md)."""

from .interface import ssd
from .reference import ssd_reference

__all__ = ['ssd', 'ssd_reference']
