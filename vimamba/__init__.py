"""Vision Mamba backbones for timm: scan orders, mixers and selective-scan kernels on any machine.

Importing the package registers its models with timm:

>>> import timm, vimamba
>>> 'vim_tiny_patch16_224' in timm.list_models('vim_*')
True
"""

import sys
from pathlib import Path

__all__ = ['__version__']

__version__ = '0.1.0'

if not (Path(__file__).parent / 'kernels' / 'selective_scan').is_dir():
    raise ImportError(
        'vimamba/kernels is not a link to ../kernels in this checkout: '
        'run `git config core.symlinks true && git checkout -- vimamba/kernels`, or install the package with pip'
    )


def _starts_command() -> bool:
    """Whether this process runs the command ``vimamba``, which reads its arguments before it imports torch."""
    program = sys.argv[:1]
    if program == ['-m'] and '-m' in sys.orig_argv:  # the package of a module that is about to run
        program = sys.orig_argv[sys.orig_argv.index('-m') + 1 :][:1]
    return [Path(name).stem for name in program] == ['vimamba']


if not _starts_command():
    from . import models  # noqa: F401  (registers with timm)
