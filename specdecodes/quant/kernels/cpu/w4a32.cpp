// 4-bit weights times activations in fp32 or bf16: y = x W^T, W = value(code) * scale + offset, summed in fp32.
//
// A value is what a table of sixteen floats has for a code. Layout as in w4a8.cpp: packed [out / 64][in / 8][4][16][4],
// where byte i of an output holds the codes of inputs i (low half) and 4 + i (high half), and the last unit may have
// fewer than four blocks of sixteen outputs; scale, offset [out / 16][groups][16] fp16. With `zeros` the offset is that
// of the codes, W = (value(code) + offset) * scale, and what it is worth is computed in fp32.
// x [rows][in], y [rows][out]. A group is a multiple of 8 inputs. Every row is summed in the same order whatever the
// number of rows, so no row depends on its neighbours or its place.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,f16c")))
#define PAIRS __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,f16c")))
#endif
#define UNROLL _Pragma("GCC unroll 8")

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t UNIT = 4;  // blocks that lie side by side, and are handed to a thread together
constexpr int64_t WORTH_THREADS = 65536;  // weights

enum Variant { PLAIN = 1, WITH_AVX2 = 2, WITH_AVX512 = 3 };

struct FloatProduct {
  int64_t rows, in, out, groups, group;
  bool zeros;
  const float* x;
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  const float* table;
  float *y, *sum;  // sum [rows][groups]: of the group's inputs

  int64_t first(int64_t block) const { return block - block % UNIT; }
  // From the codes of eight inputs of a block to those of the next eight.
  int64_t stride(int64_t block) const { return std::min(UNIT, out / LANES - first(block)) * LANES * 4; }
  const uint8_t* codes(int64_t block) const {
    return packed + first(block) * in * (LANES / 2) + (block - first(block)) * LANES * 4;
  }
  int64_t scales(int64_t block, int64_t g) const { return (block * groups + g) * LANES; }
};

// The input, of eight, whose code the half byte `place` of an output's four bytes holds.
constexpr int input_of(int place) { return place / 2 + (place % 2 ? 4 : 0); }

void sum_group(const FloatProduct& p, int64_t i) {
  float part[8] = {0};  // by input modulo 8: one order for every machine
  for (int64_t k = 0; k < p.group; ++k) part[k % 8] += p.x[i * p.group + k];
  p.sum[i] = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

float to_float(uint16_t half) {
  const float magnitude = (half & 0x7c00) ? std::ldexp(float(1024 + (half & 1023)), ((half >> 10) & 31) - 25)
                                          : std::ldexp(float(half & 1023), -24);
  return (half & 0x8000) ? -magnitude : magnitude;
}

void plain_block(const FloatProduct& p, int64_t block) {
  for (int64_t row = 0; row < p.rows; ++row) {
    float total[LANES] = {0};
    for (int64_t g = 0; g < p.groups; ++g) {
      float acc[LANES] = {0};
      for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 8) {
        const uint8_t* w = p.codes(block) + k / 8 * p.stride(block);
        const float* x = p.x + row * p.in + k;
        for (int64_t n = 0; n < LANES; ++n)
          for (int64_t i = 0; i < 4; ++i)
            acc[n] += p.table[w[n * 4 + i] & 15] * x[i] + p.table[w[n * 4 + i] >> 4] * x[4 + i];
      }
      const float sum = p.sum[row * p.groups + g];
      const uint16_t *scale = p.scale + p.scales(block, g), *offset = p.offset + p.scales(block, g);
      for (int64_t n = 0; n < LANES; ++n) {
        const float worth = p.zeros ? to_float(offset[n]) * to_float(scale[n]) : to_float(offset[n]);
        total[n] += acc[n] * to_float(scale[n]) + sum * worth;
      }
    }
    std::memcpy(p.y + row * p.out + block * LANES, total, sizeof total);
  }
}

void plain_unit(const FloatProduct& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block) plain_block(p, block);
}

#if defined(__x86_64__)

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
    UNROLL for (int n = 0; n < N; ++n) {
      const int64_t at = p.scales(block + n, g);
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.scale + at)));
      __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.offset + at)));
      if (p.zeros) offset = _mm512_mul_ps(offset, scale);
      UNROLL for (int m = 0; m < M; ++m) {
        const __m512 sum = _mm512_set1_ps(p.sum[(row + m) * p.groups + g]);
        const __m512 dot = _mm512_add_ps(acc[0][n][m], acc[1][n][m]);
        total[n][m] = _mm512_fmadd_ps(dot, scale, _mm512_fmadd_ps(sum, offset, total[n][m]));
      }
    }
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
  int64_t row = 0;
  for (; row + 8 <= p.rows; row += 8) wide_rows<8>(p, first, end, row);
  for (; row + 4 <= p.rows; row += 4) wide_rows<4>(p, first, end, row);
  for (; row + 2 <= p.rows; row += 2) wide_rows<2>(p, first, end, row);
  for (; row < p.rows; ++row) wide_rows<1>(p, first, end, row);
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
    UNROLL for (int n = 0; n < N; ++n) {
      const int64_t at = p.scales(block + n, g);
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.scale + at)));
      __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.offset + at)));
      if (p.zeros) offset = _mm512_mul_ps(offset, scale);
      UNROLL for (int m = 0; m < M; ++m) {
        const __m512 sum = _mm512_set1_ps(p.sum[(row + m) * p.groups + g]);
        total[n][m] = _mm512_fmadd_ps(acc[n][m], scale, _mm512_fmadd_ps(sum, offset, total[n][m]));
      }
    }
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
  int64_t row = 0;
  for (; row + 8 <= q.p.rows; row += 8) pairs_rows<8>(q, first, end, row);
  for (; row + 4 <= q.p.rows; row += 4) pairs_rows<4>(q, first, end, row);
  for (; row + 2 <= q.p.rows; row += 2) pairs_rows<2>(q, first, end, row);
  for (; row < q.p.rows; ++row) pairs_rows<1>(q, first, end, row);
}

#endif

float widen(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

uint16_t narrow(float x) {  // of a number that bf16 holds
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t(bits >> 16);
}

}  // namespace

extern "C" void w4a32(const float* x, const uint8_t* packed, const uint16_t* scale, const uint16_t* offset,
                      const float* table, float* y, int64_t rows, int64_t in, int64_t out, int64_t groups,
                      int zeros, int variant) {
  const std::unique_ptr<float[]> sums(new float[rows * groups]);
  const FloatProduct p{rows, in, out, groups, in / groups, zeros != 0, x, packed, scale, offset, table, y, sums.get()};
  auto unit = plain_unit;
#if defined(__x86_64__)
  if (variant == WITH_AVX2) unit = avx2_unit;
  if (variant == WITH_AVX512) unit = wide_unit;
#endif
  for (int64_t i = 0; i < rows * groups; ++i) sum_group(p, i);
  const int64_t blocks = out / LANES;
#pragma omp parallel for schedule(static) if (in * out > WORTH_THREADS)
  for (int64_t first = 0; first < blocks; first += UNIT) unit(p, first, std::min(first + UNIT, blocks));
}

// The same on x in bf16, where bf16 holds the table's values too.
extern "C" void w4a32_short(const uint16_t* x, const uint8_t* packed, const uint16_t* scale, const uint16_t* offset,
                            const float* table, float* y, int64_t rows, int64_t in, int64_t out, int64_t groups,
                            int zeros, int variant) {
  const std::unique_ptr<float[]> wide(new float[rows * in]);
  for (int64_t i = 0; i < rows * in; ++i) wide[i] = widen(x[i]);
#if defined(__x86_64__)
  if (variant == WITH_AVX512 && __builtin_cpu_supports("avx512bf16")) {
    const std::unique_ptr<float[]> sums(new float[rows * groups]);
    const std::unique_ptr<uint32_t[]> pairs(new uint32_t[rows * in / 2]);
    PairProduct q{{rows, in, out, groups, in / groups, zeros != 0, wide.get(), packed, scale, offset, table, y, sums.get()},
                  pairs.get(), {}};
    for (int i = 0; i < 32; ++i) q.table[i] = narrow(table[i % 16]);
    for (int64_t i = 0; i < rows * in / 2; ++i) {
      const uint16_t* from = x + i / 4 * 8 + input_of(int(i % 4));
      pairs[i] = uint32_t(from[0]) | uint32_t(from[2]) << 16;
    }
    for (int64_t i = 0; i < rows * groups; ++i) sum_group(q.p, i);
    const int64_t blocks = out / LANES;
#pragma omp parallel for schedule(static) if (in * out > WORTH_THREADS)
    for (int64_t first = 0; first < blocks; first += UNIT) pairs_unit(q, first, std::min(first + UNIT, blocks));
    return;
  }
#endif
  w4a32(wide.get(), packed, scale, offset, table, y, rows, in, out, groups, zeros, variant);
}
