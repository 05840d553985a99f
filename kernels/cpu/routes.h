// Where a route reads. See route_rows in ../routes.py.

#pragma once
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

// The token that route k of `a` reads at position t: by its table, else by adding its step modulo l - 1, from the end if < 0.
template <class Operands>
static inline int64_t row_at(const Operands& a, int64_t k, int64_t t) {
    if (a.rows) return a.rows[k * a.l + t];
    const int64_t step = a.steps[k] < 0 ? -a.steps[k] : a.steps[k];
    if (a.steps[k] < 0) t = a.l - 1 - t;
    return step == 1 || t == a.l - 1 ? t : t * step % (a.l - 1);
}
