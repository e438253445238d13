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
#include <utility>

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
constexpr int64_t AHEAD = 8192;         // bytes of codes, and groups of scales, that are fetched before they are needed
constexpr int64_t GROUPS_AHEAD = 4;
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
  int8_t* levels;     // of each tile of ROWS rows (the last may have fewer) [in / 4][rows][4]
  float *step, *sum;  // of each tile [groups][rows]; sum is step times the sum of the group's levels

  int64_t first_row(int64_t row) const { return row - row % ROWS; }
  int64_t together(int64_t row) const { return std::min(ROWS, rows - first_row(row)); }
  // Of four inputs from k on.
  int8_t* level(int64_t row, int64_t k) const {
    return levels + first_row(row) * in + k * together(row) + (row - first_row(row)) * 4;
  }
  int64_t scaled(int64_t row, int64_t g) const {
    return first_row(row) * groups + g * together(row) + row - first_row(row);
  }
  int64_t first(int64_t block) const { return block - block % UNIT; }
  // From the codes of the inputs that come at a time, of one block, to the next.
  int64_t stride(int64_t block) const { return std::min(UNIT, out / LANES - first(block)) * LANES * 4; }
  const uint8_t* codes(int64_t block) const {
    return packed + first(block) * in * (LANES * bits / 8) + (block - first(block)) * LANES * 4;
  }
  int64_t scales(int64_t block, int64_t g) const { return (block * groups + g) * LANES; }
};

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

// Rounds group `g` of a row to levels of -127..127, or takes those that are given.
inline __attribute__((always_inline)) void round_group(const Product& p, int64_t row, int64_t g) {
  const int64_t first = row * p.in + g * p.group, apart = p.together(row) * 4;
  int8_t* levels = p.level(row, g * p.group);
  uint32_t peak_bits = 0;
  for (int64_t k = 0; k < p.group && !p.given; ++k) {
    uint32_t bits;
    std::memcpy(&bits, p.x + first + k, 4);
    peak_bits = std::max(peak_bits, bits & 0x7fffffffu);
  }
  const Step found(peak_bits);
  int32_t total = 0;
  for (int64_t k = 0; k < p.group; ++k) {
    const float v = p.given ? 0.0f : p.x[first + k] * found.inverse;
    const int8_t level = p.given ? p.given[first + k] : found.inverse > 0 ? int8_t(v + std::copysign(0.5f, v)) : 0;
    levels[k / 4 * apart + k % 4] = level;
    total += level;
  }
  const float step = p.given ? p.given_step[row * p.groups + g] : found.step;
  p.step[p.scaled(row, g)] = step;
  p.sum[p.scaled(row, g)] = step * float(total);
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
      for (int64_t n = 0; n < LANES; ++n)
        for (int64_t i = 0; i < inputs; ++i) {
          const int code = (w[n * 4 + i % 4] >> (i / 4 * p.bits)) & ((1 << p.bits) - 1);
          acc[n] += (p.table ? p.table[code] : code) * p.level(row, k + i / 4 * 4)[i % 4];
        }
    }
    const float step = p.step[p.scaled(row, g)], sum = p.sum[p.scaled(row, g)];
    const uint16_t *scale = p.scale + p.scales(block, g), *offset = p.offset + p.scales(block, g);
    for (int64_t n = 0; n < LANES; ++n) total[n] += acc[n] * step * to_float(scale[n]) + sum * to_float(offset[n]);
  }
  std::memcpy(p.y + row * p.out + block * LANES, total, sizeof total);
}

void plain_unit(const Product& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block)
    for (int64_t row = 0; row < p.rows; ++row) plain_block(p, block, row);
}

void plain_round(const Product& p, int64_t row, int64_t g) { round_group(p, row, g); }

#if defined(__x86_64__)

inline int32_t four(const int8_t* a) {
  int32_t word;
  std::memcpy(&word, a, 4);
  return word;
}

AVX2 void avx2_round(const Product& p, int64_t row, int64_t g) { round_group(p, row, g); }
// As `round_group`, sixteen inputs at a time.
VNNI void vnni_round(const Product& p, int64_t row, int64_t g) {
  if (p.given) return round_group(p, row, g);
  const float* x = p.x + row * p.in + g * p.group;
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

// acc += the dot products of four bytes each, in place: with the intrinsic gcc copies every sum once a turn.
VNNI inline __attribute__((always_inline)) void dot(__m512i& acc, __m512i values, __m512i levels) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(values), "v"(levels));
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
      if (FETCH) _mm_prefetch(reinterpret_cast<const char*>(w + n * LANES * 4 + AHEAD), _MM_HINT_T1);
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
  const float *step = p.step + p.scaled(row, g), *sum = p.sum + p.scaled(row, g);
  UNROLL for (int n = 0; n < N; ++n) {
    const uint16_t *scales = p.scale + p.scales(block + n, g), *offsets = p.offset + p.scales(block + n, g);
    if (FETCH) _mm_prefetch(reinterpret_cast<const char*>(scales + GROUPS_AHEAD * LANES), _MM_HINT_T0);
    if (FETCH) _mm_prefetch(reinterpret_cast<const char*>(offsets + GROUPS_AHEAD * LANES), _MM_HINT_T0);
    const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
    const __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets)));
    UNROLL for (int m = 0; m < M; ++m) {
      const __m512i whole = SUMS == 2 ? _mm512_add_epi32(acc[0][n][m], acc[SUMS - 1][n][m]) : acc[0][n][m];
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(step[m]));
      float* to = total + (n * M + m) * LANES;
      const __m512 before = _mm512_fmadd_ps(_mm512_set1_ps(sum[m]), offset, _mm512_load_ps(to));
      _mm512_store_ps(to, _mm512_fmadd_ps(scaled, scale, before));
    }
  }
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
    for (int64_t m = 0; m < M; ++m)
      _mm512_storeu_ps(p.y + (row + m) * p.out + (first + n) * LANES, _mm512_load_ps(total + (n * M + m) * LANES));
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
    for (int64_t i = 0; i < rows * groups; ++i) round(p, i / groups, i % groups);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < blocks; first += UNIT) unit(p, first, std::min(first + UNIT, blocks));
  }
}
