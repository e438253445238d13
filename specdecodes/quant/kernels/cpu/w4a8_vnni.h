// Products with AVX512-VNNI: whole blocks at a time, bytes multiplied to sums of 32 bits.
#pragma once

#include <utility>

#include "w4a8_product.h"

#if defined(__x86_64__)

namespace {

constexpr int64_t AHEAD = 16384;  // bytes of codes that are fetched before they are needed

// acc += the dot products of four bytes each, in place: with the intrinsic gcc copies every sum once a turn.
VNNI inline __attribute__((always_inline)) void dot(__m512i& acc, __m512i values, __m512i levels) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(values), "v"(levels));
}

VNNI inline __attribute__((always_inline)) void fetch(const void* place) {
  _mm_prefetch(reinterpret_cast<const char*>(place), _MM_HINT_T1);
}

// Adds the sums of group `g`, in one part or two, to the totals of M rows of a block.
template <int M, bool FETCH>
VNNI inline __attribute__((always_inline)) void vnni_scale(const Product& p, int64_t block, int64_t g, int64_t row,
                                                           const __m512i (&sums)[M], const __m512i (&more)[M], bool two,
                                                           float* total) {
  const float *step = p.step + p.scaled(row, g), *sum = p.sum + p.scaled(row, g);
  const uint16_t *scales = p.scale + p.scales(block, g), *offsets = p.offset + p.scales(block, g);
  if (FETCH && g % 2 == 0) {  // a line has those of two groups; for the next unit, since this one's lie in short pieces
    fetch(scales + UNIT * p.groups * LANES);
    fetch(offsets + UNIT * p.groups * LANES);
  }
  const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  const __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets)));
  UNROLL for (int m = 0; m < M; ++m) {
    const __m512i whole = two ? _mm512_add_epi32(sums[m], more[m]) : sums[m];
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(step[m]));
    const __m512 before = _mm512_fmadd_ps(_mm512_set1_ps(sum[m]), offset, _mm512_load_ps(total + m * LANES));
    _mm512_store_ps(total + m * LANES, _mm512_fmadd_ps(scaled, scale, before));
  }
}

// M rows of N blocks side by side, so that enough independent sums are under way and a row's levels are fetched once for
// all blocks: the sums of group `g`, whose codes begin at `w`, scaled and added to the totals.
template <int M, int N, bool TABLE, int BITS>
VNNI inline __attribute__((always_inline)) void vnni_group(const Product& p, int64_t block, int64_t g, int64_t row,
                                                           const uint8_t* w, float* total) {
  constexpr int SUMS = M * N < 8 ? 2 : 1;  // two sums per output where one alone would wait for itself
  constexpr int PARTS = 8 / BITS;          // codes of a byte
  constexpr bool FETCH = M > 2;            // fewer rows leave the processor time to see by itself what comes
  const __m512i low = _mm512_set1_epi8((1 << BITS) - 1);
  const __m512i table = TABLE ? _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.table)))
                              : _mm512_setzero_si512();
  const int64_t stride = p.stride(block), apart = p.together(row) * 4;
  const int8_t* level = p.level(row, g * p.group);
  __m512i acc[SUMS][N][M];
  UNROLL for (int s = 0; s < SUMS; ++s) UNROLL for (int n = 0; n < N; ++n)
    UNROLL for (int m = 0; m < M; ++m) acc[s][n][m] = _mm512_setzero_si512();
  for (int64_t k = 0; k < p.group; k += 4 * PARTS, w += stride) {
    __m512i codes[N];
    UNROLL for (int n = 0; n < N; ++n) {
      codes[n] = _mm512_loadu_si512(w + n * LANES * 4);
      if (FETCH) fetch(w + n * LANES * 4 + AHEAD);
    }
    UNROLL for (int j = 0; j < PARTS; ++j, level += apart) {
      __m512i values[N];
      UNROLL for (int n = 0; n < N; ++n) {
        values[n] = _mm512_and_si512(j ? _mm512_srli_epi16(codes[n], BITS * j) : codes[n], low);
        if (TABLE) values[n] = _mm512_shuffle_epi8(table, values[n]);
      }
      UNROLL for (int m = 0; m < M; ++m) {
        const __m512i levels = _mm512_set1_epi32(four(level + 4 * m));
        UNROLL for (int n = 0; n < N; ++n) dot(acc[j % SUMS][n][m], values[n], levels);
      }
    }
  }
  UNROLL for (int n = 0; n < N; ++n)
    vnni_scale<M, FETCH>(p, block + n, g, row, acc[0][n], acc[SUMS - 1][n], SUMS == 2, total + n * M * LANES);
}

// M rows of `count` blocks, N of them at a time: group by group, the totals waiting in the first cache.
template <int M, int N, bool TABLE, int BITS>
VNNI void vnni_tile(const Product& p, int64_t first, int64_t count, int64_t row) {
  alignas(64) float total[UNIT * M * LANES] = {0};
  const int64_t step = p.group * BITS / 32 * p.stride(first);  // bytes, to the next group's codes
  const uint8_t* w = p.codes(first);
  for (int64_t g = 0; g < p.groups; ++g, w += step)
    for (int64_t n = 0; n < count; n += N)
      vnni_group<M, N, TABLE, BITS>(p, first + n, g, row, w + n * LANES * 4, total + n * M * LANES);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t m = 0; m < M; ++m) {
      float* y = p.y + (row + m) * p.apart + (first + n) * LANES;
      const __m512 sum = _mm512_load_ps(total + (n * M + m) * LANES);
      _mm512_storeu_ps(y, p.adds ? _mm512_add_ps(sum, _mm512_loadu_ps(y)) : sum);
    }
}

template <bool TABLE, int BITS, int M>
void vnni_rows(const Product& p, int64_t first, int64_t end, int64_t row) {
  constexpr int N = M > 4 ? 2 : 4;  // as the registers hold
  if (end - first == UNIT) vnni_tile<M, N, TABLE, BITS>(p, first, UNIT, row);
  else vnni_tile<M, 1, TABLE, BITS>(p, first, end - first, row);
}

template <bool TABLE, int BITS, int... M>
void vnni_unit_of(const Product& p, int64_t first, int64_t end, std::integer_sequence<int, M...>) {
  using Rows = void (*)(const Product&, int64_t, int64_t, int64_t);
  static constexpr Rows by_count[] = {vnni_rows<TABLE, BITS, M + 1>...};
  for (int64_t row = 0; row < p.rows; row += ROWS) by_count[p.together(row) - 1](p, first, end, row);
}

template <bool TABLE, int BITS>
void vnni_unit(const Product& p, int64_t first, int64_t end) {
  vnni_unit_of<TABLE, BITS>(p, first, end, std::make_integer_sequence<int, ROWS>());
}

}  // namespace

#endif
