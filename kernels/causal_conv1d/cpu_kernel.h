// Depthwise causal convolution along K routes, and SiLU, for LANES channels of one batch item: included by ../cpu/isa.h.
//
// A route is walked once with its last W tokens in registers.

template <int W>
static inline void conv_forward(const Conv& a, int64_t b, int64_t c, int lanes) {
    for (int64_t k = 0; k < a.k; k++) {
        const vec bias = a.bias ? load_part(a.bias + k * a.d + c, lanes) : vec{};
        vec w[W], x[W];
        for (int j = 0; j < W; j++) w[j] = load_part(a.weight + (k * W + j) * a.d + c, lanes), x[j] = vec{};
        for (int64_t t = 0; t < a.l; t++) {
            const int64_t row = row_at(a, k, t);
            for (int j = 0; j < W - 1; j++) x[j] = x[j + 1];
            x[W - 1] = load_part(a.x + b * a.x_b + row * a.x_l + c, lanes);
            vec sum = bias;
            for (int j = 0; j < W; j++) sum += w[j] * x[j];
            if (a.silu) sum *= sigmoid(sum);
            store_part(a.out + ((k * a.b + b) * a.l + row) * a.d + c, sum, lanes);
        }
    }
}

template <int W>
static inline void conv_backward(const Conv& a, const ConvGrads& d, int64_t b, int64_t c, int lanes) {
    for (int64_t k = 0; k < a.k; k++) {
        const vec bias = a.bias ? load_part(a.bias + k * a.d + c, lanes) : vec{};
        vec w[W], x[W], g[W], dw[W], dbias = {};  // g: the gradient before SiLU, of the last W steps
        int64_t rows[W] = {};
        for (int j = 0; j < W; j++) {
            w[j] = load_part(a.weight + (k * W + j) * a.d + c, lanes);
            x[j] = g[j] = dw[j] = vec{};
        }
        for (int64_t t = 0; t < a.l + W - 1; t++) {  // the gradient of a token is whole W - 1 steps later
            for (int j = 0; j < W - 1; j++) x[j] = x[j + 1], g[j] = g[j + 1], rows[j] = rows[j + 1];
            g[W - 1] = vec{};
            if (t < a.l) {
                const int64_t row = rows[W - 1] = row_at(a, k, t);
                x[W - 1] = load_part(a.x + b * a.x_b + row * a.x_l + c, lanes);
                g[W - 1] = load_part(d.out + b * d.out_b + k * d.out_k + row * d.out_l + c, lanes);
                if (a.silu) {
                    vec sum = bias;
                    for (int j = 0; j < W; j++) sum += w[j] * x[j];
                    const vec sig = sigmoid(sum);
                    g[W - 1] *= sig * (sum * (1.f - sig) + 1.f);
                }
                for (int j = 0; j < W; j++) dw[j] += g[W - 1] * x[j];
                dbias += g[W - 1];
            }
            if (t >= W - 1) {
                vec dx = {};
                for (int j = 0; j < W; j++) dx += w[W - 1 - j] * g[j];
                float* p = d.x + (b * a.l + rows[0]) * a.d + c;
                store_part(p, k ? load_part(p, lanes) + dx : dx, lanes);
            }
        }
        for (int j = 0; j < W; j++) store_part(d.weight + ((b * a.k + k) * W + j) * a.d + c, dw[j], lanes);
        if (d.bias) store_part(d.bias + (b * a.k + k) * a.d + c, dbias, lanes);
    }
}

static void conv_forward_any(const Conv& a, int64_t b, int64_t c, int lanes) {
    a.w == 1   ? conv_forward<1>(a, b, c, lanes)
    : a.w == 2 ? conv_forward<2>(a, b, c, lanes)
    : a.w == 3 ? conv_forward<3>(a, b, c, lanes)
               : conv_forward<4>(a, b, c, lanes);
}
static void conv_backward_any(const Conv& a, const ConvGrads& d, int64_t b, int64_t c, int lanes) {
    a.w == 1   ? conv_backward<1>(a, d, b, c, lanes)
    : a.w == 2 ? conv_backward<2>(a, d, b, c, lanes)
    : a.w == 3 ? conv_backward<3>(a, d, b, c, lanes)
               : conv_backward<4>(a, d, b, c, lanes);
}

static inline int64_t lanes_at_once() { return LANES; }
