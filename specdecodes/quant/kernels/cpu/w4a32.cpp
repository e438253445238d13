// 4-bit weights times activations in fp32 or bf16: y = x W^T, W = value(code) * scale + offset, summed in fp32.
//
// A value is what a table of sixteen floats has for a code. Layout as in w4a8.cpp: packed [out / 64][in / 8][4][16][4],
// where byte i of an output holds the codes of inputs i (low half) and 4 + i (high half), and the last unit may have
// fewer than four blocks of sixteen outputs; scale, offset [out / 16][groups][16] fp16. With `zeros` the offset is that
// of the codes, W = (value(code) + offset) * scale, and what it is worth is computed in fp32.
// x [rows][in], y [rows][out]. A group is a multiple of 8 inputs. Every row is summed in the same order whatever the
// number of rows, so no row depends on its neighbours or its place.

#include <cmath>
#include <cstring>
#include <memory>

#include "w4a32_avx2.h"
#include "w4a32_avx512.h"
#include "w4a32_product.h"

namespace {

constexpr int64_t WORTH_THREADS = 65536;  // weights

enum Variant { PLAIN = 1, WITH_AVX2 = 2, WITH_AVX512 = 3 };

float to_float(uint16_t half) {
  const float magnitude = (half & 0x7c00) ? std::ldexp(float(1024 + (half & 1023)), ((half >> 10) & 31) - 25)
                                          : std::ldexp(float(half & 1023), -24);
  return (half & 0x8000) ? -magnitude : magnitude;
}

void plain_block(const FloatProduct& p, int64_t block) {
  for (int64_t row = 0; row < p.rows; ++row) {
    float total[LANES] = {0};
    for (int64_t g = 0; g < p.groups; ++g) {
      float acc[LANES] = {0};
      for (int64_t k = g * p.group; k < (g + 1) * p.group; k += 8) {
        const uint8_t* w = p.codes(block) + k / 8 * p.stride(block);
        const float* x = p.x + row * p.in + k;
        for (int64_t n = 0; n < LANES; ++n)
          for (int64_t i = 0; i < 4; ++i)
            acc[n] += p.table[w[n * 4 + i] & 15] * x[i] + p.table[w[n * 4 + i] >> 4] * x[4 + i];
      }
      const float sum = p.sum[row * p.groups + g];
      const uint16_t *scale = p.scale + p.scales(block, g), *offset = p.offset + p.scales(block, g);
      for (int64_t n = 0; n < LANES; ++n) {
        const float worth = p.zeros ? to_float(offset[n]) * to_float(scale[n]) : to_float(offset[n]);
        total[n] += acc[n] * to_float(scale[n]) + sum * worth;
      }
    }
    std::memcpy(p.y + row * p.out + block * LANES, total, sizeof total);
  }
}

void plain_unit(const FloatProduct& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block) plain_block(p, block);
}

float widen(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

uint16_t narrow(float x) {  // of a number that bf16 holds
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t(bits >> 16);
}

}  // namespace

extern "C" void w4a32(const float* x, const uint8_t* packed, const uint16_t* scale, const uint16_t* offset,
                      const float* table, float* y, int64_t rows, int64_t in, int64_t out, int64_t groups,
                      int zeros, int variant) {
  const std::unique_ptr<float[]> sums(new float[rows * groups]);
  const FloatProduct p{rows, in, out, groups, in / groups, zeros != 0, x, packed, scale, offset, table, y, sums.get()};
  auto unit = plain_unit;
#if defined(__x86_64__)
  if (variant == WITH_AVX2) unit = avx2_unit;
  if (variant == WITH_AVX512) unit = wide_unit;
#endif
  for (int64_t i = 0; i < rows * groups; ++i) sum_group(p, i);
  const int64_t blocks = out / LANES;
#pragma omp parallel for schedule(static) if (in * out > WORTH_THREADS)
  for (int64_t first = 0; first < blocks; first += UNIT) unit(p, first, std::min(first + UNIT, blocks));
}

// The same on x in bf16, where bf16 holds the table's values too.
extern "C" void w4a32_short(const uint16_t* x, const uint8_t* packed, const uint16_t* scale, const uint16_t* offset,
                            const float* table, float* y, int64_t rows, int64_t in, int64_t out, int64_t groups,
                            int zeros, int variant) {
  const std::unique_ptr<float[]> wide(new float[rows * in]);
  for (int64_t i = 0; i < rows * in; ++i) wide[i] = widen(x[i]);
#if defined(__x86_64__)
  if (variant == WITH_AVX512 && __builtin_cpu_supports("avx512bf16")) {
    const std::unique_ptr<float[]> sums(new float[rows * groups]);
    const std::unique_ptr<uint32_t[]> pairs(new uint32_t[rows * in / 2]);
    PairProduct q{{rows, in, out, groups, in / groups, zeros != 0, wide.get(), packed, scale, offset, table, y, sums.get()},
                  pairs.get(), {}};
    for (int i = 0; i < 32; ++i) q.table[i] = narrow(table[i % 16]);
    for (int64_t i = 0; i < rows * in / 2; ++i) {
      const uint16_t* from = x + i / 4 * 8 + input_of(int(i % 4));
      pairs[i] = uint32_t(from[0]) | uint32_t(from[2]) << 16;
    }
    for (int64_t i = 0; i < rows * groups; ++i) sum_group(q.p, i);
    const int64_t blocks = out / LANES;
#pragma omp parallel for schedule(static) if (in * out > WORTH_THREADS)
    for (int64_t first = 0; first < blocks; first += UNIT) pairs_unit(q, first, std::min(first + UNIT, blocks));
    return;
  }
#endif
  w4a32(wide.get(), packed, scale, offset, table, y, rows, in, out, groups, zeros, variant);
}
