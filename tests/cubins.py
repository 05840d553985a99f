"""Kernels compiled for an architecture that need not be here, and what the compiler made of them."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / 'backends/nvidia/bin'


def compile_kernel(kernel, arch, kinds, constants, multiples, folder, **options):
    """A cubin: ``kinds`` has the type of each argument, ``multiples`` the integers that are multiples of 16."""
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: 'constexpr' if name in constants else kinds(name) for name in names}
    aligned = {
        (i,): [['tt.divisibility', 16]]
        for i, name in enumerate(names)
        if name not in constants and (name in multiples or signature[name].startswith('*'))
    }
    source = ASTSource(kernel, signature, {(names.index(name),): c for name, c in constants.items()}, aligned)
    compiled = triton.compile(source, target=GPUTarget('cuda', arch, 32), options=options)
    cubin = folder / 'kernel.cubin'
    cubin.write_bytes(compiled.asm['cubin'])
    return cubin


def registers_and_stack(cubin):
    """Registers of a thread, and bytes of stack: what was spilled."""
    usage = _output('cuobjdump', '--dump-resource-usage', cubin)
    return tuple(map(int, re.search(r'REG:(\d+) STACK:(\d+)', usage).groups()))


def loops(cubin):
    """The instructions of each loop."""
    code, labels, found = [], {}, []
    for line in _output('nvdisasm', '-c', cubin).splitlines():
        if label := re.match(r'(\.L_\S+):', line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r'\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);', line):
            code.append(instruction[1])
            jump = re.search(r'BRA.*`\((\.L_\S+)\)', instruction[1])
            if jump and jump[1] in labels:
                found.append(code[labels[jump[1]] :])
    return found


def mix(instructions):
    return Counter(i.split()[0].split('.')[0] for i in instructions)


def _output(tool, *args):
    return subprocess.run([TOOLS / tool, *args], capture_output=True, text=True, check=True).stdout
