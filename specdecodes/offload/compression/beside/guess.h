// Guesses of weights from the codes of a 4-bit substitute, and what one says of the word; the layouts are in guess.py.
//
// In fp32, with the fp16 `scale` and `offset` of the group: g = code * scale + offset (LANES) or (code - 8) * scale +
// offset (HALVES), h = |scale| / 2, and the window from a = |g| - h to b = |g| + h, A and B their upper 16 bits as
// numbers. The weight is open where a > 0 is not true or B - A > 252. Else its word is the one that has its low byte
// and the sign of g, and lies from t - 128 to t + 127, t = (A + B + 1) / 2. Of an open weight, bit 3 of the nibble is
// the sign, and the others are k: the seven bits above the low byte are top - k, top those of 1.5 |scale|, or 0 for
// k = 7.

#pragma once

#include <algorithm>
#include <vector>

#include "remainder.h"

extern "C" struct Guess {
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  int64_t halves, first, rows, width, groups, held;  // held: rows in the buffers
};

namespace {

#define LOOP _Pragma("GCC unroll 1")  // vectors are made of loops, not of what they are unrolled to

constexpr int64_t BLOCK = 16, UNIT = 4;  // rows side by side in LANES, and blocks of them

// What each of sixteen codes says: the lowest word of its window, whose high byte is 0 for an open one, which no other
// has; and the high bytes that nibbles stand for.
struct alignas(16) Table {
  uint8_t low[16], high[16], open[16];
};

INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
INLINE float to_float(uint16_t half) {
  const uint32_t size = half & 0x7fff, rebiased = (size << 13) + (size < 0x7c00 ? 112u << 23 : 224u << 23);
  const uint32_t bits = size < 0x400 ? bits_of(float(int32_t(size)) * 0x1p-24f) : rebiased;
  return float_of(bits | (half & 0x8000u) << 16);
}

constexpr uint8_t BELOW[16] = {0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 2, 3, 4, 5, 6, 0};
constexpr uint8_t PRESENT[16] = {255, 255, 255, 255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 255, 0};
constexpr uint8_t SIGNS[16] = {0, 0, 0, 0, 0, 0, 0, 0, 128, 128, 128, 128, 128, 128, 128, 128};

// A group of sixteen rows: its scales and offsets, half of each step, and of one and a half the seven highest bits.
struct Group {
  float scale[BLOCK], offset[BLOCK], half[BLOCK];
  uint32_t top[BLOCK];  // four times over
  INLINE void take(const uint16_t* scales, const uint16_t* offsets, int64_t count) {
    if (count == BLOCK) return take(scales, offsets);
    uint16_t padded[2][BLOCK] = {};
    std::memcpy(padded[0], scales, 2 * count), std::memcpy(padded[1], offsets, 2 * count);
    take(padded[0], padded[1]);
  }
  INLINE void take(const uint16_t* scales, const uint16_t* offsets) {
    LOOP for (int i = 0; i < BLOCK; ++i) {
      scale[i] = to_float(scales[i]), offset[i] = to_float(offsets[i]);
      half[i] = float_of(bits_of(scale[i] * 0.5f) & 0x7fffffff);
      top[i] = (bits_of(half[i] * 3.0f) >> 24 & 0x7f) * 0x01010101;
    }
  }
  INLINE void make(int64_t row, float less, Table& table) const {
    const float by = scale[row], more = offset[row], step = half[row];
    uint32_t words[16];
    LOOP for (int code = 0; code < 16; ++code) {
      const float guess = (float(code) - less) * by + more, size = float_of(bits_of(guess) & 0x7fffffff);
      const float least = size - step;
      const int32_t from = int32_t(bits_of(least) >> 16), to = int32_t(bits_of(size + step) >> 16);
      const uint32_t word = uint32_t(from + to - 255) >> 1 | bits_of(guess) >> 31 << 15;
      words[code] = (least > 0.0f) & (to - from <= 252) ? word : 0;
    }
    LOOP for (int code = 0; code < 16; ++code) {
      table.low[code] = uint8_t(words[code]), table.high[code] = uint8_t(words[code] >> 8);
      table.open[code] = uint8_t(((top[row] - BELOW[code]) & PRESENT[code]) | SIGNS[code]);
    }
  }
};

// A row's codes, and of each of its groups a table, and what it is made of; group[column / 8] is the group of a column.
struct Line {
  const uint8_t* codes;
  const Table* tables;
  const uint32_t* group;
  const Group* groups;
  int64_t row;  // of the sixteen
  float less;    // what is taken off a code
};

// The rows of a guess, one after another: codes, scales and offsets are taken for sixteen rows at a time. `Way` knows
// how to take codes: see Plain.
struct Rows {
  const Guess& guess;
  const int64_t pitch;  // codes from row to row: no multiple of 4096, which would crowd the cache
  std::vector<uint8_t> room;
  std::vector<Group> groups;
  std::vector<Table> tables;
  std::vector<uint32_t> group;
  uint8_t* const codes;
  int64_t block = -1;

  explicit Rows(const Guess& g)
      : guess(g), pitch(up(g.width, 64) + 64), room(BLOCK * pitch + 64), groups(g.groups), tables(g.groups),
        group(g.width / 8), codes(room.data() + (64 - uintptr_t(room.data()) % 64) % 64) {
    for (int64_t step = 0; step < g.width / 8; ++step) group[step] = uint32_t(8 * step / (g.width / g.groups));
  }

  template <typename Way>
  INLINE Line line(int64_t row) {
    const int64_t lane = (guess.first + row) % BLOCK;
    if (block != (guess.first + row) / BLOCK) block = (guess.first + row) / BLOCK, take<Way>();
    const bool made = Way::makes_tables(guess);
    const float less = guess.halves ? 8 : 0;
    if (!made)
      for (int64_t g = 0; g < guess.groups; ++g) groups[g].make(lane, less, tables[g]);
    if (!guess.halves) call(lane);
    return {codes + lane * pitch, made ? nullptr : tables.data(), group.data(), groups.data(), lane, less};
  }

  template <typename Way>
  INLINE void take() {
    const Guess& g = guess;
    const int64_t count = std::min(BLOCK, g.held - block * BLOCK);
    for (int64_t i = 0; i < g.groups; ++i) {
      const int64_t at = g.halves ? i * g.held + block * BLOCK : (block * g.groups + i) * BLOCK;
      groups[i].take(g.scale + at, g.offset + at, count);
    }
    if (g.halves) return Way::take_halves(g.packed + block * BLOCK * g.width / 2, count, g, codes, pitch);
    Way::take_lanes(lanes(block), stride(block), g, codes, pitch);
  }
  // Where the codes of a block in LANES begin, and how far it is from those of eight inputs to the next ones.
  INLINE const uint8_t* lanes(int64_t block) const {
    return guess.packed + block / UNIT * UNIT * BLOCK * guess.width / 2 + block % UNIT * 64;
  }
  INLINE int64_t stride(int64_t block) const {
    return std::min(UNIT, guess.held / BLOCK - block / UNIT * UNIT) * 64;
  }
  // Brings the next block's codes near, a sixteenth with each row.
  INLINE void call(int64_t row) const {
    const uint8_t* const next = lanes(block + 1);
    const int64_t eights = guess.width / 8, step = stride(block + 1);
    for (int64_t i = eights * row / BLOCK; i < eights * (row + 1) / BLOCK; ++i) __builtin_prefetch(next + i * step);
  }
};

}  // namespace
