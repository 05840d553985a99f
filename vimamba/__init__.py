"""Vision Mamba backbones for timm: scan orders, mixers and selective-scan kernels on any machine.

Importing the package registers its models with timm:

>>> import timm, vimamba
>>> 'vim_tiny_patch16_224' in timm.list_models('vim_*')
True
"""

from pathlib import Path

__version__ = '0.1.0'

if not (Path(__file__).parent / 'kernels' / 'selective_scan').is_dir():
    raise ImportError(
        'vimamba/kernels is not a link to ../kernels in this checkout: '
        'run `git config core.symlinks true && git checkout -- vimamba/kernels`, or install the package with pip'
    )

from vimamba import models  # noqa: F401  (registers with timm)
