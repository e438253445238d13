// What the kernels on the CPU share: the number types of a model, and functions that the compiler vectorizes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define WIDEST
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

INLINE float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
INLINE uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

INLINE float widen(float x) { return x; }
INLINE float widen(bfloat16 x) { return as_float(uint32_t(x.bits) << 16); }
INLINE float widen(float16 x) {  // the exponent's offset is made up for by a product, which subnormal numbers survive
  const uint32_t endless = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
  const float size = as_float(uint32_t(x.bits & 0x7fff) << 13) * 0x1p112f;
  return as_float(as_bits(size) | endless | uint32_t(x.bits & 0x8000) << 16);
}

// To nearest, ties to even.
INLINE void narrow(float x, float* to) { *to = x; }
INLINE void narrow(float x, bfloat16* to) {
  const uint32_t bits = as_bits(x);
  to->bits = std::isnan(x) ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void narrow(float x, float16* to) {
  const uint32_t bits = as_bits(x), size = bits & 0x7fffffff;
  uint32_t half = (size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13;
  if (size < 0x38800000) half = as_bits(as_float(size) + 0.5f) - 0x3f000000;  // subnormal: the sum rounds
  if (size >= 0x477ff000) half = size > 0x7f800000 ? 0x7e00 : 0x7c00;
  to->bits = uint16_t(half | (bits >> 16 & 0x8000));
}

// e^x for x <= 0 to a few units in the last place, in operations that vectorize; 0 where it is next to nothing.
INLINE float exponential(float x) {
  const float clipped = std::max(x, -87.0f);
  const float turns = std::nearbyint(clipped * 1.44269504f);
  const float rest = (clipped - turns * 0.693359375f) + turns * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const uint32_t power = uint32_t(int32_t(turns) + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, 4);
  return x < -87.0f ? 0.0f : sum * scale;
}

// The same in double.
INLINE double exponential(double x) {
  const double clipped = std::max(x, -700.0);
  const double turns = std::nearbyint(clipped * 1.4426950408889634);
  const double rest = (clipped - turns * 6.93145751953125e-1) - turns * 1.42860682030941723212e-6;
  double sum = 1.0 / 6227020800.0;  // Taylor's series: |rest| is at most 0.35, the next term below 1e-17
  sum = sum * rest + 1.0 / 479001600.0;
  sum = sum * rest + 1.0 / 39916800.0;
  sum = sum * rest + 1.0 / 3628800.0;
  sum = sum * rest + 1.0 / 362880.0;
  sum = sum * rest + 1.0 / 40320.0;
  sum = sum * rest + 1.0 / 5040.0;
  sum = sum * rest + 1.0 / 720.0;
  sum = sum * rest + 1.0 / 120.0;
  sum = sum * rest + 1.0 / 24.0;
  sum = sum * rest + 1.0 / 6.0;
  sum = sum * rest + 0.5;
  sum = sum * rest + 1.0;
  sum = sum * rest + 1.0;
  const uint64_t power = uint64_t(int64_t(int32_t(turns)) + 1023) << 52;
  double scale;
  std::memcpy(&scale, &power, 8);
  return x < -700.0 ? 0.0 : sum * scale;
}

}  // namespace
