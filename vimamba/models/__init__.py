"""Model families; importing this package registers their variants with timm."""

from . import local_mamba, mambavision, vim, vmamba

__all__ = ['local_mamba', 'mambavision', 'vim', 'vmamba']
