"""Model families; importing this package registers their variants with timm."""

from . import vim, vmamba

__all__ = ['vim', 'vmamba']
