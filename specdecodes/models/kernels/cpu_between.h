// What lies between the linears of a layer, on numbers of one row: norms, rotary positions, SwiGLU.
#pragma once

#include "cpu_numbers.h"

namespace {

// One function for each type, which the compiler clones for the machines it may run on.
template <typename T>
INLINE void widen_each(const T* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}
template <typename T>
INLINE void narrow_each(const float* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}
WIDEST void widened(const bfloat16* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void widened(const float16* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void widened(const float* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void narrowed(const float* from, bfloat16* to, int64_t count) { narrow_each(from, to, count); }
WIDEST void narrowed(const float* from, float16* to, int64_t count) { narrow_each(from, to, count); }
WIDEST void narrowed(const float* from, float* to, int64_t count) { narrow_each(from, to, count); }

WIDEST float squared(const float* x, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

WIDEST void scaled(const float* x, float scale, const float* weight, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

// A head in place: its norm, if there is one, and its halves turned against each other.
template <typename T>
INLINE void turn(float* x, const float* norm, double eps, const T* cos, const T* sin, int64_t dim) {
  const int64_t half = dim / 2;
  float *low = x, *high = x + half, sum = 0;
  if (norm) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < dim; ++i) sum += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(sum / float(dim) + float(eps));
    for (int64_t i = 0; i < dim; ++i) x[i] = x[i] * scale * norm[i];
  }
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * widen(cos[i]) - b * widen(sin[i]);
    high[i] = b * widen(cos[half + i]) + a * widen(sin[half + i]);
  }
}
#define TURNED(T)                                                                                        \
  WIDEST void turned(float* x, const float* norm, double eps, const T* cos, const T* sin, int64_t dim) { \
    turn(x, norm, eps, cos, sin, dim);                                                                   \
  }
TURNED(bfloat16)
TURNED(float16)
TURNED(float)

WIDEST void add(float* x, const float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

// out = silu(gate) * up
WIDEST void gated(const float* gate, const float* up, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float tail = exponential(-std::fabs(gate[i]));
    const float share = (gate[i] < 0 ? tail : 1.0f) / (1.0f + tail);
    out[i] = gate[i] * share * up[i];
  }
}

}  // namespace
