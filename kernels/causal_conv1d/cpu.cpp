// The causal convolution on the CPU: tasks, threads and the C interface of cpu_kernel.h. All tensors are float32.

#include <cstdlib>
#include <string>

#include "../cpu/parallel.h"
#include "../cpu/routes.h"

namespace {

// Sizes, strides in elements, pointers; 0 for what is absent. Mirrored by cpu.py. x (b, l, d) with channels adjacent,
// weight (k, w, d), bias (k, d), rows (k, l), out (k, b, l, d).
struct Conv {
    int64_t b, k, d, l, w, silu, x_b, x_l;
    const float *x, *weight, *bias;
    const int32_t* rows;
    const int64_t* steps;
    float* out;
};

// out: gradient of the output, channels adjacent. To be written: x (b, l, d), weight (b, k, w, d), bias (b, k, d).
struct ConvGrads {
    int64_t out_b, out_k, out_l;
    const float* out;
    float *x, *weight, *bias;
};

}  // namespace

#define KERNEL "../causal_conv1d/cpu_kernel.h"
#include "../cpu/isa.h"

template <class Task>
static void each_panel(const Conv* a, int64_t threads, const Task& task) {
    const int64_t lanes = VIMAMBA_CALL(lanes_at_once), panel = 16, panels = (a->d + panel - 1) / panel;
    parallel_for(a->b * panels, threads, [&](int64_t i) {
        const int64_t first = i % panels * panel;
        for (int64_t c = first; c < a->d && c < first + panel; c += lanes)
            task(i / panels, c, (int)(a->d - c < lanes ? a->d - c : lanes));
    });
}

EXPORT void vimamba_conv_forward(const Conv* a, int64_t threads) {
    each_panel(a, threads, [&](int64_t b, int64_t c, int lanes) { VIMAMBA_CALL(conv_forward_any, *a, b, c, lanes); });
}

EXPORT void vimamba_conv_backward(const Conv* a, const ConvGrads* d, int64_t threads) {
    each_panel(a, threads,
               [&](int64_t b, int64_t c, int lanes) { VIMAMBA_CALL(conv_backward_any, *a, *d, b, c, lanes); });
}

// A sum over the sources of the whole library, which knows the structures of cpu.py: see setup.py.
EXPORT int64_t vimamba_sources() { return VIMAMBA_SOURCES; }
