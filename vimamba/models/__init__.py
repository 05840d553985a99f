"""Model families; importing this package registers their variants with timm."""

from . import efficient_vmamba, local_mamba, mamba_nd, mambavision, plain_mamba, videomamba, vim, vmamba
from ._builder import filter_weights, fit_weights, input_shape
from ._stream import Stream

__all__ = [
    'Stream',
    'efficient_vmamba',
    'filter_weights',
    'fit_weights',
    'input_shape',
    'local_mamba',
    'mamba_nd',
    'mambavision',
    'plain_mamba',
    'videomamba',
    'vim',
    'vmamba',
]
