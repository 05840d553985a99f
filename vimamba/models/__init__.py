"""Model families; importing this package registers their variants with timm."""

from . import efficient_vmamba, local_mamba, mamba_nd, mambavision, plain_mamba, videomamba, vim, vmamba

__all__ = ['efficient_vmamba', 'local_mamba', 'mamba_nd', 'mambavision', 'plain_mamba', 'videomamba', 'vim', 'vmamba']
