"""Model families; importing this package registers their variants with timm."""

from . import efficient_vmamba, local_mamba, mamba_nd, mambavision, plain_mamba, videomamba, vim, vmamba
from ._backbone import MapBackbone, Stage
from ._builder import build_model, filter_weights, fit_weights, imagenet_cfg, input_shape
from ._stream import Stream

__all__ = [
    'MapBackbone',
    'Stage',
    'Stream',
    'build_model',
    'efficient_vmamba',
    'filter_weights',
    'fit_weights',
    'imagenet_cfg',
    'input_shape',
    'local_mamba',
    'mamba_nd',
    'mambavision',
    'plain_mamba',
    'videomamba',
    'vim',
    'vmamba',
]
