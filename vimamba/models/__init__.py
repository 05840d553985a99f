"""Model families; importing this package registers their variants with timm."""

from . import efficient_vmamba, local_mamba, mamba_nd, mambavision, plain_mamba, videomamba, vim, vmamba
from ._builder import input_shape
from ._stream import Stream

__all__ = [
    'Stream',
    'efficient_vmamba',
    'input_shape',
    'local_mamba',
    'mamba_nd',
    'mambavision',
    'plain_mamba',
    'videomamba',
    'vim',
    'vmamba',
]
