"""Shared parts of the compiled CPU kernels.

simd.h      the vector type, exp2, softplus and sums over lanes of one instruction set
isa.h       compiles a kernel for each instruction set and calls the best; VIMAMBA_CPU=avx2 or generic limits it
parallel.h  threads that live for one call: they do not spin, survive fork, and do not change results
routes.h    the token that a route reads
library.py  loads the library through ctypes; it depends on neither Python nor torch
"""
