// Attention on rows of bfloat16 with the processor's dot products of pairs (AVX512-BF16), accumulated in float.
//
// Scores are the very products; weights are rounded to bfloat16 before they meet the values, and what they are divided by
// is the sum of the rounded ones. Pairs of dims lie side by side of a query and a key, pairs of slots of weights and
// values: a number of 32 bits each, and a block holds one of every slot, or of every dim.
#pragma once

#include "cpu_softmax.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define PAIRS_RUN  // where the processor has them
#define BF16 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define APART __attribute__((noinline)) BF16  // inlined into what attends, it runs out of registers: 1.7 times the time

namespace {

constexpr int64_t PAIRS = BLOCK / 2;

// to[q][0..BLOCK) = scale * (sum of factors[q][k] * block[k][0..BLOCK)) of N queries, or that much more.
template <int N, bool FRESH>
BF16 INLINE void multiply(const uint32_t* factors, int64_t factors_apart, const uint32_t* block, int64_t pairs,
                          float scale, float* to, int64_t to_apart) {
  __m512 sum[N][2];
  for (int q = 0; q < N; ++q)
    for (int half = 0; half < 2; ++half)
      sum[q][half] = FRESH ? _mm512_setzero_ps() : _mm512_loadu_ps(to + q * to_apart + half * 16);
  for (int64_t k = 0; k < pairs; ++k) {
    const __m512i low = _mm512_loadu_si512(block + k * BLOCK), high = _mm512_loadu_si512(block + k * BLOCK + 16);
    for (int q = 0; q < N; ++q) {
      const __m512i factor = _mm512_set1_epi32(int32_t(factors[q * factors_apart + k]));
      // In place: with the intrinsic gcc copies every sum once a turn.
      asm("vdpbf16ps %2, %1, %0" : "+v"(sum[q][0]) : "v"(low), "v"(factor));
      asm("vdpbf16ps %2, %1, %0" : "+v"(sum[q][1]) : "v"(high), "v"(factor));
    }
  }
  for (int q = 0; q < N; ++q)
    for (int half = 0; half < 2; ++half)
      _mm512_storeu_ps(to + q * to_apart + half * 16,
                       FRESH ? _mm512_mul_ps(sum[q][half], _mm512_set1_ps(scale)) : sum[q][half]);
}

template <bool FRESH>
APART void multiply_all(int64_t queries, const uint32_t* factors, int64_t factors_apart, const uint32_t* block,
                        int64_t pairs, float scale, float* to, int64_t to_apart) {
  int64_t q = 0;
  for (; q + 8 <= queries; q += 8)
    multiply<8, FRESH>(factors + q * factors_apart, factors_apart, block, pairs, scale, to + q * to_apart, to_apart);
  for (; q + 3 <= queries; q += 3)
    multiply<3, FRESH>(factors + q * factors_apart, factors_apart, block, pairs, scale, to + q * to_apart, to_apart);
  for (; q < queries; ++q)
    multiply<1, FRESH>(factors + q * factors_apart, factors_apart, block, pairs, scale, to + q * to_apart, to_apart);
}

// Sixteen rows of sixteen numbers each to columns.
BF16 INLINE void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {  // of four rows, column c, 4 + c, 8 + c and 12 + c lie in a number each
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd), e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// A row's BLOCK numbers from `first` on; zero behind its end, and of rows that are not there.
BF16 INLINE __m512i part(const bfloat16* row, int64_t first, int64_t dim, bool there) {
  const int64_t left = there ? dim - first : 0;
  return _mm512_maskz_loadu_epi16(left >= BLOCK ? ~0u : (1u << left) - 1, row + first);
}

// Pairs of dims of `slots` keys, by slot.
APART void lay_keys(const bfloat16* keys, int64_t dim, int64_t slots, uint32_t* block) {
  for (int64_t first = 0; first < dim; first += BLOCK)
    for (int64_t half = 0; half < BLOCK; half += 16) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) rows[i] = part(keys + (half + i) * dim, first, dim, half + i < slots);
      transpose(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(block + (first / 2 + i) * BLOCK + half, rows[i]);
    }
}

// Pairs of `slots` values, by dim; the second lies first, since the processor adds a pair's upper product before its lower
// one: so a sum goes from slot to slot, wherever pairs begin.
APART void lay_values(const bfloat16* values, int64_t dim, int64_t slots, uint32_t* block) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; ++i) order[0][i] = i / 2 + i % 2 * 32, order[1][i] = 16 + i / 2 + i % 2 * 32;
  const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
  for (int64_t first = 0; first < dim; first += BLOCK)
    for (int64_t pair = 0; pair < PAIRS; ++pair) {
      const bfloat16* row = values + 2 * pair * dim;
      const __m512i one = part(row, first, dim, 2 * pair < slots), two = part(row + dim, first, dim, 2 * pair + 1 < slots);
      uint32_t* const to = block + (first / 2 + pair) * BLOCK;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(two, low, one));
      _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(two, high, one));
    }
}

// Queries [count][dims / 2], weights [count][PAIRS], block [dims / 2][BLOCK], or by PAIRS for each BLOCK of dims.
struct Pairs {
  using Sums = float;
  std::vector<uint32_t> all;
  std::vector<float> more;
  int64_t dims = 0;
  uint32_t *queries = nullptr, *weights = nullptr, *block = nullptr;
  float *sums = nullptr, *scores = nullptr, scale = 0;
  float top[TILE], total[TILE];

  static bool run_here() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  INLINE void fit(int64_t count, int64_t dim) {
    dims = (dim + BLOCK - 1) / BLOCK * BLOCK;
    all.resize(std::max<size_t>(all.size(), count * (dims / 2 + PAIRS) + dims * PAIRS));
    more.resize(std::max<size_t>(more.size(), count * (dims + STRIPE)));
    block = all.data();
    weights = block + dims * PAIRS;
    queries = weights + count * PAIRS;
    scores = more.data();
    sums = scores + count * STRIPE;
    std::fill(queries, queries + count * dims / 2, 0);
  }
  INLINE void take(int64_t q, const uint8_t* query, int64_t dim, double by) {
    std::memcpy(queries + q * dims / 2, query, dim * sizeof(bfloat16));
    scale = float(by);
  }
  INLINE void score(int64_t count, const uint8_t* keys, int64_t dim, int64_t slots, int64_t first) {
    lay_keys(reinterpret_cast<const bfloat16*>(keys), dim, slots, block);
    multiply_all<true>(count, queries, dims / 2, block, dims / 2, scale, scores + first, STRIPE);
  }
  static INLINE float kept(float weight) {
    const uint32_t bits = as_bits(weight);
    return as_float((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
  }
  INLINE void add(int64_t count, const uint8_t* values, int64_t dim, int64_t slots, int64_t first) {
    lay_values(reinterpret_cast<const bfloat16*>(values), dim, slots, block);
    for (int64_t q = 0; q < count; ++q)
      for (int64_t pair = 0; pair < PAIRS; ++pair) {
        const float* const two = scores + q * STRIPE + first + 2 * pair;
        weights[q * PAIRS + pair] = as_bits(two[1]) >> 16 | (as_bits(two[0]) & 0xffff0000);
      }
    for (int64_t d = 0; d < dims; d += BLOCK)
      multiply_all<false>(count, weights, PAIRS, block + d / 2 * BLOCK, PAIRS, 1, sums + d, dims);
  }
  INLINE void give(int64_t q, int64_t dim, uint8_t* out) {
    ROWS<Whole<bfloat16>, float>.give(sums + q * dims, 1 / total[q], dim, out);
  }
};

}  // namespace

#endif
