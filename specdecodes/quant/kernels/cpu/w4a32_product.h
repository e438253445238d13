// What a product with activations in full precision is made of, and where its parts lie; the layout is told in w4a32.cpp.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,f16c")))
#define PAIRS __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,f16c")))
#endif
#define UNROLL _Pragma("GCC unroll 8")

namespace {

constexpr int64_t LANES = 16;  // outputs of a block
constexpr int64_t UNIT = 4;    // blocks that lie side by side, and are handed to a thread together

struct FloatProduct {
  int64_t rows, in, out, groups, group;
  bool zeros;
  const float* x;
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  const float* table;
  float *y, *sum;  // sum [rows][groups]: of the group's inputs

  int64_t first(int64_t block) const { return block - block % UNIT; }
  // From the codes of eight inputs of a block to those of the next eight.
  int64_t stride(int64_t block) const { return std::min(UNIT, out / LANES - first(block)) * LANES * 4; }
  const uint8_t* codes(int64_t block) const {
    return packed + first(block) * in * (LANES / 2) + (block - first(block)) * LANES * 4;
  }
  int64_t scales(int64_t block, int64_t g) const { return (block * groups + g) * LANES; }
};

// The input, of eight, whose code the half byte `place` of an output's four bytes holds.
constexpr int input_of(int place) { return place / 2 + (place % 2 ? 4 : 0); }

void sum_group(const FloatProduct& p, int64_t i) {
  float part[8] = {0};  // by input modulo 8: one order for every machine
  for (int64_t k = 0; k < p.group; ++k) part[k % 8] += p.x[i * p.group + k];
  p.sum[i] = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

}  // namespace
