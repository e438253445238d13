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

// Queries [count][dims / 2], weights [count][STRIPE / 2], block [dims / 2][BLOCK], or by PAIRS for each BLOCK of dims.
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
    all.resize(std::max<size_t>(all.size(), count * (dims + STRIPE) / 2 + dims * PAIRS));
    more.resize(std::max<size_t>(more.size(), count * (dims + STRIPE)));
    block = all.data();
    weights = block + dims * PAIRS;
    queries = weights + count * STRIPE / 2;
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
  INLINE void add(int64_t count, const uint8_t* values, int64_t dim, int64_t slots, int64_t first) {
    lay_values(reinterpret_cast<const bfloat16*>(values), dim, slots, block);
    for (int64_t d = 0; d < dims; d += BLOCK)
      multiply_all<false>(count, weights + first / 2, STRIPE / 2, block + d / 2 * BLOCK, PAIRS, 1, sums + d, dims);
  }
  INLINE void give(int64_t q, int64_t dim, uint8_t* out) {
    ROWS<Whole<bfloat16>, float>.give(sums + q * dims, 1 / total[q], dim, out);
  }
};

BF16 INLINE __m512 all(float number) { return _mm512_set1_ps(number); }

// e^x as `exponential` has it.
BF16 INLINE __m512 exponentials(__m512 x) {
  const __m512 clipped = _mm512_max_ps(all(-87.0f), x);  // the second of two where one is no number
  const __m512 turns = _mm512_roundscale_ps(_mm512_mul_ps(clipped, all(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  const __m512 most = _mm512_fnmadd_ps(turns, all(0.693359375f), clipped);
  const __m512 rest = _mm512_fmadd_ps(turns, all(2.12194440e-4f), most);
  __m512 sum = _mm512_fmadd_ps(all(1.9875691500e-4f), rest, all(1.3981999507e-3f));
  sum = _mm512_fmadd_ps(sum, rest, all(8.3334519073e-3f));
  sum = _mm512_fmadd_ps(sum, rest, all(4.1665795894e-2f));
  sum = _mm512_fmadd_ps(sum, rest, all(1.6666665459e-1f));
  sum = _mm512_fmadd_ps(sum, rest, all(5.0000001201e-1f));
  sum = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(sum, rest), rest, rest), all(1.0f));
  const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(turns), _mm512_set1_epi32(127)), 23);
  return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(x, all(-87.0f), _CMP_NLT_UQ), sum, _mm512_castsi512_ps(power));
}

// To bfloat16, in the upper half of a number.
BF16 INLINE __m512i kept(__m512 weights) {
  const __m512i bits = _mm512_castps_si512(weights), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i above = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_and_si512(above, _mm512_set1_epi32(int32_t(0xffff0000)));
}

// `weigh` of the template, sixteen slots at a time; weights become pairs, the second slot's in the lower half.
BF16 void weigh(const uint8_t* visible, int64_t count, int64_t q, Pairs& way) {
  const int64_t whole = (count + BLOCK - 1) / BLOCK * BLOCK;
  const float *const row = way.scores + q * STRIPE, before = way.top[q];
  uint32_t* const to = way.weights + q * STRIPE / 2;
  __mmask16 seen[STRIPE / 16];
  __m512 peaks = all(before);
  for (int64_t slot = 0; slot < whole; slot += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(visible + slot));
    seen[slot / 16] = _mm_test_epi8_mask(bytes, bytes);
    peaks = _mm512_mask_max_ps(peaks, seen[slot / 16], _mm512_loadu_ps(row + slot), peaks);
  }
  const float peak = _mm512_reduce_max_ps(peaks), base = peak == -INFINITY ? 0 : peak;
  alignas(64) uint16_t upper[32];  // of two vectors' numbers
  for (int i = 0; i < 32; ++i) upper[i] = uint16_t(i % 2 ? 2 * i - 1 : 2 * i + 3);
  const __m512i order = _mm512_load_si512(upper);
  __m512d added[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (int64_t slot = 0; slot < whole; slot += BLOCK) {
    __m512i weights[2];
    for (int half = 0; half < 2; ++half) {
      const __m512 ahead = _mm512_sub_ps(_mm512_loadu_ps(row + slot + half * 16), all(base));
      weights[half] = _mm512_maskz_mov_epi32(seen[slot / 16 + half], kept(exponentials(ahead)));
      const __m512 sixteen = _mm512_castsi512_ps(weights[half]);
      added[0] = _mm512_add_pd(added[0], _mm512_cvtps_pd(_mm512_castps512_ps256(sixteen)));
      added[1] = _mm512_add_pd(added[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(sixteen, 1)));
    }
    _mm512_storeu_si512(to + slot / 2, _mm512_permutex2var_epi16(weights[0], order, weights[1]));
  }
  const float fade = exponential(before - base);
  way.total[q] = way.total[q] * fade + float(_mm512_reduce_add_pd(_mm512_add_pd(added[0], added[1])));
  if (peak != before)
    for (int64_t d = 0; d < way.dims; ++d) way.sums[q * way.dims + d] *= fade;
  way.top[q] = peak;
}

}  // namespace

#endif
