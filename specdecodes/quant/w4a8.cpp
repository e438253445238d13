// Weights of 4 or 2 bits times activations of 8 bits or less: y = x W^T, W = value(code) * scale + offset.
//
// A value is the code itself, or what a table of sixteen numbers of at most 128 has for it. Activations are rounded to
// 8 bits by group here, or come as levels and steps of the caller's. Values are unsigned and activation levels signed,
// which is what the processors' byte dot products take, so a group's sum needs no correction:
// y = sum over groups of step * (scale * sum(code * level) + offset * sum(level)).
// Every variant reads the same layout and sums the same integers; they differ in the order of float sums at most.
//
// packed [out / 64][in / 8][4][16][4]: of four blocks of 16 outputs (the last unit may have fewer), for eight inputs at a
// time, byte i of output n holds the codes of inputs i (low half) and 4 + i (high half). Of 2 bits sixteen inputs come at
// a time, and byte i holds those of i, 4 + i, 8 + i and 12 + i, the first lowest. Read in order: four streams side by
// side keep the processor from fetching ahead.
// scale, offset [out / 16][groups][16] fp16. x [rows][in], y [rows][out] float. A group is a multiple of the inputs that
// come at a time. table [16] or null. given [rows][in] and given_step [rows][groups], or null both, and then x is rounded.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
#endif
#define UNROLL _Pragma("GCC unroll 8")

namespace {

constexpr int64_t LANES = 16;           // outputs of a block: one vector of 32-bit sums
constexpr int64_t UNIT = 4;             // blocks that lie side by side, and are handed to a thread together
constexpr int64_t ROWS = 8;             // rows that share one pass over a unit
constexpr int64_t WORTH_THREADS = 65536;  // weights

enum Variant { BEST = 0, PLAIN = 1, WITH_AVX2 = 2, WITH_VNNI = 3 };

struct Product {
  int64_t rows, in, out, groups, group, bits;
  const float* x;
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  const uint8_t* table;
  const int8_t* given;
  const float* given_step;
  float* y;
  int8_t* levels;    // [rows][in]
  float *step, *sum;  // [rows][groups]; sum is step times the sum of the group's levels

  const int8_t* level(int64_t row, int64_t k) const { return levels + row * in + k; }
  int64_t first(int64_t block) const { return block - block % UNIT; }
  // From the codes of the inputs that come at a time, of one block, to the next.
  int64_t stride(int64_t block) const { return std::min(UNIT, out / LANES - first(block)) * LANES * 4; }
  const uint8_t* codes(int64_t block) const {
    return packed + first(block) * in * (LANES * bits / 8) + (block - first(block)) * LANES * 4;
  }
  int64_t scales(int64_t block, int64_t g) const { return (block * groups + g) * LANES; }
};

// Rounds group `i` of all rows to levels of -127..127. NaN and infinity come out as NaN through the step.
inline __attribute__((always_inline)) void round_group(const Product& p, int64_t i) {
  if (p.given) {
    int32_t total = 0;
    for (int64_t k = 0; k < p.group; ++k) total += p.levels[i * p.group + k] = p.given[i * p.group + k];
    p.step[i] = p.given_step[i];
    p.sum[i] = p.step[i] * float(total);
    return;
  }
  const float* x = p.x + i * p.group;
  int8_t* levels = p.levels + i * p.group;
  uint32_t peak_bits = 0;  // magnitudes compare like their bits, and integers vectorize without -ffast-math
  for (int64_t k = 0; k < p.group; ++k) {
    uint32_t bits;
    std::memcpy(&bits, x + k, 4);
    peak_bits = std::max(peak_bits, bits & 0x7fffffffu);
  }
  float peak;
  std::memcpy(&peak, &peak_bits, 4);
  const float inverse = peak > 0 && std::isfinite(peak) ? 127.0f / std::max(peak, 1e-30f) : 0.0f;
  int32_t total = 0;
  for (int64_t k = 0; k < p.group; ++k) {
    const float v = x[k] * inverse;
    const int32_t level = inverse > 0 ? int32_t(v + std::copysign(0.5f, v)) : 0;
    levels[k] = int8_t(level);
    total += level;
  }
  p.step[i] = std::isfinite(peak) ? std::max(peak, 1e-30f) / 127.0f : NAN;
  p.sum[i] = p.step[i] * float(total);
}

float to_float(uint16_t half) {
  const float magnitude = (half & 0x7c00) ? std::ldexp(float(1024 + (half & 1023)), ((half >> 10) & 31) - 25)
                                          : std::ldexp(float(half & 1023), -24);
  return (half & 0x8000) ? -magnitude : magnitude;
}

void plain_block(const Product& p, int64_t block, int64_t row) {
  float total[LANES] = {0};
  for (int64_t g = 0; g < p.groups; ++g) {
    int32_t acc[LANES] = {0};
    const int64_t inputs = 32 / p.bits;
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += inputs) {
      const uint8_t* w = p.codes(block) + k / inputs * p.stride(block);
      const int8_t* a = p.level(row, k);
      for (int64_t n = 0; n < LANES; ++n)
        for (int64_t i = 0; i < inputs; ++i) {
          const int code = (w[n * 4 + i % 4] >> (i / 4 * p.bits)) & ((1 << p.bits) - 1);
          acc[n] += (p.table ? p.table[code] : code) * a[i];
        }
    }
    const float step = p.step[row * p.groups + g], sum = p.sum[row * p.groups + g];
    const uint16_t *scale = p.scale + p.scales(block, g), *offset = p.offset + p.scales(block, g);
    for (int64_t n = 0; n < LANES; ++n) total[n] += acc[n] * step * to_float(scale[n]) + sum * to_float(offset[n]);
  }
  std::memcpy(p.y + row * p.out + block * LANES, total, sizeof total);
}

void plain_unit(const Product& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block)
    for (int64_t row = 0; row < p.rows; ++row) plain_block(p, block, row);
}

void plain_round(const Product& p, int64_t i) { round_group(p, i); }

#if defined(__x86_64__)

inline int32_t four(const int8_t* a) {
  int32_t word;
  std::memcpy(&word, a, 4);
  return word;
}

AVX2 void avx2_round(const Product& p, int64_t i) { round_group(p, i); }
VNNI void vnni_round(const Product& p, int64_t i) { round_group(p, i); }

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
      const int64_t of_row = (row + m) * p.groups + g;
      const __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[m]), _mm256_set1_ps(p.step[of_row]));
      total[m] = _mm256_fmadd_ps(dot, scale, _mm256_fmadd_ps(_mm256_set1_ps(p.sum[of_row]), offset, total[m]));
    }
  }
  UNROLL for (int m = 0; m < M; ++m)
    _mm256_storeu_ps(p.y + (row + m) * p.out + block * LANES + half * 8, total[m]);
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

// Adds the integer sums of group `g` to the totals of M rows of a block.
template <int M>
VNNI inline void vnni_scale(const Product& p, int64_t block, int64_t g, int64_t row, const __m512i* acc, __m512* total) {
  const int64_t at = p.scales(block, g);
  const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.scale + at)));
  const __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p.offset + at)));
  UNROLL for (int m = 0; m < M; ++m) {
    const int64_t of_row = (row + m) * p.groups + g;
    const __m512 dot = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[m]), _mm512_set1_ps(p.step[of_row]));
    total[m] = _mm512_fmadd_ps(dot, scale, _mm512_fmadd_ps(_mm512_set1_ps(p.sum[of_row]), offset, total[m]));
  }
}

// M rows of N blocks, so that enough independent sums are under way.
template <int M, int N, bool TABLE, int BITS>
VNNI void vnni_tile(const Product& p, int64_t block, int64_t row) {
  constexpr int SUMS = M * N < 8 ? 2 : 1;  // two sums per output where one alone would wait for itself
  constexpr int PARTS = 8 / BITS;          // codes of a byte
  const __m512i low = _mm512_set1_epi8((1 << BITS) - 1);
  const __m512i table = TABLE ? _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.table)))
                              : _mm512_setzero_si512();
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block);
  __m512 total[N][M];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) total[n][m] = _mm512_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g) {
    __m512i acc[SUMS][N][M];
    UNROLL for (int s = 0; s < SUMS; ++s) UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int m = 0; m < M; ++m) acc[s][n][m] = _mm512_setzero_si512();
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 4 * PARTS, w += stride) {
      __m512i codes[N];
      UNROLL for (int n = 0; n < N; ++n) codes[n] = _mm512_loadu_si512(w + n * LANES * 4);
      UNROLL for (int j = 0; j < PARTS; ++j) {
        __m512i levels[M];
        UNROLL for (int m = 0; m < M; ++m) levels[m] = _mm512_set1_epi32(four(p.level(row + m, k + 4 * j)));
        UNROLL for (int n = 0; n < N; ++n) {
          __m512i values = _mm512_and_si512(j ? _mm512_srli_epi16(codes[n], BITS * j) : codes[n], low);
          if (TABLE) values = _mm512_shuffle_epi8(table, values);
          UNROLL for (int m = 0; m < M; ++m)
            acc[j % SUMS][n][m] = _mm512_dpbusd_epi32(acc[j % SUMS][n][m], values, levels[m]);
        }
      }
    }
    UNROLL for (int n = 0; n < N; ++n) {
      __m512i whole[M];
      UNROLL for (int m = 0; m < M; ++m)
        whole[m] = SUMS == 2 ? _mm512_add_epi32(acc[0][n][m], acc[SUMS - 1][n][m]) : acc[0][n][m];
      vnni_scale<M>(p, block + n, g, row, whole, total[n]);
    }
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m)
    _mm512_storeu_ps(p.y + (row + m) * p.out + (block + n) * LANES, total[n][m]);
}

// M rows of a whole unit, too many for the registers: group by group, the totals waiting in the first cache.
template <int M, bool TABLE, int BITS>
VNNI void vnni_wide(const Product& p, int64_t block, int64_t row) {
  constexpr int64_t AHEAD = 2048;  // bytes: the next group of four bits
  constexpr int PARTS = 8 / BITS;
  const __m512i low = _mm512_set1_epi8((1 << BITS) - 1);
  const __m512i table = TABLE ? _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.table)))
                              : _mm512_setzero_si512();
  const int64_t stride = p.stride(block);
  const uint8_t* w = p.codes(block);
  __m512 total[UNIT][M];
  for (int n = 0; n < UNIT; ++n) UNROLL for (int m = 0; m < M; ++m) total[n][m] = _mm512_setzero_ps();
  for (int64_t g = 0; g < p.groups; ++g, w += p.group / (4 * PARTS) * stride)
    for (int n = 0; n < UNIT; ++n) {
      const uint8_t* v = w + n * LANES * 4;
      __m512i acc[M];
      UNROLL for (int m = 0; m < M; ++m) acc[m] = _mm512_setzero_si512();
      for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 4 * PARTS, v += stride) {
        const __m512i codes = _mm512_loadu_si512(v);
        _mm_prefetch(reinterpret_cast<const char*>(v + AHEAD), _MM_HINT_T0);
        __m512i values[PARTS];
        UNROLL for (int j = 0; j < PARTS; ++j) {
          values[j] = _mm512_and_si512(j ? _mm512_srli_epi16(codes, BITS * j) : codes, low);
          if (TABLE) values[j] = _mm512_shuffle_epi8(table, values[j]);
        }
        UNROLL for (int m = 0; m < M; ++m) UNROLL for (int j = 0; j < PARTS; ++j)
          acc[m] = _mm512_dpbusd_epi32(acc[m], values[j], _mm512_set1_epi32(four(p.level(row + m, k + 4 * j))));
      }
      vnni_scale<M>(p, block + n, g, row, acc, total[n]);
    }
  for (int n = 0; n < UNIT; ++n) UNROLL for (int m = 0; m < M; ++m)
    _mm512_storeu_ps(p.y + (row + m) * p.out + (block + n) * LANES, total[n][m]);
}

template <int M, bool TABLE, int BITS>
void vnni_rows(const Product& p, int64_t first, int64_t end, int64_t row) {
  if (end - first < UNIT) {
    for (int64_t block = first; block < end; ++block) vnni_tile<M, 1, TABLE, BITS>(p, block, row);
  } else if constexpr (M <= 4) {
    vnni_tile<M, int(UNIT), TABLE, BITS>(p, first, row);
  } else {
    vnni_wide<M, TABLE, BITS>(p, first, row);
  }
}

template <bool TABLE, int BITS>
void vnni_unit(const Product& p, int64_t first, int64_t end) {
  for (int64_t row = 0; row < p.rows;) {
    int64_t take = std::min(ROWS, p.rows - row);
    if (take == 5 || take == 6) take = 4;  // two passes over a unit that the second cache holds are faster
    switch (take) {
      case 1: vnni_rows<1, TABLE, BITS>(p, first, end, row); break;
      case 2: vnni_rows<2, TABLE, BITS>(p, first, end, row); break;
      case 3: vnni_rows<3, TABLE, BITS>(p, first, end, row); break;
      case 4: vnni_rows<4, TABLE, BITS>(p, first, end, row); break;
      case 7: vnni_rows<7, TABLE, BITS>(p, first, end, row); break;
      default: vnni_rows<8, TABLE, BITS>(p, first, end, row);
    }
    row += take;
  }
}

using Unit = void (*)(const Product&, int64_t, int64_t);

template <int BITS>
Unit avx2_of(const uint8_t* table) { return table ? avx2_unit<true, BITS> : avx2_unit<false, BITS>; }

template <int BITS>
Unit vnni_of(const uint8_t* table) { return table ? vnni_unit<true, BITS> : vnni_unit<false, BITS>; }

#endif

}  // namespace

// The fastest variant that this processor and operating system run.
extern "C" int w4a8_best() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx2 && wide && __builtin_cpu_supports("avx512vnni")) return WITH_VNNI;
  if (avx2) return WITH_AVX2;
#endif
  return PLAIN;
}

extern "C" void w4a8(const float* x, const int8_t* given, const float* given_step, const uint8_t* packed,
                     const uint16_t* scale, const uint16_t* offset, const uint8_t* table, float* y, int64_t rows,
                     int64_t in, int64_t out, int64_t groups, int bits, int variant) {
  const std::unique_ptr<int8_t[]> levels(new int8_t[rows * in]);
  const std::unique_ptr<float[]> steps(new float[2 * rows * groups]);
  const Product p{rows, in, out, groups, in / groups, bits, x, packed, scale, offset, table, given, given_step, y,
                  levels.get(), steps.get(), steps.get() + rows * groups};
  auto round = plain_round;
  auto unit = plain_unit;
#if defined(__x86_64__)
  if (variant == WITH_AVX2) round = avx2_round, unit = bits == 2 ? avx2_of<2>(table) : avx2_of<4>(table);
  if (variant == WITH_VNNI) round = vnni_round, unit = bits == 2 ? vnni_of<2>(table) : vnni_of<4>(table);
#endif
  const int64_t blocks = out / LANES;
#pragma omp parallel if (in * out > WORTH_THREADS)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows * groups; ++i) round(p, i);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < blocks; first += UNIT) unit(p, first, std::min(first + UNIT, blocks));
  }
}
