"""Model families; importing this package registers their variants with timm."""

from . import mambavision, vim, vmamba

__all__ = ['mambavision', 'vim', 'vmamba']
