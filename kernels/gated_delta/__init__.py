"""Gated delta rule, the operator of Gated DeltaNet (see README.md)."""

from .interface import gated_delta
from .reference import gated_delta_reference

__all__ = ['gated_delta', 'gated_delta_reference']
