"""`vimamba convert`, from a checkout that need not be installed."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.argv[:1] = ['vimamba', 'convert']
    from vimamba.commands import main

    main()
