// The format of losslessly compressed 16-bit weights.
//
// A weight is its exponent and the rest (sign and mantissa). The rest is noise and stays as it is. Exponents of weights
// are few: in groups of GROUP weights each is coded by its rank among the group's exponents, in three levels of two
// bits. Codes 0, 1, 2 of a level are three ranks; code 3 hands over to the next level, the last to the exponent itself.
// Every level is expanded alike, the last first: look codes up, and put the next level's bytes where the code is 3.
//
// A block, little endian:
//   header   uint32 magic, kind (0 bfloat16, 1 float16), weights, bytes
//   entries  one for each group, see Entry
//   low      the rest of each weight, one byte: sign and mantissa of bfloat16, the last 8 bits of float16
//   codes    level 1, four to a byte
//   float16: the first two bits of each mantissa, four to a byte, then signs, eight to a byte
//   tails    of each group: codes of level 2, of level 3, and exponents, each from a whole byte on, up to 8 bytes
//   SLACK    zero bytes, so that wide loads stay inside
// The last group is filled up with zeros. A group whose levels would not pay has exponents alone behind level 1.

#pragma once

#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr uint32_t MAGIC = 0x31574353;  // "SCW1"
constexpr int64_t GROUP = 4096, SLACK = 64;
constexpr int LEVELS = 3;
enum Kind { BFLOAT16, FLOAT16 };

struct Header {
  uint32_t magic, kind, weights, bytes;
};
struct Entry {
  uint32_t tail, check;             // where the tail begins in the block; a sum of all bytes of the group
  uint16_t second, third, fourth;   // codes of levels 2 and 3, and exponents; none of level 2: exponents alone
  uint8_t exponents[10];            // by rank, three a level and none
};
static_assert(sizeof(Header) == 16 && sizeof(Entry) == 24, "no gaps");

struct Planes {
  int64_t groups, low, codes, mantissas, signs, tails;
  Planes(int64_t weights, uint32_t kind) {
    groups = (weights + GROUP - 1) / GROUP;
    low = int64_t(sizeof(Header)) + groups * int64_t(sizeof(Entry));
    low = (low + 63) / 64 * 64;
    codes = low + groups * GROUP;
    mantissas = codes + groups * GROUP / 4;
    signs = mantissas + (kind == FLOAT16 ? groups * GROUP / 4 : 0);
    tails = signs + (kind == FLOAT16 ? groups * GROUP / 8 : 0);
  }
};

INLINE int64_t quarter(int64_t count) { return (count + 3) / 4; }
INLINE int64_t tail_bytes(const Entry& e) { return quarter(e.second) + quarter(e.third) + e.fourth; }
INLINE int64_t whole(int64_t bytes) { return (bytes + 7) / 8 * 8; }

// Two sums in each of eight lanes, which see swaps too; one number of them.
struct Check {
  typedef uint64_t Lanes __attribute__((vector_size(64)));
  Lanes first = {}, second = {};
  INLINE void add(const uint8_t* bytes, int64_t count) {
    Lanes row;
    for (; count >= 64; bytes += 64, count -= 64) {
      std::memcpy(&row, bytes, 64);
      first += row, second += first;
    }
    if (!count) return;
    row = Lanes{};
    std::memcpy(&row, bytes, count);
    first += row, second += first;
  }
  INLINE uint32_t sum() const {
    uint64_t all = 0;
    for (int lane = 0; lane < 8; ++lane) all += (first[lane] * 3 + second[lane]) * (2 * lane + 1);
    return uint32_t(all ^ (all >> 32));
  }
};
INLINE uint32_t check_of(const uint8_t* block, const Planes& at, const Entry& e, int64_t group, uint32_t kind) {
  Check check;
  Entry described = e;
  described.check = 0;
  check.add((const uint8_t*)&described, sizeof described);
  check.add(block + at.low + group * GROUP, GROUP);
  check.add(block + at.codes + group * GROUP / 4, GROUP / 4);
  if (kind == FLOAT16) {
    check.add(block + at.mantissas + group * GROUP / 4, GROUP / 4);
    check.add(block + at.signs + group * GROUP / 8, GROUP / 8);
  }
  check.add(block + e.tail, whole(tail_bytes(e)));
  return check.sum();
}

INLINE uint32_t kind_of(const uint8_t* block, int64_t bytes) {
  Header header = {};
  if (bytes >= int64_t(sizeof header)) std::memcpy(&header, block, sizeof header);
  return header.kind;
}
INLINE bool fits(const uint8_t* block, int64_t bytes, int64_t weights, const Planes& at) {
  Header header = {};
  if (bytes >= int64_t(sizeof header)) std::memcpy(&header, block, sizeof header);
  return header.magic == MAGIC && header.kind <= FLOAT16 && header.weights == weights && header.bytes == bytes &&
         at.tails + SLACK <= bytes;
}
INLINE bool sound(const uint8_t* block, const Planes& at, int64_t bytes, int64_t group, uint32_t kind) {
  Entry e;
  std::memcpy(&e, block + sizeof(Header) + group * sizeof e, sizeof e);
  return e.second <= GROUP && e.third <= e.second && e.fourth <= GROUP && e.tail >= at.tails &&
         e.tail + whole(tail_bytes(e)) + SLACK <= bytes && check_of(block, at, e, group, kind) == e.check;
}

}  // namespace
