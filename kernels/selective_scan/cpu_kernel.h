// The selective scan for some channels of one group of one batch item, all its routes: included by ../cpu/isa.h.
//
// Lanes are channels. A chunk of CHUNK steps is read for one vector of channels into buffers, the states are then advanced
// four at a time over the whole chunk, from registers, and the results written back. See README.md for the equations.

constexpr int VECTORS = PANEL / LANES;
constexpr float LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;

struct Rows {  // that the steps of one chunk read
    int count;
    int64_t row[CHUNK];
    const float *B[CHUNK], *C[CHUNK];
};

__attribute__((noinline)) static void find_rows(Rows& r, const Scan& a, int64_t b, int64_t k, int64_t g, int64_t t0) {
    r.count = (int)(a.l - t0 < CHUNK ? a.l - t0 : CHUNK);
    const float* B = a.B + b * a.B_b + k * a.B_k + g * a.B_g;
    const float* C = a.C + b * a.C_b + k * a.C_k + g * a.C_g;
    for (int t = 0; t < r.count; t++) {
        const int64_t row = r.row[t] = row_at(a, k, t0 + t);
        r.B[t] = B + row * a.B_l;
        r.C[t] = C + row * a.C_l;
    }
}

static inline void load_states(const float* p, int64_t states, int lanes, float scale, vec* out) {
    for (int64_t n = 0; n < states; n++) out[n] = vec{};
    for (int i = 0; i < lanes; i++)
        for (int64_t n = 0; n < states; n++) out[n][i] = p[i * states + n] * scale;
}

static inline void store_states(float* p, int64_t states, int lanes, const vec* in) {
    for (int i = 0; i < lanes; i++)
        for (int64_t n = 0; n < states; n++) p[i * states + n] = in[n][i];
}

// Channels that a task can have: as many as have MAX_STATES vectors of states, in whole panels where that is possible.
static inline int64_t widest(int64_t n) {
    const int64_t most = MAX_STATES / n * LANES;
    return most < PANEL ? most : most < WIDEST ? most / PANEL * PANEL : WIDEST;
}

// Loops over the steps are functions of their own, so that each has the registers to itself.
#define LOOP __attribute__((noinline)) static void

// The states that such a function has at once; only if all loops over them are unrolled do they stay in registers.
#define EACH_STATE _Pragma("GCC unroll 4") for (int i = 0; i < NB; i++)

struct Tokens {  // channels of one tensor, as many as lanes: those of a token are p[row * stride ...]
    const float* p;
    int64_t stride;
    vec load(int64_t row, int lanes) const { return load_row(p + row * stride, lanes); }
};

struct Forward {  // the steps of one chunk, for one vector of channels
    vec dt[CHUNK], dx[CHUNK], y[CHUNK];
};

template <bool SOFTPLUS>
LOOP read_forward(Forward& s, const Rows& r, Tokens u, Tokens delta, vec bias, vec D, int lanes) {
    for (int t = 0; t < r.count; t++) {
        const vec x = u.load(r.row[t], lanes), raw = delta.load(r.row[t], lanes) + bias;
        const vec dt = SOFTPLUS ? softplus(raw) : raw;
        s.dt[t] = dt;
        s.dx[t] = dt * x;
        s.y[t] = D * x;
    }
}

// h = exp(dt A) h + dx B and y += C h, over the chunk, for NB states from n on.
template <int NB>
LOOP advance(Forward& s, const Rows& r, int64_t n, const vec* A, vec* h) {
    vec state[NB], decay[NB];
    EACH_STATE state[i] = h[i], decay[i] = A[i];
    for (int t = 0; t < r.count; t++) {
        const vec dt = s.dt[t], dx = s.dx[t];
        const float *B = r.B[t] + n, *C = r.C[t] + n;
        vec sum = s.y[t];
        EACH_STATE {
            state[i] = exp2(dt * decay[i]) * state[i] + dx * B[i];
            sum += state[i] * C[i];
        }
        s.y[t] = sum;
    }
    EACH_STATE h[i] = state[i];
}

// out = or += y. With GATE, which only a complete sum has, y is kept if it is not null, and out = y silu(z).
template <bool GATE>
LOOP write_forward(const Forward& s, const Rows& r, float* out, float* y, Tokens z, int64_t d, bool more, int lanes) {
    for (int t = 0; t < r.count; t++) {
        float* p = out + r.row[t] * d;
        vec sum = more ? load_part(p, lanes) + s.y[t] : s.y[t];
        if (GATE) {
            if (y) store_row(y + r.row[t] * d, sum, lanes);
            const vec gate = z.load(r.row[t], lanes);
            sum *= gate * sigmoid(gate);
        }
        store_row(p, sum, lanes);
    }
}

// What a task knows of tensors: where those of batch item b, route k and channel c begin.
static inline Tokens tokens_u(const Scan& a, int64_t b, int64_t k, int64_t c) {
    return {a.u + b * a.u_b + k * a.u_k + c, a.u_l};
}
static inline Tokens tokens_delta(const Scan& a, int64_t b, int64_t k, int64_t c) {
    return {a.delta + b * a.delta_b + k * a.delta_k + c, a.delta_l};
}
static inline Tokens tokens_z(const Scan& a, int64_t b, int64_t c) { return {a.z + b * a.z_b + c, a.z_l}; }
static inline vec of_channel(const float* p, int64_t at, int lanes) { return p ? load_part(p + at, lanes) : vec{}; }

static void scan_forward(const Scan& a, int64_t b, int64_t g, int64_t first, int64_t width) {
    Rows r;
    Forward s;
    vec A[MAX_STATES], h[MAX_STATES];
    for (int64_t k = 0; k < a.k; k++) {
        const auto each_vector = [&](auto task) {  // task(channel, how many lanes it and those that follow fill, states)
            for (int64_t c = 0, state = 0; c < width; c += LANES, state += a.n)
                task(first + c, (int)(width - c < LANES ? width - c : LANES), state);
        };
        each_vector([&](int64_t c, int lanes, int64_t state) {
            load_states(a.A + (k * a.d + c) * a.n, a.n, lanes, LOG2E, A + state);
            if (a.h0) {
                load_states(a.h0 + ((b * a.k + k) * a.d + c) * a.n, a.n, lanes, 1.f, h + state);
            } else {
                for (int64_t n = 0; n < a.n; n++) h[state + n] = vec{};
            }
        });
        for (int64_t t0 = 0; t0 < a.l; t0 += CHUNK) {
            find_rows(r, a, b, k, g, t0);
            each_vector([&](int64_t c, int lanes, int64_t state) {
                if (a.saved) {
                    float* p = a.saved + (((b * a.k + k) * a.chunks + t0 / CHUNK) * a.n) * a.d + c;
                    for (int64_t n = 0; n < a.n; n++) store_row(p + n * a.d, h[state + n], lanes);
                }
                const vec bias = of_channel(a.bias, k * a.d + c, lanes), D = of_channel(a.D, k * a.d + c, lanes);
                (a.softplus ? read_forward<true> : read_forward<false>)(s, r, tokens_u(a, b, k, c),
                                                                        tokens_delta(a, b, k, c), bias, D, lanes);
                int64_t n = 0;
                for (; n + 4 <= a.n; n += 4) advance<4>(s, r, n, A + state + n, h + state + n);
                for (; n < a.n; n++) advance<1>(s, r, n, A + state + n, h + state + n);
                const int64_t at = k * a.out_k + b * a.l * a.d + c;
                const bool complete = a.out_k || k == a.k - 1, more = k && !a.out_k;
                (complete && a.z ? write_forward<true> : write_forward<false>)(
                    s, r, a.out + at, a.y ? a.y + at : nullptr, tokens_z(a, b, c), a.d, more, lanes);
            });
        }
        each_vector([&](int64_t c, int lanes, int64_t state) {
            store_states(a.last + ((b * a.k + k) * a.d + c) * a.n, a.n, lanes, h + state);
        });
    }
}

struct Backward {  // the steps of one chunk, for one vector of channels
    vec x[CHUNK], dt[CHUNK], dx[CHUNK], slope[CHUNK], g[CHUNK], S[CHUNK], Q[CHUNK];  // slope: d dt / d delta
};

// Reads up to the gate: g, and dz = or += where there is a gate and y is not null.
template <bool SOFTPLUS, bool GATE>
LOOP read_backward(Backward& s, const Rows& r, Tokens u, Tokens delta, vec bias, Tokens out, Tokens z, const float* y,
                   float* dz, int64_t d, bool more, int lanes) {
    for (int t = 0; t < r.count; t++) {
        const vec x = u.load(r.row[t], lanes), raw = delta.load(r.row[t], lanes) + bias, w = exp(-abs(raw));
        vec dt = raw, slope = fill(1.f), g = out.load(r.row[t], lanes);
        if (SOFTPLUS) dt = softplus(raw, w), slope = sigmoid(raw, w);
        if (GATE) {
            const vec gate = z.load(r.row[t], lanes), sig = sigmoid(gate);
            if (y) {
                const vec sum = load_row(y + r.row[t] * d, lanes);
                const vec grad = g * sum * sig * (gate * (1.f - sig) + 1.f);
                float* p = dz + r.row[t] * d;
                store_row(p, more ? load_part(p, lanes) + grad : grad, lanes);
            }
            g *= gate * sig;
        }
        s.x[t] = x;
        s.dt[t] = dt;
        s.dx[t] = dt * x;
        s.slope[t] = slope;
        s.g[t] = g;
        s.S[t] = s.Q[t] = vec{};
    }
}

template <int NB>
struct States {  // NB of them at one step; dB and dC in every lane, of the channels so far
    vec h[NB], a[NB], dB[NB], dC[NB];
};

// The way back through a chunk for NB states from n on, from the states before it, of which those of p lie d apart.
//     e = g C + carry,  carry' = a e,  S += e B,  Q += (a h_{t-1} e) A,  dA += (a h_{t-1} e) dt,  dB += e dx,  dC += g h
template <int NB, bool FIRST>
LOOP retreat(Backward& s, States<NB>* v, const Rows& r, int64_t n, const vec* A, const float* p, int64_t d, int lanes,
             vec* carry, vec* dA) {
    vec h[NB], e[NB], sum[NB], decay[NB];
    EACH_STATE {
        h[i] = load_row(p + i * d, lanes);
        decay[i] = A[i], e[i] = carry[i], sum[i] = vec{};
    }
    for (int t = 0; t < r.count; t++) {
        const vec dt = s.dt[t], dx = s.dx[t];
        const float* B = r.B[t] + n;
        EACH_STATE {
            v[t].h[i] = h[i];
            const vec a = v[t].a[i] = exp2(dt * decay[i]);
            h[i] = a * h[i] + dx * B[i];
        }
    }
    for (int t = r.count - 1; t >= 0; t--) {
        const vec dt = s.dt[t], dx = s.dx[t], g = s.g[t];
        const float *B = r.B[t] + n, *C = r.C[t] + n;
        vec through = s.S[t], decayed = s.Q[t];
        EACH_STATE {
            const vec ei = g * C[i] + e[i];
            v[t].dC[i] = FIRST ? g * h[i] : g * h[i] + v[t].dC[i];
            h[i] = v[t].h[i];
            v[t].dB[i] = FIRST ? dx * ei : dx * ei + v[t].dB[i];
            through += ei * B[i];
            e[i] = v[t].a[i] * ei;
            const vec q = e[i] * h[i];
            decayed += q * decay[i];
            sum[i] += q * dt;
        }
        s.S[t] = through;
        s.Q[t] = decayed;
    }
    EACH_STATE carry[i] = e[i], dA[i] += sum[i];
}

// out[row, n + i] = or += the sum over the lanes of in[t][i]; the steps t are `step` vectors apart.
template <int NB>
LOOP sum_channels(const vec* in, int step, const Rows& r, int64_t n, int64_t states, bool more, float* out) {
    for (int t = 0; t < r.count; t += 4 / NB) {
        const vec* v = in + t * step;  // four states of one step, or one of four; those behind the last are not used
        const int next = NB == 4 ? 1 : step;
        vec4 sums = sum4(v[0], v[next], v[2 * next], v[3 * next]);
        if constexpr (NB == 4) {
            vec4* p = (vec4*)(out + r.row[t] * states + n);
            *p = more ? *p + sums : sums;
        } else {
            for (int j = 0; j < 4 && t + j < r.count; j++) {
                float* p = out + r.row[t + j] * states + n;
                *p = more ? *p + sums[j] : sums[j];
            }
        }
    }
}

template <bool MORE>
LOOP write_backward(const Backward& s, const Rows& r, float* du, float* ddelta, int64_t d, vec D, vec& dD, vec& dbias,
                    int lanes) {
    vec sumD = dD, sum = dbias;
    for (int t = 0; t < r.count; t++) {
        const int64_t at = r.row[t] * d;
        const vec through = D * s.g[t] + s.dt[t] * s.S[t], raw = (s.x[t] * s.S[t] + s.Q[t] * LN2) * s.slope[t];
        sumD += s.g[t] * s.x[t];
        sum += raw;
        store_row(du + at, MORE ? load_part(du + at, lanes) + through : through, lanes);
        store_row(ddelta + at, raw, lanes);
    }
    dD = sumD;
    dbias = sum;
}

// The panels of a task one after the other, from `panel` of the group on. dB and dC of each go to a part of its own, or are
// added to those of the panels before it where `parts` is 0.
static void scan_backward(const Scan& a, const Grads& d, int64_t b, int64_t g, int64_t first, int64_t width, int64_t panel,
                          bool parts) {
    Rows r;
    Backward steps[VECTORS];
    vec A[MAX_STATES], carry[MAX_STATES], dA[MAX_STATES], dD[WIDEST / LANES], dbias[WIDEST / LANES];
    States<4> four[CHUNK];
    States<1> one[CHUNK + 3] = {};
    for (int64_t k = 0; k < a.k; k++) {
        // task(channel, lanes, which vector, its states), for the vectors from channel c of the task on, up to `most`
        const auto each_vector = [&](int64_t c, int64_t most, auto task) {
            const int64_t end = width < c + most ? width : c + most;
            for (int64_t i = c / LANES; c < end; c += LANES, i++)
                task(first + c, (int)(end - c < LANES ? end - c : LANES), i, i * a.n);
        };
        each_vector(0, width, [&](int64_t c, int lanes, int64_t i, int64_t state) {
            load_states(a.A + (k * a.d + c) * a.n, a.n, lanes, LOG2E, A + state);
            if (d.last) load_states(d.last + ((b * a.k + k) * a.d + c) * a.n, a.n, lanes, 1.f, carry + state);
            for (int64_t n = 0; n < a.n; n++) {
                dA[state + n] = vec{};
                if (!d.last) carry[state + n] = vec{};
            }
            dD[i] = dbias[i] = vec{};
        });
        for (int64_t chunk = a.chunks - 1; chunk >= 0; chunk--) {
            find_rows(r, a, b, k, g, chunk * CHUNK);
            for (int64_t p = 0; p * PANEL < width; p++) {
                const int64_t c0 = p * PANEL;
                each_vector(c0, PANEL, [&](int64_t c, int lanes, int64_t i, int64_t) {
                    const vec bias = of_channel(a.bias, k * a.d + c, lanes);
                    const int64_t at = b * a.l * a.d + c;
                    const float* y = k && !a.out_k ? nullptr : a.y + k * a.out_k + at;
                    (a.softplus ? a.z ? read_backward<true, true> : read_backward<true, false>
                     : a.z      ? read_backward<false, true>
                                : read_backward<false, false>)(
                        steps[i % VECTORS], r, tokens_u(a, b, k, c), tokens_delta(a, b, k, c), bias,
                        {d.out + b * d.out_b + k * d.out_k + c, d.out_l}, tokens_z(a, b, c), y, d.z + at, a.d, k, lanes);
                });
                const int64_t part = (((parts ? panel + p : 0) * a.b + b) * a.k + k) * a.g + g;
                float *dB = d.B + part * a.l * a.n, *dC = d.C + part * a.l * a.n;
                const bool more = !parts && panel + p;
                int64_t n = 0;
                const auto go_back = [&](auto& states) {
                    constexpr int NB = sizeof states[0].h / sizeof(vec), step = 4 * NB;
                    each_vector(c0, PANEL, [&](int64_t c, int lanes, int64_t i, int64_t state) {
                        const float* h = a.saved + (((b * a.k + k) * a.chunks + chunk) * a.n + n) * a.d + c;
                        const auto run = c == first + c0 ? retreat<NB, true> : retreat<NB, false>;
                        run(steps[i % VECTORS], states, r, n, A + state + n, h, a.d, lanes, carry + state + n,
                            dA + state + n);
                    });
                    sum_channels<NB>(states[0].dB, step, r, n, a.n, more, dB);
                    sum_channels<NB>(states[0].dC, step, r, n, a.n, more, dC);
                    n += NB;
                };
                while (n + 4 <= a.n) go_back(four);
                while (n < a.n) go_back(one);
                each_vector(c0, PANEL, [&](int64_t c, int lanes, int64_t i, int64_t) {
                    const vec D = of_channel(a.D, k * a.d + c, lanes);
                    float* du = d.u + k * d.u_k + b * a.l * a.d + c;
                    float* ddelta = d.delta + (k * a.b + b) * a.l * a.d + c;
                    (d.u_k == 0 && k ? write_backward<true> : write_backward<false>)(
                        steps[i % VECTORS], r, du, ddelta, a.d, D, dD[i], dbias[i], lanes);
                });
            }
        }
        each_vector(0, width, [&](int64_t c, int lanes, int64_t i, int64_t state) {
            const int64_t at = (b * a.k + k) * a.d + c;
            store_states(d.A + at * a.n, a.n, lanes, dA + state);
            if (d.h0) store_states(d.h0 + at * a.n, a.n, lanes, carry + state);
            if (d.D) store_part(d.D + at, dD[i], lanes);
            if (d.bias) store_part(d.bias + at, dbias[i], lanes);
        });
    }
}
#undef EACH_STATE
#undef LOOP
