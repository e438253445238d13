// Products with AVX-512: whole blocks in fp32, and in pairs of bf16 where the processor multiplies those.
#pragma once

#include <type_traits>

#include "w4a32_product.h"

#if defined(__x86_64__)

namespace {

// Rows eight, four, two and one at a time: `tile(M, row)` takes M of them.
template <class Tile>
void by_rows(int64_t rows, Tile tile) {
  int64_t row = 0;
  for (; row + 8 <= rows; row += 8) tile(std::integral_constant<int, 8>(), row);
  for (; row + 4 <= rows; row += 4) tile(std::integral_constant<int, 4>(), row);
  for (; row + 2 <= rows; row += 2) tile(std::integral_constant<int, 2>(), row);
  for (; row < rows; ++row) tile(std::integral_constant<int, 1>(), row);
}

// Adds what group g is worth to M rows of N blocks, whose values times inputs are summed in `dot`.
template <int M, int N>
__attribute__((always_inline)) WIDE inline void add_group(const FloatProduct& p, int64_t block, int64_t row, int64_t g,
                                                          const __m512 (&dot)[N][M], __m512 (&total)[N][M]) {
  UNROLL for (int n = 0; n < N; ++n) {
    const int64_t at = p.scales(block + n, g);
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.scale + at)));
    __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.offset + at)));
    if (p.zeros) offset = _mm512_mul_ps(offset, scale);
    UNROLL for (int m = 0; m < M; ++m) {
      const __m512 sum = _mm512_set1_ps(p.sum[(row + m) * p.groups + g]);
      total[n][m] = _mm512_fmadd_ps(dot[n][m], scale, _mm512_fmadd_ps(sum, offset, total[n][m]));
    }
  }
}

// M rows of N blocks. Two sums an output, of the inputs at even and at odd half bytes, in every row alike.
template <int M, int N>
WIDE void wide_tile(const FloatProduct& p, int64_t block, int64_t row) {
  const __m512 table = _mm512_loadu_ps(p.table);
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block);
  __m512 total[N][M];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) total[n][m] = _mm512_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g) {
    __m512 acc[2][N][M];
    UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m)
      acc[0][n][m] = acc[1][n][m] = _mm512_setzero_ps();
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 8, w += stride) {
      __m512i codes[N];
      UNROLL for (int n = 0; n < N; ++n) codes[n] = _mm512_loadu_si512(w + n * LANES * 4);
      UNROLL for (int place = 0; place < 8; ++place) {
        UNROLL for (int n = 0; n < N; ++n) {
          // The permutation looks at the last four bits of an index alone.
          const __m512 value = _mm512_permutexvar_ps(_mm512_srli_epi32(codes[n], 4 * place), table);
          UNROLL for (int m = 0; m < M; ++m) {
            const __m512 x = _mm512_set1_ps(p.x[(row + m) * p.in + k + input_of(place)]);
            acc[place % 2][n][m] = _mm512_fmadd_ps(value, x, acc[place % 2][n][m]);
          }
        }
      }
    }
    UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m)
      acc[0][n][m] = _mm512_add_ps(acc[0][n][m], acc[1][n][m]);
    add_group(p, block, row, g, acc[0], total);
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m)
    _mm512_storeu_ps(p.y + (row + m) * p.out + (block + n) * LANES, total[n][m]);
}

template <int M>
void wide_rows(const FloatProduct& p, int64_t first, int64_t end, int64_t row) {
  constexpr int N = M <= 2 ? int(UNIT) : 1;  // few rows take the whole unit, in order of memory
  if (end - first == N) return wide_tile<M, N>(p, first, row);
  for (int64_t block = first; block < end; ++block) wide_tile<M, 1>(p, block, row);
}

void wide_unit(const FloatProduct& p, int64_t first, int64_t end) {
  by_rows(p.rows, [&](auto count, int64_t row) { wide_rows<count()>(p, first, end, row); });
}

// Activations in bf16, which holds the values too: two products at a time, exact, their sums in fp32. The first bits of a
// half word, after a shift by 4 * `place`, are the code of input input_of(place), those of its neighbour that of two on.
struct PairProduct {
  FloatProduct p;
  const uint32_t* pairs;  // [rows][in / 8][4]: inputs input_of(place) and two on
  uint16_t table[32];     // twice: an index has five bits
};

// M rows of N blocks.
template <int M, int N>
PAIRS void pairs_tile(const PairProduct& q, int64_t block, int64_t row) {
  const FloatProduct& p = q.p;
  const __m512i table = _mm512_loadu_si512(q.table);
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block);
  __m512 total[N][M];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) total[n][m] = _mm512_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g) {
    __m512 acc[N][M];
    UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) acc[n][m] = _mm512_setzero_ps();
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 8, w += stride) {
      __m512i codes[N];
      UNROLL for (int n = 0; n < N; ++n) codes[n] = _mm512_loadu_si512(w + n * LANES * 4);
      UNROLL for (int place = 0; place < 4; ++place) {
        __m512bh x[M];
        UNROLL for (int m = 0; m < M; ++m)
          x[m] = (__m512bh)_mm512_set1_epi32(int(q.pairs[((row + m) * p.in + k) / 2 + place]));
        UNROLL for (int n = 0; n < N; ++n) {
          const __m512i shifted = place ? _mm512_srli_epi16(codes[n], 4 * place) : codes[n];
          const __m512bh value = (__m512bh)_mm512_permutexvar_epi16(shifted, table);
          UNROLL for (int m = 0; m < M; ++m) acc[n][m] = _mm512_dpbf16_ps(acc[n][m], value, x[m]);
        }
      }
    }
    add_group(p, block, row, g, acc, total);
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m)
    _mm512_storeu_ps(p.y + (row + m) * p.out + (block + n) * LANES, total[n][m]);
}

template <int M>
void pairs_rows(const PairProduct& q, int64_t first, int64_t end, int64_t row) {
  constexpr int N = M <= 4 ? UNIT : UNIT / 2;  // as many sums as the registers hold
  if (end - first == UNIT) {
    for (int64_t block = first; block < end; block += N) pairs_tile<M, N>(q, block, row);
    return;
  }
  for (int64_t block = first; block < end; ++block) pairs_tile<M, 1>(q, block, row);
}

void pairs_unit(const PairProduct& q, int64_t first, int64_t end) {
  by_rows(q.p.rows, [&](auto count, int64_t row) { pairs_rows<count()>(q, first, end, row); });
}

}  // namespace

#endif
