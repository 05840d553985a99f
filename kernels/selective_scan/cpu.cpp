// The selective scan on the CPU: tasks, threads and the C interface of cpu_kernel.h. All tensors are float32.

#include <cstdlib>
#include <cstring>
#include <string>

#include "../cpu/parallel.h"
#include "../cpu/routes.h"

namespace {

constexpr int MAX_STATES = 256;
constexpr int CHUNK = 16;    // steps between two saved states
constexpr int PANEL = 64;    // channels whose dB and dC are summed at once
constexpr int WIDEST = 512;  // channels of a task

// Sizes, strides in elements, pointers; 0 for what is absent. Mirrored by cpu.py. A (k, d, n), D and bias (k, d),
// h0 and last (b, k, d, n), saved (b, k, chunks, n, d), rows (k, l); u, delta, z: channels adjacent; B, C: states adjacent.
// out and y: (b, l, d), the sum of the routes, if out_k is 0, else (k, b, l, d), routes out_k apart.
struct Scan {
    int64_t b, k, g, d, l, n, chunks, softplus;
    int64_t u_b, u_k, u_l, delta_b, delta_k, delta_l, B_b, B_k, B_g, B_l, C_b, C_k, C_g, C_l, z_b, z_l, out_k;
    const float *u, *delta, *A, *B, *C, *D, *z, *bias, *h0;
    const int32_t* rows;
    const int64_t* steps;
    float *out, *last, *saved, *y;
};

// out: gradient of the output, channels adjacent; last (b, k, d, n). The gradients to be written: u (k, b, l, d), routes u_k
// apart, or (b, l, d) if they share it and u_k is 0; delta (k, b, l, d); A, h0 (b, k, d, n); D, bias (b, k, d); z (b, l, d);
// B, C (parts, b, k, g, l, n). The caller sums over the batch and the parts.
struct Grads {
    int64_t out_b, out_k, out_l, u_k;
    const float *out, *last;
    float *u, *delta, *A, *B, *C, *D, *z, *bias, *h0;
};

}  // namespace

#define KERNEL "../selective_scan/cpu_kernel.h"
#include "../cpu/isa.h"

// Calls task(batch item, group, first channel, channels) for every so many channels of every group.
template <class Task>
static void each_task(const Scan* a, int64_t channels, int64_t threads, const Task& task) {
    const int64_t width = a->d / a->g, count = (width + channels - 1) / channels;
    parallel_for(a->b * a->g * count, threads, [&](int64_t i) {
        const int64_t g = i / count % a->g, first = i % count * channels;
        task(i / (a->g * count), g, g * width + first, width - first < channels ? width - first : channels);
    });
}

// Channels of a task, in multiples of `unit`: many, which reads memory in long pieces, unless that leaves threads idle.
static int64_t task_channels(const Scan* a, int64_t unit, int64_t threads) {
    const int64_t width = a->d / a->g;
    int64_t channels = VIMAMBA_CALL(widest, a->n);
    while (threads > 1 && channels > unit && a->b * a->g * ((width + channels - 1) / channels) < 2 * threads)
        channels = (channels / 2 + unit - 1) / unit * unit;
    return channels;
}

static int64_t panel(const Scan* a) {
    const int64_t most = VIMAMBA_CALL(widest, a->n);
    return most < PANEL ? most : PANEL;
}

// Whether tasks add to the same dB and dC: one thread does so in order, several do not.
static bool in_parts(const Scan* a, int64_t threads) {
    return threads > 1 && task_channels(a, panel(a), threads) < a->d / a->g;
}

// How many parts of dB and dC there are. Their sum does not depend on it: it is taken over the panels in order.
EXPORT int64_t vimamba_scan_parts(const Scan* a, int64_t threads) {
    return in_parts(a, threads) ? (a->d / a->g + panel(a) - 1) / panel(a) : 1;
}

EXPORT void vimamba_scan_forward(const Scan* a, int64_t threads) {
    each_task(a, task_channels(a, 16, threads), threads, [&](int64_t b, int64_t g, int64_t c, int64_t width) {
        VIMAMBA_CALL(scan_forward, *a, b, g, c, width);
    });
}

EXPORT void vimamba_scan_backward(const Scan* a, const Grads* d, int64_t threads) {
    const int64_t channels = task_channels(a, panel(a), threads);
    const bool parts = in_parts(a, threads);
    each_task(a, channels, threads, [&](int64_t b, int64_t g, int64_t c, int64_t width) {
        VIMAMBA_CALL(scan_backward, *a, *d, b, g, c, width, (c - g * (a->d / a->g)) / panel(a), parts);
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
