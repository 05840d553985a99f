"""Schedules: which scan order each layer of a model reads in.

A schedule is one order for all layers, or one for each, repeated to the depth of the model:

>>> schedule('cross', 2)
['cross', 'cross']
>>> schedule('axes', 5)
[('raster',), ('raster_reversed',), ('column',), ('column_reversed',), ('raster',)]
>>> schedule([('raster', 'column'), 'hilbert'], 3)
[('raster', 'column'), 'hilbert', ('raster', 'column')]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vimamba.errors import UsageError, bad_argument, unknown_name
from vimamba.scans.order import ORDERS

__all__ = ['SCHEDULES', 'Scan', 'Schedule', 'schedule']

Scan = str | tuple[str, ...]  # the routes of an order, or of several taken together
Schedule = str | Sequence[str | Sequence[str]]

_SHORT = {'h': 'raster', 'v': 'column', 'w2': 'windows2', 'w7': 'windows7'}


def _searched(text: str) -> tuple[tuple[str, ...], ...]:
    """LocalMamba's notation: layers between bars, h rows, v columns, w2 and w7 windows, _flip backwards."""
    layers = (layer.split() for layer in text.split('|'))
    return tuple(
        tuple(_SHORT[name.removesuffix('_flip')] + '_reversed' * name.endswith('_flip') for name in layer)
        for layer in layers
    )


SCHEDULES: dict[str, tuple[tuple[str, ...], ...]] = {
    # Mamba-ND (arXiv:2402.05892, Sec. 3.2): one route a layer, along the rows, then along the columns
    'axes': (('raster',), ('raster_reversed',), ('column',), ('column_reversed',)),
    # the same over clips, and through time
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
    """What each of ``depth`` layers reads.

    Args:
        scan: the name of a scan order or of a schedule; the names of several orders, whose routes each layer takes
            together; or a list with an order, or a sequence of them, for each layer, repeated where it is shorter.
        depth: number of layers.

    Raises:
        UsageError: an unknown name, no layer at all, or more than ``depth``.
    """
    if isinstance(scan, str):
        if scan not in SCHEDULES:
            return [_known(scan)] * depth
        layers: Sequence[str | Iterable[str]] = SCHEDULES[scan]
    elif isinstance(scan, tuple) and scan and all(isinstance(name, str) for name in scan):
        layers = (scan,)
    elif not isinstance(scan, Sequence) or not scan:
        raise bad_argument('scan', 'a name, several, or one for each layer', repr(scan))
    else:
        layers = scan
    if not isinstance(scan, str) and len(layers) > depth:
        raise UsageError(f'scan: expected at most {depth} layers, got {len(layers)}')
    known = [_known(layer) if isinstance(layer, str) else tuple(_known(name) for name in layer) for layer in layers]
    return [known[i % len(known)] for i in range(depth)]


def _known(name: str) -> str:
    if name.removesuffix('_reversed') not in ORDERS:
        raise unknown_name('scan order', name, [*ORDERS, *SCHEDULES], key='scan')
    return name
