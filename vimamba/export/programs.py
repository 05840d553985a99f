"""From a module to a program of PyTorch's operators, and to a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vimamba.errors import UsageError
from vimamba.outputs import whole_file

from .decompositions import decompositions

__all__ = ['export_onnx', 'export_program', 'save_program']


def export_program(module: nn.Module, args: Sequence[Tensor | None], dynamic_shapes: Any = None) -> ExportedProgram:
    """Exports the inference of a module as a program in which the operators of vimamba are decomposed.

    A scan becomes a loop over the steps, so the length may be dynamic, and the program runs without vimamba: in PyTorch
    alone, AOTInductor or ONNX. Where the kernels of vimamba are available, the model itself is faster.

    Args:
        module: a model or any module; exported in its mode, training or evaluation, without gradients.
        args: example inputs.
        dynamic_shapes: as in `torch.export.export`, such as ``({0: torch.export.Dim('batch')},)``.

    >>> from vimamba.kernels.selective_scan import selective_scan
    >>> class Scan(nn.Module):
    ...     def forward(self, u, delta, A, B, C):
    ...         return selective_scan(u, delta, A, B, C)
    >>> l = {2: torch.export.Dim('l', min=2)}
    >>> args = (*torch.rand(2, 1, 4, 8), -torch.ones(4, 3), *torch.rand(2, 1, 3, 8))
    >>> program = export_program(Scan(), args, (l, l, None, l, l))
    >>> longer = (*torch.rand(2, 1, 4, 20), -torch.ones(4, 3), *torch.rand(2, 1, 3, 20))
    >>> program.module()(*longer).shape
    torch.Size([1, 4, 20])
    """
    # Dynamo would make a size dynamic because another layer has a different one, such as its number of windows
    sizes = torch._dynamo.config.patch(automatic_dynamic_shapes=False)
    with torch.no_grad(), warnings.catch_warnings(), sizes:
        warnings.simplefilter('ignore')  # about the innards of torch.export
        torch.compiler.reset()  # Dynamo traces the scan, and would fix sizes remembered from other exports
        program = torch.export.export(module, tuple(args), dynamic_shapes=dynamic_shapes)
        program = program.run_decompositions(decompositions())
    for name, value in program.state_dict.items():
        if isinstance(value, nn.Parameter):
            program.state_dict[name] = nn.Parameter(value.detach(), requires_grad=False)
    return program


def save_program(program: ExportedProgram, path: str | Path) -> None:
    """Writes a ``.pt2`` file for `torch.export.load`, whole or not at all."""
    buffer = io.BytesIO()  # torch aborts the process if it writes to a full disk
    torch.export.save(program, buffer)
    with whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def export_onnx(
    program: ExportedProgram, path: str | Path, *, metadata: Mapping[str, str] | None = None, **options: Any
) -> None:
    """Writes a program as an ONNX file, whole or not at all; a scan is ONNX's Scan.

    Args:
        program: the result of `export_program`.
        path: the file to write; onnx refuses weights above 2 GB.
        metadata: entries for the file's ``metadata_props``.
        options: arguments of `torch.onnx.export`: ``input_names``, ``output_names``, and the ``dynamic_shapes`` of the
            program, which name its dimensions.

    Raises:
        UsageError: onnx is missing, or the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch.onnx builds with)
    except ImportError as error:
        raise UsageError(f'ONNX files need onnx and onnxscript ({error}): pip install vimamba[export]') from None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exported = torch.onnx.export(program, **options, verbose=False)
    assert exported is not None
    model = exported.model_proto
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    with whole_file(path) as part:
        onnx.save(model, part)
