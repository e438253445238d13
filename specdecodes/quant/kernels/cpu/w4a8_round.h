// Rounding of inputs to levels of -127..127 by group, or taking those that are given.
#pragma once

#include "w4a8_product.h"

namespace {

// What a group is rounded by, from the bits of its largest magnitude: those compare like the numbers.
struct Step {
  float step, inverse = 0;  // NaN and infinity come out as NaN through the step

  explicit Step(uint32_t peak_bits) {
    float peak;
    std::memcpy(&peak, &peak_bits, 4);
    const bool finite = std::isfinite(peak);
    step = finite ? std::max(peak, 1e-30f) / 127.0f : NAN;
    if (finite && peak > 0) inverse = 127.0f / std::max(peak, 1e-30f);
  }
};

// Group `g` of a row, whose numbers are `x`.
inline __attribute__((always_inline)) void round_group(const Product& p, const float* x, int64_t row, int64_t g) {
  const int64_t first = row * p.in + g * p.group, apart = p.together(row) * 4;
  int8_t* levels = p.level(row, g * p.group);
  uint32_t peak_bits = 0;
  for (int64_t k = 0; k < p.group && !p.given; ++k) {
    uint32_t bits;
    std::memcpy(&bits, x + k, 4);
    peak_bits = std::max(peak_bits, bits & 0x7fffffffu);
  }
  const Step found(peak_bits);
  int32_t total = 0;
  for (int64_t k = 0; k < p.group; ++k) {
    const float v = p.given ? 0.0f : x[k] * found.inverse;
    const int8_t level = p.given ? p.given[first + k] : found.inverse > 0 ? int8_t(v + std::copysign(0.5f, v)) : 0;
    levels[k / 4 * apart + k % 4] = level;
    total += level;
  }
  const float step = p.given ? p.given_step[row * p.groups + g] : found.step;
  p.step[p.scaled(row, g)] = step;
  p.sum[p.scaled(row, g)] = step * float(total);
}

void plain_round(const Product& p, const float* x, int64_t row, int64_t g) { round_group(p, x, row, g); }

#if defined(__x86_64__)

AVX2 void avx2_round(const Product& p, const float* x, int64_t row, int64_t g) { round_group(p, x, row, g); }

// As `round_group`, sixteen inputs at a time.
VNNI void vnni_round(const Product& p, const float* x, int64_t row, int64_t g) {
  if (p.given) return round_group(p, x, row, g);
  int8_t* to = p.level(row, g * p.group);
  const int64_t apart = p.together(row) * 4;
  const __m512i sign = _mm512_set1_epi32(int32_t(0x80000000)), half = _mm512_castps_si512(_mm512_set1_ps(0.5f));
  const auto inside = [&p](int64_t k) { return __mmask16(p.group - k >= 16 ? 0xffff : (1 << (p.group - k)) - 1); };
  __m512i peaks = _mm512_setzero_si512(), totals = peaks;
  for (int64_t k = 0; k < p.group; k += 16)
    peaks = _mm512_max_epu32(peaks, _mm512_andnot_si512(sign, _mm512_maskz_loadu_epi32(inside(k), x + k)));
  const Step found(_mm512_reduce_max_epu32(peaks));
  for (int64_t k = 0; k < p.group; k += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(inside(k), x + k), _mm512_set1_ps(found.inverse));
    const __m512i away = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(v), sign), half);
    const __m512i levels = _mm512_cvttps_epi32(_mm512_add_ps(v, _mm512_castsi512_ps(away)));
    totals = _mm512_add_epi32(totals, levels);
    alignas(16) int32_t fours[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours), _mm512_cvtepi32_epi8(levels));
    for (int64_t i = 0; i < 4 && k + 4 * i < p.group; ++i, to += apart) std::memcpy(to, fours + i, 4);
  }
  p.step[p.scaled(row, g)] = found.step;
  p.sum[p.scaled(row, g)] = found.step * float(_mm512_reduce_add_epi32(totals));
}

#endif

}  // namespace
