"""Selective scan of Mamba: one operator, several backends (see README.md)."""

from .interface import selective_scan
from .reference import selective_scan_reference

__all__ = ['selective_scan', 'selective_scan_reference']
