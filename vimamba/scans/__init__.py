"""Scan orders: where a model reads. `vimamba.scans.draw` draws them."""

from vimamba.scans.base import (
    Affine,
    Grid,
    ScanOrder,
    create_order,
    find_affine,
    list_orders,
    register_order,
)
from vimamba.scans.flat import (
    bidirectional,
    column,
    column_bidirectional,
    cross,
    hilbert,
    hilbert_bidirectional,
    raster,
    snake,
    snake_bidirectional,
    snake_column,
    strided,
    zigzag,
    zigzag_bidirectional,
)
from vimamba.scans.hierarchical import pyramid, windows, windows2, windows7
from vimamba.scans.hybrid import SCHEDULES, schedule

__all__ = [
    'SCHEDULES',
    'Affine',
    'Grid',
    'ScanOrder',
    'bidirectional',
    'column',
    'column_bidirectional',
    'create_order',
    'cross',
    'find_affine',
    'hilbert',
    'hilbert_bidirectional',
    'list_orders',
    'pyramid',
    'raster',
    'register_order',
    'schedule',
    'snake',
    'snake_bidirectional',
    'snake_column',
    'strided',
    'windows',
    'windows2',
    'windows7',
    'zigzag',
    'zigzag_bidirectional',
]
