// One vector type and what the kernels need of it, for the instruction set being compiled: included once for each
// by isa.h, inside a namespace. Arithmetic is that of the compilers' vector extensions.

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));

static inline vec load(const float* p) {
    vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float* p, vec v) { __builtin_memcpy(p, &v, sizeof v); }
static inline vec fill(float x) { return vec{} + x; }

// The first `count` lanes, the others 0; and the way back.
static inline vec load_part(const float* p, int count) {
    if (count >= LANES) return load(p);
#if LANES == 16
    return _mm512_maskz_loadu_ps((1 << count) - 1, p);
#else
    vec v = {};
    for (int i = 0; i < count; i++) v[i] = p[i];
    return v;
#endif
}
static inline void store_part(float* p, vec v, int count) {
    if (count >= LANES) return store(p, v);
#if LANES == 16
    _mm512_mask_storeu_ps(p, (1 << count) - 1, v);
#else
    for (int i = 0; i < count; i++) p[i] = v[i];
#endif
}

// The same for a walk over tokens: the cache is asked for the next vector of channels, as it would not be otherwise.
static inline vec load_row(const float* p, int count) {
    __builtin_prefetch(p + LANES);
    return load_part(p, count);
}
static inline void store_row(float* p, vec v, int count) {
    __builtin_prefetch(p + LANES, 1);
    store_part(p, v, count);
}

static inline vec abs(vec x) { return (vec)((ivec)x & 0x7fffffff); }
static inline vec larger(vec a, vec b) { return a > b ? a : b; }  // b where either is no number

// 2^x as 2^n p(x - n), n the nearest integer: relative error 1e-7 before rounding, exact at 0.
static inline vec exp2(vec x) {
#if LANES == 16
    vec n = _mm512_roundscale_ps(x, 0);
#else
    x = larger(fill(-126.f), x);
    x = fill(128.f) < x ? fill(128.f) : x;  // infinity: the bits of 1 with 128 more in the exponent
    vec shifted = x + 12582912.f;  // 1.5 * 2^23: the integer is in its lowest bits
    vec n = shifted - 12582912.f;
#endif
    vec f = x - n;
    vec p = f * 0.00132465991191566f + 0.0096715297549963f;
    p = p * f + 0.05550796166062355f;
    p = p * f + 0.24022242426872253f;
    p = p * f + 0.6931469440460205f;
    p = p * f + 1.f;
#if LANES == 16
    return _mm512_scalef_ps(p, n);
#else
    return (vec)((ivec)p + ((ivec)shifted << 23));
#endif
}
static inline vec exp(vec x) { return exp2(x * 1.4426950408889634f); }

// log(1 + e^x) = max(x, 0) + log1p(w), w = e^-|x|; log1p(w) / w is a polynomial, off by at most 4e-8 on [0, 1].
static inline vec softplus(vec x, vec w) {
    vec p = w * 0.005401133559644222f - 0.030211765319108963f;
    p = p * w + 0.07944291830062866f;
    p = p * w - 0.13774056732654572f;
    p = p * w + 0.19163164496421814f;
    p = p * w - 0.2485957145690918f;
    p = p * w + 0.3332161605358124f;
    p = p * w - 0.4999966025352478f;
    p = p * w + 1.f;
    return larger(fill(0.f), x) + p * w;
}
static inline vec reciprocal(vec x) {
#if LANES == 16
    const vec r = _mm512_rcp14_ps(x);
    return r * (1.f - x * r) + r;  // one step of Newton's: the last bits, in a third of the time of a division
#else
    return 1.f / x;
#endif
}
static inline vec sigmoid(vec x, vec w) { return (x < 0.f ? w : fill(1.f)) * reciprocal(w + 1.f); }
static inline vec softplus(vec x) { return softplus(x, exp(-abs(x))); }
static inline vec sigmoid(vec x) { return sigmoid(x, exp(-abs(x))); }

// The sums over the lanes of four vectors.
static inline vec4 sum4(vec a, vec b, vec c, vec d) {
#if LANES == 16
    __m512 ab = _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
    __m512 cd = _mm512_shuffle_f32x4(c, d, 0x44) + _mm512_shuffle_f32x4(c, d, 0xee);
    __m512 s = _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd);  // 4 lanes of each
    s += _mm512_permute_ps(s, 0xb1);
    s += _mm512_permute_ps(s, 0x4e);
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, s));
#elif LANES == 8
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm256_castps256_ps128(s) + _mm256_extractf128_ps(s, 1);
#elif defined(__aarch64__)
    return vpaddq_f32(vpaddq_f32((float32x4_t)a, (float32x4_t)b), vpaddq_f32((float32x4_t)c, (float32x4_t)d));
#else
    const vec v[4] = {a, b, c, d};
    vec4 out;
    for (int i = 0; i < 4; i++) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
    return out;
#endif
}
