"""Builds the optional CPU kernels; everything else about the package is in setup.cfg.

They are a plain shared library: no Python and no torch headers. Where there is no compiler, or one without vector
extensions, the build goes on without them and every operator runs in plain PyTorch.
"""

import sys

from setuptools import Extension, setup

kernels = Extension(
    'vimamba.kernels.cpu._kernels',
    ['kernels/selective_scan/cpu.cpp', 'kernels/causal_conv1d/cpu.cpp'],
    depends=[
        *('kernels/cpu/simd.h', 'kernels/cpu/isa.h', 'kernels/cpu/parallel.h', 'kernels/cpu/routes.h'),
        *('kernels/selective_scan/cpu_kernel.h', 'kernels/causal_conv1d/cpu_kernel.h'),
    ],
    language='c++',
    # not -ffast-math: a NaN must stay one
    extra_compile_args=[
        *('-std=c++17', '-O3', '-g0', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast'),
        *('-fvisibility=hidden', '-pthread'),
    ],
    extra_link_args=['-pthread'],
    optional=True,
)

setup(ext_modules=[] if sys.platform == 'win32' else [kernels])
