"""Models for other runtimes: `torch.export` programs that need no vimamba to run, and ONNX files."""

from .programs import export_onnx, export_program, save_program

__all__ = ['export_onnx', 'export_program', 'save_program']
