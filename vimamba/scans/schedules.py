"""Schedules: the scan order of each layer of a model.

A schedule is one order for all layers, or a list with one per layer, repeated to the depth of the model:

>>> schedule('cross', 2)
['cross', 'cross']
>>> schedule('axes', 5)
[('raster',), ('raster_reversed',), ('column',), ('column_reversed',), ('raster',)]
>>> schedule([('raster', 'column'), 'hilbert'], 3)
[('raster', 'column'), 'hilbert', ('raster', 'column')]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vimamba.errors import UsageError, bad_argument

from .order import split_name

__all__ = ['SCHEDULES', 'Scan', 'Schedule', 'schedule']

Scan = str | tuple[str, ...]  # the routes of an order, or of several together
Schedule = str | Sequence[str | Sequence[str]]

_LONG = {'h': 'raster', 'v': 'column', 'w': 'windows', '_flip': '_reversed'}  # no name holds the letter of a later one


def _searched(text: str) -> tuple[tuple[str, ...], ...]:
    """LocalMamba's notation: layers between bars, h rows, v columns, w2 and w7 windows, _flip reversed."""
    for short, name in _LONG.items():
        text = text.replace(short, name)
    return tuple(tuple(layer.split()) for layer in text.split('|'))


SCHEDULES: dict[str, tuple[tuple[str, ...], ...]] = {
    # Mamba-ND (arXiv:2402.05892, Sec. 3.2): one route per layer, along the rows, then along the columns
    'axes': (('raster',), ('raster_reversed',), ('column',), ('column_reversed',)),
    # the same over clips, then through time
    'axes_3d': (
        *(('raster',), ('raster_reversed',), ('column',), ('column_reversed',)),
        *(('temporal_columns',), ('temporal_columns_reversed',)),
    ),
    # LocalMamba (arXiv:2403.09338, Sec. 4.2): found by a search, layer by layer
    'local': (('raster', 'raster_reversed', 'windows2', 'windows2_reversed'),),
    'local_vim_tiny': _searched("""
        h v_flip w7 w7_flip | h_flip w2_flip w7 w7_flip | h h_flip v w7 | h h_flip v v_flip | h h_flip v v_flip
        | h h_flip v v_flip | h_flip v v_flip w7 | h_flip v v_flip w2_flip | h h_flip v v_flip | h h_flip v v_flip
        | h v v_flip w2 | h v v_flip w2_flip | h h_flip v_flip w7 | h_flip v v_flip w2 | h h_flip v v_flip
        | h v w2 w2_flip | v v_flip w2 w7 | h h_flip v w2 | h h_flip w2_flip w7 | v v_flip w2 w2_flip"""),
    'local_vmamba_tiny': _searched("""
        h h_flip w7 w7_flip | h_flip v_flip w2 w2_flip | h_flip v_flip w2_flip w7 | h_flip v v_flip w2
        | h h_flip v_flip w2_flip | h_flip v_flip w2 w2_flip | h w2_flip w7 w7_flip | h h_flip v v_flip
        | h v_flip w7 w7_flip | h_flip v w2 w7_flip | v v_flip w2 w7_flip | h h_flip v_flip w2_flip
        | v_flip w2_flip w7 w7_flip | h_flip v_flip w2_flip w7_flip | h_flip v w7 w7_flip"""),
    'local_vmamba_small': _searched("""
        h v v_flip w7_flip | h h_flip v w7 | h_flip v v_flip w7 | h_flip v w2_flip w7 | h_flip v w2_flip w7
        | h_flip v_flip w2 w7_flip | h_flip v v_flip w7 | h v v_flip w7 | h v v_flip w7 | h v v_flip w7_flip
        | h h_flip v v_flip | h v v_flip w2 | v v_flip w2_flip w7 | h h_flip v w2 | h_flip v v_flip w7_flip
        | h h_flip v v_flip | h v v_flip w7_flip | h v v_flip w7_flip | h h_flip v_flip w7 | h_flip v_flip w2_flip w7
        | h_flip v v_flip w7_flip | v v_flip w7 w7_flip | h v v_flip w7_flip | h_flip v v_flip w2 | h v v_flip w2_flip
        | h h_flip v w7 | h h_flip w7 w7_flip | h v_flip w2 w2_flip | h v_flip w2 w7 | h v v_flip w7_flip
        | h_flip v w2_flip w7 | h_flip v_flip w7 w7_flip | h v w7 w7_flip"""),
}


def schedule(scan: Schedule, depth: int) -> list[Scan]:
    """Returns the scan order of each of ``depth`` layers.

    Args:
        scan: the name of a scan order or of a schedule; a tuple of names of orders, whose routes each layer takes
            together; or a list with an order, or a sequence of orders, per layer, repeated to the depth.
        depth: number of layers.

    Raises:
        UsageError: an unknown name, an empty list, or more than ``depth`` layers.
    """
    layers: Any = scan
    if isinstance(scan, str):
        layers = SCHEDULES.get(scan, (scan,))
    elif isinstance(scan, tuple) and scan and all(isinstance(name, str) for name in scan):
        layers = (scan,)
    elif not isinstance(scan, Sequence) or not scan:
        raise bad_argument('scan', 'a name, several, or one for each layer', repr(scan))
    elif len(scan) > depth:
        raise UsageError(f'scan: expected at most {depth} layers, got {len(scan)}')
    layers = [layer if isinstance(layer, str) else tuple(layer) for layer in layers]
    for layer in layers:
        for name in [layer] if isinstance(layer, str) else layer:
            split_name(name, SCHEDULES, 'scan')
    return [layers[i % len(layers)] for i in range(depth)]
