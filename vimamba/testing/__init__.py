"""Public test helpers: tolerances and comparisons that the suite and derived projects share."""

from .compare import assert_close_to_float64, assert_parity, relative_l2

__all__ = ['assert_close_to_float64', 'assert_parity', 'relative_l2']
