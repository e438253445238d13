// Restoring weights 64 at a time, by AVX-512 with byte permutations; what is done is told by Plain.

#pragma once

#include "../ways.h"
#include "remainder_plain.h"

#if X86

namespace {

#define UNROLL _Pragma("GCC unroll 8")

constexpr int64_t AHEAD = 4096;  // bytes of the low plane that are called for early

struct Vectors {
  // The rows 0, 1, 4, 5 ... 13, of which each of `in` has eight columns, to `codes`.
  WIDE static inline void transposed(const __m512i in[8], uint8_t* codes, int64_t pitch) {
    __m512i even[4], odd[4];
    UNROLL for (int i = 0; i < 4; ++i) {
      even[i] = _mm512_unpacklo_epi64(in[2 * i], in[2 * i + 1]);
      odd[i] = _mm512_unpackhi_epi64(in[2 * i], in[2 * i + 1]);
    }
    for (int half = 0; half < 2; ++half) {
      const __m512i* pair = half ? odd : even;
      const __m512i a = _mm512_shuffle_i64x2(pair[0], pair[1], 0x88), b = _mm512_shuffle_i64x2(pair[2], pair[3], 0x88);
      const __m512i c = _mm512_shuffle_i64x2(pair[0], pair[1], 0xdd), d = _mm512_shuffle_i64x2(pair[2], pair[3], 0xdd);
      uint8_t* const out = codes + half * pitch;
      _mm512_storeu_si512(out, _mm512_shuffle_i64x2(a, b, 0x88));
      _mm512_storeu_si512(out + 4 * pitch, _mm512_shuffle_i64x2(c, d, 0x88));
      _mm512_storeu_si512(out + 8 * pitch, _mm512_shuffle_i64x2(a, b, 0xdd));
      _mm512_storeu_si512(out + 12 * pitch, _mm512_shuffle_i64x2(c, d, 0xdd));
    }
  }
  // Whether it is at home here: a table for each sixteen columns at least.
  static INLINE bool take(const Guess& g) { return g.width / g.groups % 16 == 0; }
  // Tables of whole chunks are made where they are used.
  static INLINE bool makes_tables(const Guess& g) { return g.width / g.groups % CHUNK == 0; }

  // Codes from nibbles: as they are, or where `made` as 4 * code + 2, the byte in which a table's word has its low one.
  struct Codes {
    __m128i up, down;
    __m512i kept, more;
    WIDE explicit Codes(bool made)
        : up(_mm_cvtsi32_si128(made ? 2 : 0)), down(_mm_cvtsi32_si128(made ? 2 : 4)),
          kept(_mm512_set1_epi8(made ? 60 : 15)), more(_mm512_set1_epi8(made ? 2 : 0)) {}
    // 0xea: (first and second) or third.
    WIDE __m512i low(__m512i pairs) const {
      return _mm512_ternarylogic_epi64(_mm512_sll_epi16(pairs, up), kept, more, 0xea);
    }
    WIDE __m512i high(__m512i pairs) const {
      return _mm512_ternarylogic_epi64(_mm512_srl_epi16(pairs, down), kept, more, 0xea);
    }
  };
  WIDE static inline void take_lanes(const uint8_t* packed, int64_t stride, const Guess& guess, uint8_t* codes,
                                     int64_t pitch) {
    const Codes from(makes_tables(guess));
    int64_t column = 0;
    for (; column + CHUNK <= guess.width; column += CHUNK, packed += 8 * stride) {
      __m512i first[8], second[8];
      UNROLL for (int i = 0; i < 8; ++i) {
        const __m512i both = _mm512_loadu_si512(packed + i * stride), low = from.low(both), high = from.high(both);
        first[i] = _mm512_unpacklo_epi32(low, high), second[i] = _mm512_unpackhi_epi32(low, high);
      }
      transposed(first, codes + column, pitch), transposed(second, codes + 2 * pitch + column, pitch);
    }
    Plain::take_eights(packed, stride, column, guess.width, codes, pitch);
  }
  WIDE static inline void take_halves(const uint8_t* packed, int64_t rows, const Guess& guess, uint8_t* codes,
                                      int64_t pitch) {
    const Codes from(makes_tables(guess));
    const int64_t half = guess.width / 2;
    for (int64_t row = 0; row < rows; ++row, packed += half, codes += pitch)
      for (int64_t i = 0; i < half; i += 64) {
        const __mmask64 valid = half - i < 64 ? (uint64_t(1) << (half - i)) - 1 : ~uint64_t(0);
        const __m512i both = _mm512_maskz_loadu_epi8(valid, packed + i);
        _mm512_mask_storeu_epi8(codes + i, valid, from.low(both));
        _mm512_mask_storeu_epi8(codes + half + i, valid, from.high(both));
      }
  }
  WIDE static inline __m512i four_of(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    const __m512i first = _mm512_castsi128_si512(_mm_load_si128((const __m128i*)a));
    const __m512i second = _mm512_inserti32x4(first, _mm_load_si128((const __m128i*)b), 1);
    const __m512i third = _mm512_inserti32x4(second, _mm_load_si128((const __m128i*)c), 2);
    return _mm512_inserti32x4(third, _mm_load_si128((const __m128i*)d), 3);
  }

  // The words of a table as `make` does, in the upper halves of 32 bits.
  WIDE static inline __m512i words_of(const Group& g, int64_t row, __m512 codes) {
    const __m512i from_half = _mm512_set1_epi32(0x00800000), sign = _mm512_set1_epi32(0x80000000);
    const __m512 guess = _mm512_fmadd_ps(codes, _mm512_set1_ps(g.scale[row]), _mm512_set1_ps(g.offset[row]));
    const __m512 half = _mm512_set1_ps(g.half[row]), size = _mm512_abs_ps(guess), least = _mm512_sub_ps(size, half);
    const __m512i from = _mm512_castps_si512(least), to = _mm512_castps_si512(_mm512_add_ps(size, half));
    const __mmask16 near = _mm512_cmple_epu32_mask(_mm512_sub_epi16(to, from), _mm512_set1_epi32(0x00fcffff));
    const __mmask16 closed = _mm512_mask_cmp_ps_mask(near, least, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512i begin = _mm512_sub_epi16(_mm512_avg_epu16(from, to), from_half);
    // 0xca: the bits of `sign` from the second, all others from the third.
    return _mm512_maskz_ternarylogic_epi32(closed, sign, _mm512_castps_si512(guess), begin, 0xca);
  }
  WIDE static inline __m512i opens_of(const Group& g, int64_t row) {
    const __m512i below = _mm512_set4_epi32(0x00060504, 0x03020100, 0x00060504, 0x03020100);
    const __m512i present = _mm512_set4_epi32(0x00ffffff, -1, 0x00ffffff, -1);
    const __m512i signs = _mm512_set4_epi32(0x80808080, 0x80808080, 0, 0);
    const __m512i steps = _mm512_sub_epi8(_mm512_set1_epi32(g.top[row]), below);
    return _mm512_ternarylogic_epi32(steps, present, signs, 0xea);  // (first and second) or third
  }

  // 64 columns: the words of their table where MADE, else four tables that were made before.
  template <bool MADE>
  WIDE static inline const uint8_t* chunk(const Line& line, int64_t column, __m512 codes, const uint8_t* low,
                                          const uint8_t* tail, uint16_t* words) {
    const uint32_t* const g = line.group + column / 8;
    const Table *const a = line.tables + g[0], *const b = line.tables + g[2], *const c = line.tables + g[4],
                *const d = line.tables + g[6];
    const __m512i code = _mm512_loadu_si512(line.codes + column), bytes = _mm512_loadu_si512(low + column);
    __m512i high, least, opens;
    if (MADE) {
      const __m512i table = words_of(line.groups[*g], line.row, codes);
      high = _mm512_permutexvar_epi8(_mm512_or_si512(code, _mm512_set1_epi8(1)), table);
      least = _mm512_permutexvar_epi8(code, table);
      opens = opens_of(line.groups[*g], line.row);
    } else {
      high = _mm512_shuffle_epi8(four_of(a->high, b->high, c->high, d->high), code);
      least = _mm512_shuffle_epi8(four_of(a->low, b->low, c->low, d->low), code);
      opens = four_of(a->open, b->open, c->open, d->open);
    }
    const uint64_t open = _mm512_testn_epi8_mask(high, high), carry = _mm512_cmplt_epu8_mask(bytes, least);
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)tail));
    // 0xa8: (first or second) and third.
    const __m512i nibbles = _mm512_ternarylogic_epi64(pairs, _mm512_slli_epi16(pairs, 4), _mm512_set1_epi8(15), 0xa8);
    high = _mm512_mask_sub_epi8(high, carry, high, _mm512_set1_epi8(-1));
    high = _mm512_mask_shuffle_epi8(high, open, opens, _mm512_maskz_expand_epi8(open, nibbles));
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i first = _mm512_permutexvar_epi64(order, bytes), second = _mm512_permutexvar_epi64(order, high);
    _mm512_storeu_si512(words, _mm512_unpacklo_epi8(first, second));
    _mm512_storeu_si512(words + 32, _mm512_unpackhi_epi8(first, second));
    __builtin_prefetch(low + column + AHEAD);
    return tail + (_mm_popcnt_u64(open) + 1) / 2;
  }
  template <bool MADE>
  WIDE static inline const uint8_t* columns(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                            const uint8_t* tail, const uint8_t* limit, uint16_t* words) {
    const __m512 counts = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 codes = _mm512_sub_ps(counts, _mm512_set1_ps(line.less));
    for (; column + CHUNK <= end && tail <= limit; column += CHUNK, words += CHUNK)
      tail = chunk<MADE>(line, column, codes, low, tail, words);
    return Plain::columns(line, column, end, low, tail, limit, words);
  }
  WIDE static inline const uint8_t* columns(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                            const uint8_t* tail, const uint8_t* limit, uint16_t* words) {
    return line.tables ? columns<false>(line, column, end, low, tail, limit, words)
                       : columns<true>(line, column, end, low, tail, limit, words);
  }
  WIDE static inline void move(const uint8_t* line, uint8_t* to) {  // past the caches
    _mm512_stream_si512((__m512i*)to, _mm512_load_si512(line));
  }
};

}  // namespace
#endif
