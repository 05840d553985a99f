"""Model families; importing this package registers their variants with timm."""

from . import vim

__all__ = ['vim']
