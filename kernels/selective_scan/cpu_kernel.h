// The selective scan for a panel of channels of one batch item, all its routes: included by ../cpu/isa.h.
//
// Lanes are channels; a panel is a few vectors wide, so that a row of memory is read in one piece. A chunk of CHUNK steps
// is read into buffers, the states are then advanced four at a time over the whole chunk, from registers, and the results
// written back. See README.md for the equations.

constexpr int CHUNK = SCAN_CHUNK;
constexpr float LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;

struct Steps {  // of one chunk
    int count;
    int64_t row[CHUNK];
    const float *B[CHUNK], *C[CHUNK];
    vec raw[CHUNK], x[CHUNK], dt[CHUNK], dx[CHUNK];
};

static inline void read_rows(Steps& s, const Scan& a, int64_t b, int64_t k, int64_t g, int64_t t0) {
    s.count = (int)(a.l - t0 < CHUNK ? a.l - t0 : CHUNK);
    const float* B = a.B + b * a.B_b + k * a.B_k + g * a.B_g;
    const float* C = a.C + b * a.C_b + k * a.C_k + g * a.C_g;
    for (int t = 0; t < s.count; t++) {
        const int64_t row = s.row[t] = row_at(a, k, t0 + t);
        s.B[t] = B + row * a.B_l;
        s.C[t] = C + row * a.C_l;
    }
}

static inline void read_steps(Steps& s, const Scan& a, int64_t b, int64_t k, int64_t c, int lanes) {
    const float* u = a.u + b * a.u_b + k * a.u_k + c;
    const float* delta = a.delta + b * a.delta_b + k * a.delta_k + c;
    const vec bias = a.bias ? load_part(a.bias + k * a.d + c, lanes) : vec{};
    for (int t = 0; t < s.count; t++) {
        s.x[t] = load_part(u + s.row[t] * a.u_l, lanes);
        s.raw[t] = load_part(delta + s.row[t] * a.delta_l, lanes) + bias;
    }
    for (int t = 0; t < s.count; t++) {
        s.dt[t] = a.softplus ? softplus(s.raw[t]) : s.raw[t];
        s.dx[t] = s.dt[t] * s.x[t];
    }
}

// h = exp(dt A) h + dx B and y += C h, over the chunk, for NB states from n on.
template <int NB>
static inline void advance(const Steps& s, int n, const vec* A, vec* h, vec* y) {
    vec state[NB], decay[NB];
    for (int i = 0; i < NB; i++) state[i] = h[n + i], decay[i] = A[n + i];
    for (int t = 0; t < s.count; t++) {
        const vec dt = s.dt[t], dx = s.dx[t];
        const float *B = s.B[t] + n, *C = s.C[t] + n;
        vec sum = y[t];
#pragma GCC unroll 4
        for (int i = 0; i < NB; i++) {
            state[i] = exp2(dt * decay[i]) * state[i] + dx * B[i];
            sum += state[i] * C[i];
        }
        y[t] = sum;
    }
    for (int i = 0; i < NB; i++) h[n + i] = state[i];
}

static inline void load_states(const float* p, int64_t stride, int64_t states, int lanes, float scale, vec* out) {
    for (int64_t n = 0; n < states; n++) out[n] = vec{};
    for (int i = 0; i < lanes; i++)
        for (int64_t n = 0; n < states; n++) out[n][i] = p[i * stride + n] * scale;
}

static inline void store_states(float* p, int64_t stride, int64_t states, int lanes, const vec* in) {
    for (int i = 0; i < lanes; i++)
        for (int64_t n = 0; n < states; n++) p[i * stride + n] = in[n][i];
}

// Channels of a panel: 64, or as many as have MAX_STATES vectors of states.
static inline int64_t panel_width(int64_t n) {
    const int64_t most = MAX_STATES / n * LANES;
    return most < 64 ? most : 64;
}

struct Group {  // channels c ... c + lanes - 1, and where their states begin in the arrays of the panel
    int64_t c, state;
    int lanes;
};

static inline int split(Group* groups, const Scan& a, int64_t c, int64_t width) {
    int count = 0;
    for (int64_t i = 0; i < width; i += LANES, count++)
        groups[count] = {c + i, count * a.n, (int)(width - i < LANES ? width - i : LANES)};
    return count;
}

static void scan_forward(const Scan& a, int64_t b, int64_t g, int64_t c0, int64_t width) {
    Steps s;
    Group groups[64 / LANES];
    const int count = split(groups, a, c0, width);
    vec A[MAX_STATES], h[MAX_STATES], y[CHUNK];
    for (int64_t k = 0; k < a.k; k++) {
        const bool last = k == a.k - 1;
        for (int i = 0; i < count; i++) {
            const auto [c, state, lanes] = groups[i];
            load_states(a.A + (k * a.d + c) * a.n, a.n, a.n, lanes, LOG2E, A + state);
            if (a.h0) {
                load_states(a.h0 + ((b * a.k + k) * a.d + c) * a.n, a.n, a.n, lanes, 1.f, h + state);
            } else {
                for (int64_t n = 0; n < a.n; n++) h[state + n] = vec{};
            }
        }
        for (int64_t t0 = 0; t0 < a.l; t0 += CHUNK) {
            read_rows(s, a, b, k, g, t0);
            for (int i = 0; i < count; i++) {
                const auto [c, state, lanes] = groups[i];
                if (a.saved) {
                    float* p = a.saved + (((b * a.k + k) * a.chunks + t0 / CHUNK) * a.n) * a.d + c;
                    for (int64_t n = 0; n < a.n; n++) store_part(p + n * a.d, h[state + n], lanes);
                }
                const vec D = a.D ? load_part(a.D + k * a.d + c, lanes) : vec{};
                read_steps(s, a, b, k, c, lanes);
                for (int t = 0; t < s.count; t++) y[t] = D * s.x[t];
                int n = 0;
                for (; n + 4 <= a.n; n += 4) advance<4>(s, n, A + state, h + state, y);
                for (; n < a.n; n++) advance<1>(s, n, A + state, h + state, y);
                for (int t = 0; t < s.count; t++) {
                    const int64_t row = (b * a.l + s.row[t]) * a.d + c;
                    vec sum = k ? load_part(a.out + row, lanes) + y[t] : y[t];
                    if (last && a.z) {
                        if (a.y) store_part(a.y + row, sum, lanes);
                        const vec z = load_part(a.z + b * a.z_b + s.row[t] * a.z_l + c, lanes);
                        sum *= z * sigmoid(z);
                    }
                    store_part(a.out + row, sum, lanes);
                }
            }
        }
        for (int i = 0; i < count; i++) {
            const auto [c, state, lanes] = groups[i];
            store_states(a.last + ((b * a.k + k) * a.d + c) * a.n, a.n, a.n, lanes, h + state);
        }
    }
}

// The way back through a chunk for NB states from n on, from the state `start` before it.
//     e = g C + carry,  carry' = a e,  S += e B,  Q += (a h_{t-1} e) A,  dA += (a h_{t-1} e) dt,  dB += <e, dx>,  dC += <g, h>
template <int NB>
static inline void retreat(const Steps& s, const vec* gy, int n, const vec* A, const vec* start, vec* carry, vec* dA,
                           vec* S, vec* Q, float* dB, float* dC, int64_t stride) {
    vec h[CHUNK + 1][NB], a[CHUNK][NB], e[NB], sum[NB];
    for (int i = 0; i < NB; i++) h[0][i] = start[n + i], e[i] = carry[n + i], sum[i] = vec{};
    for (int t = 0; t < s.count; t++) {
        const vec dt = s.dt[t], dx = s.dx[t];
        const float* B = s.B[t] + n;
#pragma GCC unroll 4
        for (int i = 0; i < NB; i++) {
            a[t][i] = exp2(dt * A[n + i]);
            h[t + 1][i] = a[t][i] * h[t][i] + dx * B[i];
        }
    }
    vec eB[CHUNK], eC[CHUNK];  // for a single state, four steps are summed over the lanes at once
    for (int t = s.count - 1; t >= 0; t--) {
        const vec dt = s.dt[t], dx = s.dx[t], g = gy[t];
        const float *B = s.B[t] + n, *C = s.C[t] + n;
        vec through = S[t], decayed = Q[t], bs[NB], cs[NB];
#pragma GCC unroll 4
        for (int i = 0; i < NB; i++) {
            const vec ei = g * C[i] + e[i];
            cs[i] = g * h[t + 1][i];
            bs[i] = dx * ei;
            through += ei * B[i];
            e[i] = a[t][i] * ei;
            const vec q = e[i] * h[t][i];
            decayed += q * A[n + i];
            sum[i] += q * dt;
        }
        S[t] = through;
        Q[t] = decayed;
        if constexpr (NB == 4) {
            float sums[8];
            sum4(bs[0], bs[1], bs[2], bs[3], sums);
            sum4(cs[0], cs[1], cs[2], cs[3], sums + 4);
            float *B4 = dB + s.row[t] * stride + n, *C4 = dC + s.row[t] * stride + n;
            for (int i = 0; i < 4; i++) B4[i] += sums[i], C4[i] += sums[4 + i];
        } else {
            eB[t] = bs[0];
            eC[t] = cs[0];
        }
    }
    if constexpr (NB == 1) {
        for (int t = s.count; t % 4; t++) eB[t] = eC[t] = vec{};
        for (int t = 0; t < s.count; t += 4) {
            float sums[8];
            sum4(eB[t], eB[t + 1], eB[t + 2], eB[t + 3], sums);
            sum4(eC[t], eC[t + 1], eC[t + 2], eC[t + 3], sums + 4);
            for (int i = 0; i < 4 && t + i < s.count; i++) {
                dB[s.row[t + i] * stride + n] += sums[i];
                dC[s.row[t + i] * stride + n] += sums[4 + i];
            }
        }
    }
    for (int i = 0; i < NB; i++) carry[n + i] = e[i], dA[n + i] += sum[i];
}

static void scan_backward(const Scan& a, const Grads& d, int64_t b, int64_t g, int64_t panel, int64_t c0, int64_t width) {
    Steps s;
    Group groups[64 / LANES];
    const int count = split(groups, a, c0, width);
    vec A[MAX_STATES], start[MAX_STATES], carry[MAX_STATES], dA[MAX_STATES], gy[CHUNK], S[CHUNK], Q[CHUNK];
    for (int64_t k = 0; k < a.k; k++) {
        vec dD[64 / LANES] = {}, dbias[64 / LANES] = {};
        for (int i = 0; i < count; i++) {
            const auto [c, state, lanes] = groups[i];
            load_states(a.A + (k * a.d + c) * a.n, a.n, a.n, lanes, LOG2E, A + state);
            load_states(d.last + ((b * a.k + k) * a.d + c) * a.n, a.n, a.n, lanes, 1.f, carry + state);
            for (int64_t n = 0; n < a.n; n++) dA[state + n] = vec{};
        }
        const int64_t part = (((panel * a.b + b) * a.k + k) * a.g + g) * a.l * a.n;
        float *dB = d.B + part, *dC = d.C + part;
        for (int64_t chunk = a.chunks - 1; chunk >= 0; chunk--) {
            read_rows(s, a, b, k, g, chunk * CHUNK);
            for (int i = 0; i < count; i++) {
                const auto [c, state, lanes] = groups[i];
                const vec D = a.D ? load_part(a.D + k * a.d + c, lanes) : vec{};
                const float* p = a.saved + (((b * a.k + k) * a.chunks + chunk) * a.n) * a.d + c;
                for (int64_t n = 0; n < a.n; n++) start[n] = load_part(p + n * a.d, lanes);
                read_steps(s, a, b, k, c, lanes);
                for (int t = 0; t < s.count; t++) {
                    gy[t] = load_part(d.out + b * d.out_b + s.row[t] * d.out_l + c, lanes);
                    if (a.z) {
                        const vec z = load_part(a.z + b * a.z_b + s.row[t] * a.z_l + c, lanes), sig = sigmoid(z);
                        if (k == 0) {
                            const int64_t row = (b * a.l + s.row[t]) * a.d + c;
                            const vec y = load_part(a.y + row, lanes);
                            store_part(d.z + row, gy[t] * y * sig * (z * (1.f - sig) + 1.f), lanes);
                        }
                        gy[t] *= z * sig;
                    }
                    S[t] = Q[t] = vec{};
                }
                int n = 0;
                for (; n + 4 <= a.n; n += 4)
                    retreat<4>(s, gy, n, A + state, start, carry + state, dA + state, S, Q, dB, dC, a.n);
                for (; n < a.n; n++)
                    retreat<1>(s, gy, n, A + state, start, carry + state, dA + state, S, Q, dB, dC, a.n);
                for (int t = 0; t < s.count; t++) {
                    vec du = D * gy[t] + s.dt[t] * S[t];
                    vec ddelta = s.x[t] * S[t] + Q[t] * LN2;
                    if (a.softplus) ddelta *= sigmoid(s.raw[t]);
                    dD[i] += gy[t] * s.x[t];
                    dbias[i] += ddelta;
                    const int64_t shared = (b * a.l + s.row[t]) * a.d + c;
                    const int64_t own = ((k * a.b + b) * a.l + s.row[t]) * a.d + c;
                    if (a.u_k == 0 && k) du += load_part(d.u + shared, lanes);
                    store_part(d.u + (a.u_k ? own : shared), du, lanes);
                    store_part(d.delta + own, ddelta, lanes);
                }
            }
        }
        for (int i = 0; i < count; i++) {
            const auto [c, state, lanes] = groups[i];
            const int64_t kc = k * a.d + c, at = ((b * a.k + k) * a.d + c) * a.n;
            store_states(d.A + at, a.n, a.n, lanes, dA + state);
            if (d.h0) store_states(d.h0 + at, a.n, a.n, lanes, carry + state);
            if (d.D) store_part(d.D + b * a.k * a.d + kc, dD[i], lanes);
            if (d.bias) store_part(d.bias + b * a.k * a.d + kc, dbias[i], lanes);
        }
    }
}
