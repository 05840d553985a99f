"""The command ``vimamba`` from a checkout, which need not be installed."""

import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ['command']


def command(name: str) -> Callable[[], None]:
    """The function that runs a command with the arguments of this process."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.argv[:1] = ['vimamba', name]  # before the import, as the command itself would have it

    from vimamba import commands

    return commands.main
