"""Runs a command of vimamba from a checkout, which need not be installed."""

import sys
from pathlib import Path

__all__ = ['main']


def main(command: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.argv[:1] = ['vimamba', command]  # before the import, as the command itself would have it

    from vimamba import commands

    commands.main()
