"""Scan orders: where a model reads. `vimamba.scans.draw` draws them."""

from .flat import bidirectional, column, cross, hilbert, raster, snake, snake_column, strided, zigzag
from .hierarchical import pyramid, windows
from .order import Grid, ScanOrder, create_order, list_orders, register_order
from .schedules import SCHEDULES, schedule
from .spatiotemporal import spatial_first, temporal_columns, temporal_first, tube

__all__ = [  # noqa: RUF022 (grouped by file)
    'SCHEDULES', 'Grid', 'ScanOrder', 'create_order', 'list_orders', 'register_order', 'schedule',
    'bidirectional', 'column', 'cross', 'hilbert', 'raster', 'snake', 'snake_column', 'strided', 'zigzag',
    'pyramid', 'windows',
    'spatial_first', 'temporal_columns', 'temporal_first', 'tube',
]  # fmt: skip
