// Products with AVX2: half a block at a time, bytes multiplied to sums of 16 bits.
#pragma once

#include "w4a8_product.h"

#if defined(__x86_64__)

namespace {

// M rows of half a block, 8 outputs.
template <int M, bool TABLE, int BITS>
AVX2 void avx2_half(const Product& p, int64_t block, int64_t half, int64_t row) {
  constexpr int PARTS = 8 / BITS;  // codes of a byte
  const __m256i low = _mm256_set1_epi8((1 << BITS) - 1), ones = _mm256_set1_epi16(1);
  const __m256i table = TABLE ? _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.table)))
                              : _mm256_setzero_si256();
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block) + half * 32;
  __m256 total[M];
  UNROLL for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g) {
    __m256i acc[M];
    UNROLL for (int m = 0; m < M; ++m) acc[m] = _mm256_setzero_si256();
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 4 * PARTS, w += stride) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
      __m256i values[PARTS];
      UNROLL for (int j = 0; j < PARTS; ++j) {
        values[j] = _mm256_and_si256(j ? _mm256_srli_epi16(codes, BITS * j) : codes, low);
        if (TABLE) values[j] = _mm256_shuffle_epi8(table, values[j]);
      }
      UNROLL for (int m = 0; m < M; ++m) {
        __m256i narrow = _mm256_setzero_si256();
        UNROLL for (int j = 0; j < PARTS; ++j) {
          const __m256i levels = _mm256_set1_epi32(four(p.level(row + m, k + 4 * j)));
          const __m256i pairs = _mm256_maddubs_epi16(values[j], levels);
          // Eight products of at most 3 * 127, or four of 15 * 127, stay far below the 16 bits at which these sums would
          // saturate; of products of at most 128 * 127 two do.
          if (TABLE) acc[m] = _mm256_add_epi32(acc[m], _mm256_madd_epi16(pairs, ones));
          else narrow = j ? _mm256_add_epi16(narrow, pairs) : pairs;
        }
        if (!TABLE) acc[m] = _mm256_add_epi32(acc[m], _mm256_madd_epi16(narrow, ones));
      }
    }
    const int64_t at = p.scales(block, g) + half * 8;
    const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.scale + at)));
    const __m256 offset = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.offset + at)));
    UNROLL for (int m = 0; m < M; ++m) {
      const int64_t of_row = p.scaled(row + m, g);
      const __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[m]), _mm256_set1_ps(p.step[of_row]));
      total[m] = _mm256_fmadd_ps(dot, scale, _mm256_fmadd_ps(_mm256_set1_ps(p.sum[of_row]), offset, total[m]));
    }
  }
  UNROLL for (int m = 0; m < M; ++m) {
    float* y = p.y + (row + m) * p.apart + block * LANES + half * 8;
    _mm256_storeu_ps(y, p.adds ? _mm256_add_ps(total[m], _mm256_loadu_ps(y)) : total[m]);
  }
}

template <bool TABLE, int BITS>
void avx2_unit(const Product& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block)
    for (int64_t half = 0; half < 2; ++half) {
      int64_t row = 0;
      for (; row + 4 <= p.rows; row += 4) avx2_half<4, TABLE, BITS>(p, block, half, row);
      for (; row + 2 <= p.rows; row += 2) avx2_half<2, TABLE, BITS>(p, block, half, row);
      for (; row < p.rows; ++row) avx2_half<1, TABLE, BITS>(p, block, half, row);
    }
}

}  // namespace

#endif
