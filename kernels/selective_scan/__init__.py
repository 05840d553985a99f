"""Selective scan of Mamba: one operator, several backends (see README.md)."""

from .interface import route_scan, selective_scan
from .reference import selective_scan_reference

__all__ = ['route_scan', 'selective_scan', 'selective_scan_reference']
