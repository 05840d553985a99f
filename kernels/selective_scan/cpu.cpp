// The selective scan on the CPU: tasks, threads and the C interface of cpu_kernel.h. All tensors are float32.

#include <cstdlib>
#include <cstring>
#include <string>

#include "../cpu/parallel.h"
#include "../cpu/routes.h"

#define SCAN_CHUNK 32

namespace {

constexpr int MAX_STATES = 256;

// Sizes, strides in elements, pointers; 0 for what is absent. Mirrored by cpu.py. A (k, d, n), D and bias (k, d),
// h0 and last (b, k, d, n), out and y (b, l, d), saved (b, k, chunks, n, d), rows (k, l); u, delta, z: channels adjacent;
// B, C: states adjacent.
struct Scan {
    int64_t b, k, g, d, l, n, chunks, softplus;
    int64_t u_b, u_k, u_l, delta_b, delta_k, delta_l, B_b, B_k, B_g, B_l, C_b, C_k, C_g, C_l, z_b, z_l;
    const float *u, *delta, *A, *B, *C, *D, *z, *bias, *h0;
    const int32_t* rows;
    const int64_t* steps;
    float *out, *last, *saved, *y;
};

// out: gradient of the output, channels adjacent; last (b, k, d, n). The gradients to be written: u (k, b, l, d), or
// (b, l, d) where routes share it; delta (k, b, l, d); A, h0 (b, k, d, n); D, bias (b, k, d); z (b, l, d);
// B, C (panels, b, k, g, l, n), zeroed: sums over the batch, and over the panels of a group, are taken afterwards.
struct Grads {
    int64_t out_b, out_l;
    const float *out, *last;
    float *u, *delta, *A, *B, *C, *D, *z, *bias, *h0;
};

}  // namespace

#define KERNEL "../selective_scan/cpu_kernel.h"
#include "../cpu/isa.h"

// Calls task(batch item, group, panel, first channel, channels) for every panel of every group.
template <class Task>
static void each_panel(const Scan* a, int64_t panel, int64_t threads, const Task& task) {
    const int64_t width = a->d / a->g, panels = (width + panel - 1) / panel;
    parallel_for(a->b * a->g * panels, threads, [&](int64_t i) {
        const int64_t g = i / panels % a->g, first = i % panels * panel;
        task(i / (a->g * panels), g, i % panels, g * width + first, width - first < panel ? width - first : panel);
    });
}

// Channels that a task of the backward pass has: dB and dC come in so many parts.
EXPORT int64_t vimamba_scan_panel(const Scan* a) { return VIMAMBA_CALL(panel_width, a->n); }

EXPORT void vimamba_scan_forward(const Scan* a, int64_t threads) {
    int64_t panel = vimamba_scan_panel(a);
    if (a->b * (a->d / panel) < 2 * threads && panel > 16) panel = 16;  // nothing is summed over channels here
    each_panel(a, panel, threads, [&](int64_t b, int64_t g, int64_t, int64_t c, int64_t width) {
        VIMAMBA_CALL(scan_forward, *a, b, g, c, width);
    });
}

EXPORT void vimamba_scan_backward(const Scan* a, const Grads* d, int64_t threads) {
    each_panel(a, vimamba_scan_panel(a), threads, [&](int64_t b, int64_t g, int64_t p, int64_t c, int64_t width) {
        VIMAMBA_CALL(scan_backward, *a, *d, b, g, p, c, width);
    });
}

// out (count) = the sum of the parts (parts, count), in order.
EXPORT void vimamba_sum_parts(const float* in, float* out, int64_t parts, int64_t count, int64_t threads) {
    constexpr int64_t BLOCK = 4096;
    parallel_for((count + BLOCK - 1) / BLOCK, threads, [&](int64_t i) {
        const int64_t first = i * BLOCK, end = first + BLOCK < count ? first + BLOCK : count;
        std::memcpy(out + first, in + first, (end - first) * sizeof(float));
        for (int64_t p = 1; p < parts; p++)
            for (int64_t j = first; j < end; j++) out[j] += in[p * count + j];
    });
}

EXPORT const char* vimamba_cpu() {
    const isa::Level level = isa::level();
    return level == isa::AVX512 ? "AVX-512" : level == isa::AVX2 ? "AVX2" : "128-bit vectors";
}
