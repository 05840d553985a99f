"""Builds the optional CPU kernels; everything else about the package is in setup.cfg.

They are a plain shared library: no Python and no torch headers. Where there is no compiler, or one without vector
extensions, the build goes on without them and every operator runs in plain PyTorch.
"""

import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path(__file__).parent / 'kernels'
SOURCES = sorted([*FOLDER.glob('*/*.cpp'), *FOLDER.glob('*/*.h')])

kernels = Extension(
    'vimamba.kernels.cpu._kernels',
    ['kernels/selective_scan/cpu.cpp', 'kernels/causal_conv1d/cpu.cpp'],
    depends=[str(file.relative_to(FOLDER.parent)) for file in SOURCES],
    language='c++',
    # not -ffast-math: a NaN must stay one
    # a checkout that has gone on since is told from this (kernels/cpu/library.py)
    define_macros=[('VIMAMBA_SOURCES', str(zlib.crc32(b''.join(file.read_bytes() for file in SOURCES))))],
    extra_compile_args=[
        *('-std=c++17', '-O3', '-g0', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast'),
        *('-fvisibility=hidden', '-pthread'),
    ],
    extra_link_args=['-pthread'],
    optional=True,
)

setup(ext_modules=[] if sys.platform == 'win32' else [kernels])
