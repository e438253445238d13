// The format of what is left of bfloat16 weights beside a 4-bit guess of each (guess.h): a remainder.
//
// A guess and half a step to both sides are a window, of 128 words of bfloat16 or so: a weight's low byte says which of
// them it is. Only where the window reaches near zero do words grow too many, "open", and four bits more say the sign
// and how far the exponent lies below the largest there. A weight outside of its window is an exception.
//
// A block, little endian, of `rows` x `width` weights:
//   header      64 bytes, see Header; the rest is zeros
//   row table   uint32[rows + 1]: where the nibbles of each row begin, and end, in bytes from the tails' start
//   low plane   the low byte of each weight, row by row; begins at a multiple of 64
//   tails       begin at a multiple of 64: of each row, for every 64 columns, the nibbles of the open weights, the
//               first in the low half, from a whole byte on
//   exceptions  begin at a multiple of 8: uint32 place (row * width + column) and word of each, in order
//   slack       zeros, 64 bytes at least, so that wide loads stay inside; the block's end is a multiple of 64

#pragma once

#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr uint32_t MAGIC = 0x31524453;  // "SDR1"
constexpr int64_t CHUNK = 64, SLACK = 64;

struct Header {
  uint32_t magic, rows, width, bytes, exceptions, check, tails, exceptions_at;
  uint32_t zeros[8];
};
struct Exception {
  uint32_t place, word;
};
static_assert(sizeof(Header) == 64 && sizeof(Exception) == 8, "no gaps");

INLINE int64_t up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }
INLINE int64_t low_plane(int64_t rows) { return up(int64_t(sizeof(Header)) + 4 * (rows + 1), 64); }
INLINE int64_t tails_of(int64_t rows, int64_t width) { return low_plane(rows) + up(rows * width, 64); }
// Bytes of the nibbles of a row at most.
INLINE int64_t tail_bound(int64_t width) { return width / CHUNK * (CHUNK / 2) + (width % CHUNK + 1) / 2; }

// Two sums in each of eight lanes, which see swaps too, of rows of 64 bytes; one number of them, in which any change of
// either counts.
struct Check {
  uint64_t first[8] = {}, second[8] = {}, rows = 0;
  INLINE void add(const uint8_t* bytes, int64_t count) {
    typedef uint64_t Lanes __attribute__((vector_size(32)));
    Lanes sums[2], sums2[2], low, high;
    std::memcpy(sums, first, sizeof sums), std::memcpy(sums2, second, sizeof sums2);
    for (; count >= 64; bytes += 64, count -= 64, ++rows) {
      std::memcpy(&low, bytes, 32), std::memcpy(&high, bytes + 32, 32);
      sums[0] += low, sums[1] += high, sums2[0] += sums[0], sums2[1] += sums[1];
    }
    std::memcpy(first, sums, sizeof sums), std::memcpy(second, sums2, sizeof sums2);
  }
  INLINE void join(const Check& next) {  // which goes on behind this one
    for (int lane = 0; lane < 8; ++lane)
      second[lane] += next.second[lane] + next.rows * first[lane], first[lane] += next.first[lane];
    rows += next.rows;
  }
  INLINE uint64_t sum(uint64_t before) const {
    for (int lane = 0; lane < 8; ++lane) before = mixed(mixed(before ^ first[lane]) ^ second[lane]);
    return before;
  }
  static INLINE uint64_t mixed(uint64_t bits) {  // one to one
    bits *= 0x9e3779b97f4a7c15;
    return bits ^ (bits >> 32);
  }
};

// Follows what is read, in whole rows of the check.
struct Checked {
  const uint8_t* at;
  Check check;
  INLINE void to(const uint8_t* end) {
    const int64_t whole = (end - at) / 64 * 64;
    if (whole > 0) check.add(at, whole), at += whole;
  }
};

// Of everything behind the header: of the row table, the low plane, and the rest.
INLINE uint32_t check_of(const Check& table, const Check& low, const Check& rest) {
  return uint32_t(rest.sum(low.sum(table.sum(0))));
}

// A block whose header is right for its size, and for rows x width weights; else `bytes` is 0.
struct Block {
  const uint8_t* start;
  int64_t rows, width, low, tails, exceptions, exceptions_at, bytes;
  uint32_t check;
  Block(const uint8_t* block, int64_t size, int64_t rows_, int64_t width_)
      : start(block), rows(rows_), width(width_), low(low_plane(rows_)), tails(tails_of(rows_, width_)), bytes(0) {
    Header header;
    if (size < int64_t(sizeof header)) return;
    std::memcpy(&header, block, sizeof header);
    exceptions = header.exceptions, exceptions_at = header.exceptions_at, check = header.check;
    uint32_t others = 0;
    for (uint32_t zero : header.zeros) others |= zero;
    if (header.magic != MAGIC || header.rows != rows || header.width != width || header.bytes != size || others) return;
    if (header.tails != tails || tails + SLACK > size || exceptions_at < tails) return;
    if (exceptions_at != up(tails + row(rows), 8)) return;
    if (size != up(exceptions_at + 8 * exceptions + SLACK, 64)) return;
    bytes = size;
  }
  INLINE uint32_t row(int64_t number) const { return number_at(sizeof(Header) + 4 * number); }
  INLINE uint32_t number_at(int64_t place) const {
    uint32_t number;
    std::memcpy(&number, start + place, 4);
    return number;
  }
  INLINE Exception exception(int64_t number) const {
    return {number_at(exceptions_at + 8 * number), number_at(exceptions_at + 8 * number + 4)};
  }
  INLINE int64_t first_exception(int64_t place) const {  // from there on
    int64_t from = 0, to = exceptions;
    while (from < to) {
      const int64_t middle = (from + to) / 2;
      exception(middle).place < place ? from = middle + 1 : to = middle;
    }
    return from;
  }
  // The row table ascends, and exceptions do, among the weights.
  INLINE bool ordered() const {
    if (row(0)) return false;
    for (int64_t r = 0; r < rows; ++r)
      if (row(r) > row(r + 1) || row(r + 1) - row(r) > tail_bound(width)) return false;
    int64_t last = -1;
    for (int64_t i = 0; i < exceptions; last = exception(i++).place)
      if (int64_t(exception(i).place) <= last || exception(i).place >= rows * width) return false;
    return true;
  }
};

}  // namespace
