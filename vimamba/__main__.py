"""``python -m vimamba``."""

from vimamba.commands import main

__all__ = ['main']

if __name__ == '__main__':
    main()
