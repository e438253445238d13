// Restoring weights in plain C++: what the other ways do, one at a time.

#pragma once

#include "guess.h"

namespace {

constexpr int64_t SEGMENT = 256;  // columns that are restored before they are written

struct Plain {
  static INLINE bool makes_tables(const Guess&) { return false; }
  static INLINE void take_eights(const uint8_t* packed, int64_t stride, int64_t column, int64_t end, uint8_t* codes,
                                 int64_t pitch) {
    for (; column < end; column += 8, packed += stride)
      for (int64_t row = 0; row < BLOCK; ++row) {
        uint32_t four;
        std::memcpy(&four, packed + 4 * row, 4);
        const uint64_t eight = (four & 0x0f0f0f0f) | uint64_t(four >> 4 & 0x0f0f0f0f) << 32;
        std::memcpy(codes + row * pitch + column, &eight, 8);
      }
  }
  static INLINE void take_lanes(const uint8_t* packed, int64_t stride, const Guess& guess, uint8_t* codes,
                                int64_t pitch) {
    take_eights(packed, stride, 0, guess.width, codes, pitch);
  }
  static INLINE void take_halves(const uint8_t* packed, int64_t rows, const Guess& guess, uint8_t* codes,
                                 int64_t pitch) {
    const int64_t half = guess.width / 2;
    for (int64_t row = 0; row < rows; ++row, packed += half, codes += pitch)
      for (int64_t i = 0; i < half; ++i) codes[i] = packed[i] & 15, codes[half + i] = packed[i] >> 4;
  }
  // The words of up to 64 columns; returns where the nibbles of the next ones begin.
  static INLINE const uint8_t* chunk(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                     const uint8_t* tail, uint16_t* words) {
    uint32_t open = 0;
    for (; column < end; column += 8) {
      const Table& table = line.tables[line.group[column / 8]];
      for (int64_t i = column; i < column + 8; ++i) {
        const uint8_t code = line.codes[i], nibble = tail[open / 2] >> (4 * (open % 2)) & 15;
        const uint16_t least = uint16_t(table.high[code] << 8 | table.low[code]);
        const uint16_t closed = uint16_t(least + uint8_t(low[i] - least));
        const uint16_t opened = uint16_t(table.open[nibble] << 8 | low[i]);
        const uint16_t is_open = least ? 0 : 0xffff;  // no branch: one in five, and none can be foretold
        *words++ = closed ^ ((closed ^ opened) & is_open);
        open += is_open & 1;
      }
    }
    return tail + (open + 1) / 2;
  }
  // The same of any columns from a multiple of 64 on; null when nibbles are missing.
  static INLINE const uint8_t* columns(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                       const uint8_t* tail, const uint8_t* limit, uint16_t* words) {
    for (; column < end && tail <= limit; column += CHUNK, words += CHUNK)
      tail = chunk(line, column, std::min(column + CHUNK, end), low, tail, words);
    return tail <= limit ? tail : nullptr;
  }
  static INLINE void move(const uint8_t* line, uint8_t* to) { std::memcpy(to, line, 64); }
};

}  // namespace
