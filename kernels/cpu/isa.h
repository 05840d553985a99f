// Compiles the file named by KERNEL for each instruction set and lets call(function, arguments) take the best that
// this processor has. KERNEL is included inside a namespace and uses the vectors of simd.h.

#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define VIMAMBA_X86
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__clang__)
#define VIMAMBA_PRAGMA(text) _Pragma(#text)
#define VIMAMBA_TARGET(isa) VIMAMBA_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define VIMAMBA_END_TARGET _Pragma("clang attribute pop")
#else
#define VIMAMBA_PRAGMA(text) _Pragma(#text)
#define VIMAMBA_TARGET(isa) _Pragma("GCC push_options") VIMAMBA_PRAGMA(GCC target(isa))
#define VIMAMBA_END_TARGET _Pragma("GCC pop_options")
#endif

// clang-format off
#ifdef VIMAMBA_X86
#define LANES 16
VIMAMBA_TARGET("avx512f,avx512dq,avx2,fma")
namespace avx512 {
#include "simd.h"
#include KERNEL
}
VIMAMBA_END_TARGET
#undef LANES
#define LANES 8
VIMAMBA_TARGET("avx2,fma")
namespace avx2 {
#include "simd.h"
#include KERNEL
}
VIMAMBA_END_TARGET
#undef LANES
#endif
#define LANES 4
namespace generic {
#include "simd.h"
#include KERNEL
}
#undef LANES
// clang-format on

namespace isa {
enum Level { GENERIC, AVX2, AVX512 };

// The best level, or the one that VIMAMBA_CPU asks for if this processor has it.
inline Level level() {
    static const Level chosen = [] {
#ifdef VIMAMBA_X86
        const char* asked = std::getenv("VIMAMBA_CPU");
        const std::string most = asked ? asked : "avx512";
        __builtin_cpu_init();
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
        if (avx512 && most == "avx512") return AVX512;
        if (avx2 && most != "generic") return AVX2;
#endif
        return GENERIC;
    }();
    return chosen;
}
}  // namespace isa

#ifdef VIMAMBA_X86
#define VIMAMBA_CALL(function, ...)                                 \
    (isa::level() == isa::AVX512 ? avx512::function(__VA_ARGS__)    \
     : isa::level() == isa::AVX2 ? avx2::function(__VA_ARGS__)      \
                                 : generic::function(__VA_ARGS__))
#else
#define VIMAMBA_CALL(function, ...) generic::function(__VA_ARGS__)
#endif
