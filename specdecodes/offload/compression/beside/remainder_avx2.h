// Restoring weights 32 at a time, by AVX2 and BMI2; what is done is told by Plain.

#pragma once

#include "../ways.h"
#include "remainder_plain.h"

#if X86

namespace {

struct Bits {
  // A table for each sixteen columns at least.
  static INLINE bool take(const Guess& g) { return g.width / g.groups % 16 == 0; }
  static INLINE bool makes_tables(const Guess&) { return false; }

  // 32 columns of eight rows; bytes of four rows and four eights of inputs are a square of 32-bit words.
  MIDDLE static inline void take_square(const uint8_t* packed, int64_t stride, uint8_t* codes, int64_t pitch) {
    const __m256i four = _mm256_set1_epi8(15);
    __m256i in[4];
    for (int i = 0; i < 4; ++i) in[i] = _mm256_loadu_si256((const __m256i*)(packed + i * stride));
    const __m256i a = _mm256_unpacklo_epi32(in[0], in[1]), b = _mm256_unpackhi_epi32(in[0], in[1]);
    const __m256i c = _mm256_unpacklo_epi32(in[2], in[3]), d = _mm256_unpackhi_epi32(in[2], in[3]);
    const __m256i rows[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d),
                             _mm256_unpackhi_epi64(b, d)};
    for (int row = 0; row < 4; ++row) {
      const __m256i low = _mm256_and_si256(rows[row], four);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(rows[row], 4), four);
      const __m256i first = _mm256_unpacklo_epi32(low, high), second = _mm256_unpackhi_epi32(low, high);
      _mm256_storeu2_m128i((__m128i*)(codes + (row + 4) * pitch), (__m128i*)(codes + row * pitch), first);
      _mm256_storeu2_m128i((__m128i*)(codes + (row + 4) * pitch + 16), (__m128i*)(codes + row * pitch + 16), second);
    }
  }
  MIDDLE static inline void take_lanes(const uint8_t* packed, int64_t stride, const Guess& guess, uint8_t* codes,
                                       int64_t pitch) {
    int64_t column = 0;
    for (; column + 32 <= guess.width; column += 32, packed += 4 * stride) {
      take_square(packed, stride, codes + column, pitch);
      take_square(packed + 32, stride, codes + 8 * pitch + column, pitch);
    }
    Plain::take_eights(packed, stride, column, guess.width, codes, pitch);
  }
  MIDDLE static inline void take_halves(const uint8_t* packed, int64_t rows, const Guess& guess, uint8_t* codes,
                                        int64_t pitch) {
    Plain::take_halves(packed, rows, guess, codes, pitch);
  }

  MIDDLE static inline __m256i pair(const uint8_t* first, const uint8_t* second) {
    return _mm256_set_m128i(_mm_load_si128((const __m128i*)second), _mm_load_si128((const __m128i*)first));
  }
  // High bytes of closed weights, and 15 in `open` for all others.
  MIDDLE static inline void close(const Line& line, int64_t column, const uint8_t* low, uint8_t* high, uint8_t* open) {
    const Table &a = line.tables[line.group[column / 8]], &b = line.tables[line.group[column / 8 + 2]];
    const __m256i code = _mm256_loadu_si256((const __m256i*)(line.codes + column));
    const __m256i byte = _mm256_loadu_si256((const __m256i*)(low + column));
    const __m256i highs = _mm256_shuffle_epi8(pair(a.high, b.high), code);
    const __m256i least = _mm256_shuffle_epi8(pair(a.low, b.low), code);
    const __m256i enough = _mm256_cmpeq_epi8(_mm256_max_epu8(byte, least), byte);  // -1 where nothing is carried
    const __m256i carried = _mm256_add_epi8(_mm256_add_epi8(highs, _mm256_set1_epi8(1)), enough);
    const __m256i none = _mm256_cmpeq_epi8(highs, _mm256_setzero_si256());
    _mm256_store_si256((__m256i*)high, carried);
    _mm256_store_si256((__m256i*)open, _mm256_and_si256(none, _mm256_set1_epi8(15)));
  }
  // The nibbles of 64 columns, each where `open` has 15.
  MIDDLE static inline const uint8_t* spread(const uint8_t* tail, uint8_t* open) {
    uint64_t count = 0;
    for (int i = 0; i < CHUNK; i += 8) {
      uint64_t places, bits;
      std::memcpy(&places, open + i, 8), std::memcpy(&bits, tail + count / 2, 8);
      const uint64_t nibbles = _pdep_u64(bits >> (4 * (count % 2)), places);
      std::memcpy(open + i, &nibbles, 8);
      count += _mm_popcnt_u64(places) / 4;
    }
    return tail + (count + 1) / 2;
  }
  MIDDLE static inline void join(const Line& line, int64_t column, const uint8_t* low, const uint8_t* high,
                                 const uint8_t* open, uint16_t* words) {
    const Table &a = line.tables[line.group[column / 8]], &b = line.tables[line.group[column / 8 + 2]];
    const __m256i byte = _mm256_loadu_si256((const __m256i*)(low + column));
    const __m256i closed = _mm256_load_si256((const __m256i*)high);
    const __m256i opened = _mm256_shuffle_epi8(pair(a.open, b.open), _mm256_load_si256((const __m256i*)open));
    const __m256i none = _mm256_cmpeq_epi8(closed, _mm256_setzero_si256());
    const __m256i all = _mm256_blendv_epi8(closed, opened, none);
    const __m256i first = _mm256_unpacklo_epi8(byte, all), second = _mm256_unpackhi_epi8(byte, all);
    _mm256_storeu_si256((__m256i*)words, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256((__m256i*)(words + 16), _mm256_permute2x128_si256(first, second, 0x31));
  }
  // Step by step for all columns, so that what was written is there when it is read.
  MIDDLE static inline const uint8_t* columns(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                              const uint8_t* tail, const uint8_t* limit, uint16_t* words) {
    alignas(32) uint8_t high[SEGMENT], open[SEGMENT];
    const int64_t whole = (end - column) / CHUNK * CHUNK;
    for (int64_t i = 0; i < whole; i += 32) close(line, column + i, low, high + i, open + i);
    for (int64_t i = 0; i < whole; i += CHUNK) {
      tail = spread(tail, open + i);
      if (tail > limit) return nullptr;
    }
    for (int64_t i = 0; i < whole; i += 32) join(line, column + i, low, high + i, open + i, words + i);
    return Plain::columns(line, column + whole, end, low, tail, limit, words + whole);
  }
  MIDDLE static inline void move(const uint8_t* line, uint8_t* to) {  // past the caches
    _mm256_stream_si256((__m256i*)to, _mm256_load_si256((const __m256i*)line));
    _mm256_stream_si256((__m256i*)(to + 32), _mm256_load_si256((const __m256i*)(line + 32)));
  }
};

}  // namespace
#endif
