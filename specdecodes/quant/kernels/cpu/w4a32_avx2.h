// Products with AVX2: half a block at a time.
#pragma once

#include "w4a32_product.h"

#if defined(__x86_64__)

namespace {

// M rows of half a block, 8 outputs.
template <int M>
AVX2 void avx2_half(const FloatProduct& p, int64_t block, int64_t half, int64_t row) {
  const __m256 low = _mm256_loadu_ps(p.table), high = _mm256_loadu_ps(p.table + 8);
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block) + half * 32;
  __m256 total[M];
  UNROLL for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g) {
    __m256 acc[M];
    UNROLL for (int m = 0; m < M; ++m) acc[m] = _mm256_setzero_ps();
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 8, w += stride) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
      UNROLL for (int place = 0; place < 8; ++place) {
        const __m256i code = _mm256_srli_epi32(codes, 4 * place);
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // the code's bit 3 is its sign
        const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                              _mm256_permutevar8x32_ps(high, code), upper);
        UNROLL for (int m = 0; m < M; ++m) {
          const __m256 x = _mm256_broadcast_ss(p.x + (row + m) * p.in + k + input_of(place));
          acc[m] = _mm256_fmadd_ps(value, x, acc[m]);
        }
      }
    }
    const int64_t at = p.scales(block, g) + half * 8;
    const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.scale + at)));
    __m256 offset = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.offset + at)));
    if (p.zeros) offset = _mm256_mul_ps(offset, scale);
    UNROLL for (int m = 0; m < M; ++m) {
      const __m256 sum = _mm256_set1_ps(p.sum[(row + m) * p.groups + g]);
      total[m] = _mm256_fmadd_ps(acc[m], scale, _mm256_fmadd_ps(sum, offset, total[m]));
    }
  }
  UNROLL for (int m = 0; m < M; ++m)
    _mm256_storeu_ps(p.y + (row + m) * p.out + block * LANES + half * 8, total[m]);
}

void avx2_unit(const FloatProduct& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block)
    for (int64_t half = 0; half < 2; ++half) {
      int64_t row = 0;
      for (; row + 4 <= p.rows; row += 4) avx2_half<4>(p, block, half, row);
      for (; row < p.rows; ++row) avx2_half<1>(p, block, half, row);
    }
}

}  // namespace

#endif
