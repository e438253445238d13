// What a product of low-bit weights is made of, and where its parts lie; the layout is told in w4a8.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
#endif
#define UNROLL _Pragma("GCC unroll 8")

namespace {

constexpr int64_t LANES = 16;  // outputs of a block: one vector of 32-bit sums
constexpr int64_t UNIT = 4;    // blocks that lie side by side, and are handed to a thread together
constexpr int64_t ROWS = 8;    // rows that share one pass over a unit

// Four levels of a row, as one number.
inline int32_t four(const int8_t* levels) {
  int32_t word;
  std::memcpy(&word, levels, 4);
  return word;
}

}  // namespace

extern "C" {

// y = x W^T, or y += x W^T with `adds`; from a row of y to the next it is `apart`. Null are `table` where codes are the
// values, `given` and `given_step` where x is rounded here.
struct Product {
  int64_t rows, in, out, groups, group, bits, variant, adds, apart;
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  const uint8_t* table;
  const int8_t* given;
  const float* given_step;
  float* y;
  int8_t* levels;     // of each tile of ROWS rows (the last may have fewer) [in / 4][rows][4]
  float *step, *sum;  // of each tile [groups][rows]; sum is step times the sum of the group's levels

  int64_t blocks() const { return out / LANES; }
  int64_t units() const { return (blocks() + UNIT - 1) / UNIT; }
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
  int64_t stride(int64_t block) const { return std::min(UNIT, blocks() - first(block)) * LANES * 4; }
  const uint8_t* codes(int64_t block) const {
    return packed + first(block) * in * (LANES * bits / 8) + (block - first(block)) * LANES * 4;
  }
  int64_t scales(int64_t block, int64_t g) const { return (block * groups + g) * LANES; }
};
}
