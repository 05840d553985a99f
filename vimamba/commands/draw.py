"""Draw a scan order, as text or as PNG, or list the orders."""

from collections.abc import Sequence

from vimamba.cli import load_models

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    load_models()

    from vimamba.scans import draw

    return draw.main(argv)
