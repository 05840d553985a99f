"""What the compiled CPU kernels share.

simd.h      one vector type, exp2, softplus, sums over lanes, for the instruction set being compiled
isa.h       compiles a kernel once for each instruction set and calls the best (VIMAMBA_CPU=avx2 or generic: less)
parallel.h  threads that live for one call: they never spin, survive fork, and do not change a result
routes.h    where a route reads
library.py  loads the library, which has no Python and no torch in it, through ctypes
"""
