// Lossless compression of 16-bit floating-point weights, and its inverse in three ways; the format is in codec.h.

#include "../ways.h"
#include "codec.h"

#include <algorithm>
#include <functional>

namespace {

constexpr int64_t SHARE = 32;  // groups that a thread expands at a time

// ---- compressing

INLINE uint8_t exponent_of(uint16_t word, uint32_t kind) { return kind == BFLOAT16 ? word >> 7 : (word >> 10) & 31; }

// Writes codes of one level; returns how many bytes wait for the next, which are moved to the front of `symbols`.
int64_t put_level(uint8_t* symbols, int64_t count, const uint8_t* rank, int first, uint8_t* codes) {
  int64_t left = 0;
  std::memset(codes, 0, quarter(count));
  for (int64_t i = 0; i < count; ++i) {
    const int code = std::min(rank[symbols[i]] - first, 3);
    codes[i / 4] |= uint8_t(code << (2 * (i % 4)));
    symbols[left] = symbols[i];
    left += code == 3;
  }
  return left;
}

void split(const uint16_t* words, uint8_t* block, const Planes& at, int64_t group, uint32_t kind, uint8_t* symbols) {
  uint8_t* const low = block + at.low + group * GROUP;
  if (kind == BFLOAT16) {
    for (int64_t i = 0; i < GROUP; ++i) {
      symbols[i] = uint8_t(words[i] >> 7);
      low[i] = uint8_t((words[i] >> 8 & 0x80) | (words[i] & 0x7f));
    }
    return;
  }
  uint8_t *const mantissas = block + at.mantissas + group * GROUP / 4, *const signs = block + at.signs + group * GROUP / 8;
  std::memset(mantissas, 0, GROUP / 4), std::memset(signs, 0, GROUP / 8);
  for (int64_t i = 0; i < GROUP; ++i) {
    symbols[i] = words[i] >> 10 & 31, low[i] = uint8_t(words[i]);
    mantissas[i / 4] |= uint8_t((words[i] >> 8 & 3) << (2 * (i % 4)));
    signs[i / 8] |= uint8_t((words[i] >> 15) << (i % 8));
  }
}

// Exponents by how often they occur.
void order_by_count(const uint8_t* symbols, uint8_t* order) {
  uint32_t keys[256] = {};  // a count, and the exponent, such that the smaller of equals comes first
  for (int64_t i = 0; i < GROUP; ++i) keys[symbols[i]] += 256;
  for (int i = 0; i < 256; ++i) keys[i] += 255 - i;
  std::partial_sort(keys, keys + 3 * LEVELS, keys + 256, std::greater<uint32_t>());
  for (int i = 0; i < 3 * LEVELS; ++i) order[i] = uint8_t(255 - keys[i] % 256);
}

// Returns where the tail ends.
int64_t put_group(const uint16_t* words, uint8_t* block, const Planes& at, int64_t group, int64_t tail, uint32_t kind) {
  uint8_t symbols[GROUP], rank[256];
  Entry e = {};
  split(words, block, at, group, kind, symbols);
  order_by_count(symbols, e.exponents);
  std::memset(rank, 3 * LEVELS, 256);
  for (int i = 0; i < 3 * LEVELS; ++i) rank[e.exponents[i]] = uint8_t(i);
  const int64_t second = put_level(symbols, GROUP, rank, 0, block + at.codes + group * GROUP / 4);
  int64_t third = 0, fourth = 0;
  for (int64_t i = 0; i < second; ++i) third += rank[symbols[i]] > 5, fourth += rank[symbols[i]] > 8;
  uint8_t* end = block + tail;
  e.tail = uint32_t(tail), e.fourth = uint16_t(second);
  if (quarter(second) + quarter(third) + fourth < second) {
    put_level(symbols, second, rank, 3, end), end += quarter(second);
    put_level(symbols, third, rank, 6, end), end += quarter(third);
    e.second = uint16_t(second), e.third = uint16_t(third), e.fourth = uint16_t(fourth);
  }
  std::memcpy(end, symbols, e.fourth), end += e.fourth;
  tail += whole(tail_bytes(e));
  std::memset(end, 0, block + tail - end);
  e.check = check_of(block, at, e, group, kind);
  std::memcpy(block + sizeof(Header) + group * sizeof e, &e, sizeof e);
  return tail;
}

// ---- expanding: one level, and the weights, each in three ways

// `count` codes to bytes: `exponents` where a code is below 3, else the next of `escapes`; returns how many were.
struct Plain {
  static INLINE int64_t level(const uint8_t* codes, int64_t count, const uint8_t* exponents, const uint8_t* escapes,
                              uint8_t* out) {
    const uint8_t* const first = escapes;
    for (int64_t i = 0; i < count; ++i) {
      const int code = codes[i / 4] >> (2 * (i % 4)) & 3;
      out[i] = code < 3 ? exponents[code] : *escapes;
      escapes += code == 3;
    }
    return escapes - first;
  }
  static INLINE void bfloat16s(const uint8_t* low, const uint8_t* exponents, uint16_t* out) {
    for (int64_t i = 0; i < GROUP; ++i)
      out[i] = uint16_t((low[i] & 0x80) << 8 | exponents[i] << 7 | (low[i] & 0x7f));
  }
  static INLINE void float16s(const uint8_t* low, const uint8_t* exponents, const uint8_t* mantissas,
                              const uint8_t* signs, uint16_t* out) {
    for (int64_t i = 0; i < GROUP; ++i) {
      const int high = (signs[i / 8] >> (i % 8) & 1) << 7 | exponents[i] << 2 | (mantissas[i / 4] >> (2 * (i % 4)) & 3);
      out[i] = uint16_t(high << 8 | low[i]);
    }
  }
};

#if X86
struct Bits : Plain {  // eight codes at a time, spread over the bytes of a word
  MIDDLE static inline int64_t level(const uint8_t* codes, int64_t count, const uint8_t* exponents,
                                     const uint8_t* escapes, uint8_t* out) {
    constexpr uint64_t ONES = 0x0101010101010101;
    const uint8_t* const first = escapes;
    const uint64_t zero = exponents[0] * ONES, one = exponents[1] * ONES, two = exponents[2] * ONES;
    for (int64_t i = 0; i < count; i += 8) {
      uint16_t packed;
      uint64_t next;
      std::memcpy(&packed, codes + i / 4, 2);
      if (count - i < 8) packed &= uint16_t((1 << (2 * (count - i))) - 1);
      std::memcpy(&next, escapes, 8);
      const uint64_t bit0 = _pdep_u64(_pext_u64(packed, 0x5555), ONES), bit1 = _pdep_u64(_pext_u64(packed, 0xaaaa), ONES);
      const uint64_t escaped = (bit0 & bit1) * 255, ones = (bit0 & ~bit1) * 255, twos = (bit1 & ~bit0) * 255;
      const uint64_t bytes = (zero & ~(escaped | ones | twos)) | (one & ones) | (two & twos) | _pdep_u64(next, escaped);
      std::memcpy(out + i, &bytes, 8);
      escapes += _mm_popcnt_u64(bit0 & bit1);
    }
    return escapes - first;
  }
};

struct Vectors : Plain {  // 64 at a time
  WIDE static inline __m512i pairs(const uint8_t* packed) {  // 64 bytes of which the last two bits count
    const __m512i part = _mm512_setr_epi32(0x00000100, 0, 0x00000302, 0, 0x00000504, 0, 0x00000706, 0, 0x00000908, 0,
                                           0x00000b0a, 0, 0x00000d0c, 0, 0x00000f0e, 0);
    const __m512i shifts = _mm512_set1_epi64(0x0e0c0a0806040200);
    const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)packed));
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, _mm512_shuffle_epi8(all, part)), _mm512_set1_epi8(3));
  }
  WIDE static inline __m512i looked_up(__m512i codes, __m512i exponents, const uint8_t*& escapes, uint64_t valid) {
    const uint64_t escaped = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(3)) & valid;
    const __m512i next = _mm512_loadu_si512(escapes);
    escapes += _mm_popcnt_u64(escaped);
    return _mm512_mask_expand_epi8(_mm512_shuffle_epi8(exponents, codes), escaped, next);
  }
  WIDE static inline __m512i table(const uint8_t* exponents) {
    return _mm512_set1_epi32(exponents[0] | exponents[1] << 8 | exponents[2] << 16);
  }
  WIDE static inline int64_t level(const uint8_t* codes, int64_t count, const uint8_t* exponents,
                                   const uint8_t* escapes, uint8_t* out) {
    const uint8_t* const first = escapes;
    const __m512i known = table(exponents);
    for (int64_t i = 0; i < count; i += 64) {
      const uint64_t valid = count - i < 64 ? (uint64_t(1) << (count - i)) - 1 : ~uint64_t(0);
      _mm512_store_si512(out + i, looked_up(pairs(codes + i / 4), known, escapes, valid));
    }
    return escapes - first;
  }
  WIDE static inline void store(__m512i low, __m512i high, uint16_t* out) {  // bytes of 64 words, past the caches
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    low = _mm512_permutexvar_epi64(order, low), high = _mm512_permutexvar_epi64(order, high);
    _mm512_stream_si512((__m512i*)out, _mm512_unpacklo_epi8(low, high));
    _mm512_stream_si512((__m512i*)(out + 32), _mm512_unpackhi_epi8(low, high));
  }
  WIDE static inline void bfloat16s(const uint8_t* low, const uint8_t* exponents, uint16_t* out) {
    const __m512i sign = _mm512_set1_epi8(char(0x80));
    for (int64_t i = 0; i < GROUP; i += 64) {
      const __m512i rest = _mm512_loadu_si512(low + i), exponent = _mm512_load_si512(exponents + i);
      // 0xd8: the bits of `sign` from the second, all others from the first.
      const __m512i high = _mm512_ternarylogic_epi64(_mm512_srli_epi16(exponent, 1), rest, sign, 0xd8);
      store(_mm512_ternarylogic_epi64(rest, _mm512_slli_epi16(exponent, 7), sign, 0xd8), high, out + i);
    }
  }
  WIDE static inline void float16s(const uint8_t* low, const uint8_t* exponents, const uint8_t* mantissas,
                                   const uint8_t* signs, uint16_t* out) {
    for (int64_t i = 0; i < GROUP; i += 64) {
      uint64_t negative;
      std::memcpy(&negative, signs + i / 8, 8);
      const __m512i exponent = _mm512_slli_epi16(_mm512_load_si512(exponents + i), 2);
      const __m512i high = _mm512_or_si512(exponent, pairs(mantissas + i / 4)), sign = _mm512_set1_epi8(char(0x80));
      store(_mm512_loadu_si512(low + i), _mm512_mask_add_epi8(high, negative, high, sign), out + i);
    }
  }
};
#endif

// 0, or 1 for a damaged group. Nothing outside the block is read, whatever it holds.
template <typename Way>
INLINE int expand_group(const uint8_t* block, const Planes& at, int64_t bytes, int64_t group, uint32_t kind,
                        uint16_t* out) {
  alignas(64) uint8_t level1[GROUP + 64], level2[GROUP + 64], level3[GROUP + 64], last[GROUP + 64];
  if (!sound(block, at, bytes, group, kind)) return 1;
  Entry e;
  std::memcpy(&e, block + sizeof(Header) + group * sizeof e, sizeof e);
  const uint8_t *const codes2 = block + e.tail, *const codes3 = codes2 + quarter(e.second);
  std::memcpy(last, codes3 + quarter(e.third), e.fourth);
  if (e.second) {
    if (Way::level(codes3, e.third, e.exponents + 6, last, level3) != e.fourth) return 1;
    if (Way::level(codes2, e.second, e.exponents + 3, level3, level2) != e.third) return 1;
  }
  const uint8_t* const codes1 = block + at.codes + group * GROUP / 4;
  const int64_t escaped = Way::level(codes1, GROUP, e.exponents, e.second ? level2 : last, level1);
  if (escaped != (e.second ? e.second : e.fourth)) return 1;
  const uint8_t* const low = block + at.low + group * GROUP;
  if (kind == BFLOAT16)
    Way::bfloat16s(low, level1, out);
  else
    Way::float16s(low, level1, block + at.mantissas + group * GROUP / 4, block + at.signs + group * GROUP / 8, out);
  return 0;
}

// Some groups of a block of so many weights.
struct Part {
  const uint8_t* block;
  int64_t bytes, weights, first, last;
  uint16_t* out;  // of the first group of the block
};

template <typename Way>
INLINE int expand(const Part& part) {
  alignas(64) uint16_t words[GROUP];
  const uint32_t kind = kind_of(part.block, part.bytes);
  const Planes at(part.weights, kind);
  for (int64_t group = part.first; group < part.last; ++group) {
    uint16_t* const out = part.out + group * GROUP;
    const int64_t weights = std::min(part.weights - group * GROUP, GROUP);
    const bool in_place = weights == GROUP && uintptr_t(out) % 64 == 0;
    if (expand_group<Way>(part.block, at, part.bytes, group, kind, in_place ? out : words)) return 1;
    if (!in_place) std::memcpy(out, words, 2 * weights);
  }
  return 0;
}

int expand_plain(const Part& part) { return expand<Plain>(part); }
#if X86
MIDDLE int expand_bits(const Part& part) { return expand<Bits>(part); }
WIDE int expand_vectors(const Part& part) {
  const int damaged = expand<Vectors>(part);
  _mm_sfence();
  return damaged;
}
#endif

int expand_by(int way, const Part& part) {
#if X86
  if (way == 2) return expand_vectors(part);
  if (way == 1) return expand_bits(part);
#endif
  return expand_plain(part);
}

}  // namespace

// Bytes that a block of `weights` takes at most.
extern "C" int64_t codec_bound(int64_t weights, int kind) {
  const Planes at(weights, uint32_t(kind));
  return at.tails + at.groups * GROUP + SLACK;
}

// Writes a block of `weights` words to `block`, `codec_bound` bytes; returns the bytes it took.
extern "C" int64_t codec_compress(const uint16_t* words, int64_t weights, int kind, uint8_t* block) {
  const Planes at(weights, uint32_t(kind));
  int64_t end = at.tails;
  std::memset(block, 0, at.low);
  for (int64_t group = 0; group < at.groups; ++group, words += GROUP, weights -= GROUP) {
    uint16_t last[GROUP] = {};
    if (weights < GROUP) std::memcpy(last, words, 2 * weights);
    end = put_group(weights < GROUP ? last : words, block, at, group, end, uint32_t(kind));
  }
  std::memset(block + end, 0, SLACK);
  const Header header{MAGIC, uint32_t(kind), uint32_t(weights + at.groups * GROUP), uint32_t(end + SLACK)};
  std::memcpy(block, &header, sizeof header);
  return end + SLACK;
}

// The fastest way of this processor, by its number in ways.h.
extern "C" int codec_best() { return best_way(); }

// 0, or 1 when the block is damaged or of another size.
extern "C" int codec_check(const uint8_t* block, int64_t bytes, int64_t weights) {
  const Planes at(weights, kind_of(block, bytes));
  if (!fits(block, bytes, weights, at)) return 1;
  for (int64_t group = 0; group < at.groups; ++group)
    if (!sound(block, at, bytes, group, kind_of(block, bytes))) return 1;
  return 0;
}

// Restores `weights` words; 0, or 1 when the block is damaged or of another size. `way` at most `codec_best`; `threads`
// as many as share the work.
extern "C" int codec_expand(const uint8_t* block, int64_t bytes, uint16_t* out, int64_t weights, int way, int threads) {
  const Planes at(weights, kind_of(block, bytes));
  if (!fits(block, bytes, weights, at)) return 1;
  int damaged = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : damaged) num_threads(threads) if (threads > 1)
  for (int64_t first = 0; first < at.groups; first += SHARE)
    damaged |= expand_by(way, {block, bytes, weights, first, std::min(first + SHARE, at.groups), out});
  return damaged;
}
