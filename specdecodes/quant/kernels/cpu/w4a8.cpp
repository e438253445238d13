// Weights of 4 or 2 bits times activations of 8 bits or less: y = x W^T, W = value(code) * scale + offset.
//
// A value is the code itself, or what a table of sixteen numbers of at most 128 has for it. Activations are rounded to
// 8 bits by group here, or come as levels and steps of the caller's. Values are unsigned and activation levels signed,
// which is what the processors' byte dot products take, so a group's sum needs no correction:
// y = sum over groups of step * (scale * sum(code * level) + offset * sum(level)).
// Every variant reads the same layout and sums the same integers; they differ in the order of float sums at most.
//
// packed [out / 64][in / 8][4][16][4]: of four blocks of 16 outputs (the last unit may have fewer), for eight inputs at a
// time, byte i of output n holds the codes of inputs i (low half) and 4 + i (high half). Of 2 bits sixteen inputs come at
// a time, and byte i holds those of i, 4 + i, 8 + i and 12 + i, the first lowest. Read in order: four streams side by
// side keep the processor from fetching ahead.
// scale, offset [out / 16][groups][16] fp16. x [rows][in], y [rows][out] float. A group is a multiple of the inputs that
// come at a time. table [16] or null. given [rows][in] and given_step [rows][groups], or null both, and then x is rounded.

#include <memory>

#include "w4a8_avx2.h"
#include "w4a8_product.h"
#include "w4a8_round.h"
#include "w4a8_vnni.h"

namespace {

constexpr int64_t WORTH_THREADS = 65536;  // weights

enum Variant { BEST = 0, PLAIN = 1, WITH_AVX2 = 2, WITH_VNNI = 3 };

float to_float(uint16_t half) {
  const float magnitude = (half & 0x7c00) ? std::ldexp(float(1024 + (half & 1023)), ((half >> 10) & 31) - 25)
                                          : std::ldexp(float(half & 1023), -24);
  return (half & 0x8000) ? -magnitude : magnitude;
}

void plain_block(const Product& p, int64_t block, int64_t row) {
  float total[LANES] = {0};
  for (int64_t g = 0; g < p.groups; ++g) {
    int32_t acc[LANES] = {0};
    const int64_t inputs = 32 / p.bits;
    for (int64_t k = g * p.group; k < (g + 1) * p.group; k += inputs) {
      const uint8_t* w = p.codes(block) + k / inputs * p.stride(block);
      for (int64_t n = 0; n < LANES; ++n)
        for (int64_t i = 0; i < inputs; ++i) {
          const int code = (w[n * 4 + i % 4] >> (i / 4 * p.bits)) & ((1 << p.bits) - 1);
          acc[n] += (p.table ? p.table[code] : code) * p.level(row, k + i / 4 * 4)[i % 4];
        }
    }
    const float step = p.step[p.scaled(row, g)], sum = p.sum[p.scaled(row, g)];
    const uint16_t *scale = p.scale + p.scales(block, g), *offset = p.offset + p.scales(block, g);
    for (int64_t n = 0; n < LANES; ++n) total[n] += acc[n] * step * to_float(scale[n]) + sum * to_float(offset[n]);
  }
  float* y = p.y + row * p.apart + block * LANES;
  for (int64_t n = 0; n < LANES; ++n) y[n] = p.adds ? total[n] + y[n] : total[n];
}

void plain_unit(const Product& p, int64_t first, int64_t end) {
  for (int64_t block = first; block < end; ++block)
    for (int64_t row = 0; row < p.rows; ++row) plain_block(p, block, row);
}

using Unit = void (*)(const Product&, int64_t, int64_t);

Unit unit_of(const Product& p) {
#if defined(__x86_64__)
  const bool table = p.table, two = p.bits == 2;
  if (p.variant == WITH_AVX2)
    return two ? table ? avx2_unit<true, 2> : avx2_unit<false, 2> : table ? avx2_unit<true, 4> : avx2_unit<false, 4>;
  if (p.variant == WITH_VNNI)
    return two ? table ? vnni_unit<true, 2> : vnni_unit<false, 2> : table ? vnni_unit<true, 4> : vnni_unit<false, 4>;
#endif
  return plain_unit;
}

}  // namespace

// The fastest variant that this processor and operating system run.
extern "C" int w4a8_best() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx2 && wide && __builtin_cpu_supports("avx512vnni")) return WITH_VNNI;
  if (avx2) return WITH_AVX2;
#endif
  return PLAIN;
}

// Group `group` of a row, whose numbers are `x`; the units [first, end).
extern "C" void w4a8_round(const Product* p, const float* x, int64_t row, int64_t group) {
#if defined(__x86_64__)
  if (p->variant == WITH_VNNI) return vnni_round(*p, x, row, group);
  if (p->variant == WITH_AVX2) return avx2_round(*p, x, row, group);
#endif
  plain_round(*p, x, row, group);
}

extern "C" void w4a8_multiply(const Product* p, int64_t first, int64_t end) {
  const Unit unit = unit_of(*p);
  for (int64_t i = first; i < end; ++i) unit(*p, i * UNIT, std::min((i + 1) * UNIT, p->blocks()));
}

extern "C" void w4a8(const float* x, const int8_t* given, const float* given_step, const uint8_t* packed,
                     const uint16_t* scale, const uint16_t* offset, const uint8_t* table, float* y, int64_t rows,
                     int64_t in, int64_t out, int64_t groups, int bits, int variant) {
  const std::unique_ptr<int8_t[]> levels(new int8_t[rows * in]);
  const std::unique_ptr<float[]> steps(new float[2 * rows * groups]);
  const int64_t group = in / groups;
  const Product p{rows, in, out, groups, group, bits, variant, 0, out, packed, scale, offset, table, given, given_step, y,
                  levels.get(), steps.get(), steps.get() + rows * groups};
#pragma omp parallel if (in * out > WORTH_THREADS)
  {
#pragma omp for schedule(static)
    for (int64_t g = 0; g < groups; ++g)  // all rows of a group lie side by side, and belong to one thread
      for (int64_t row = 0; row < rows; ++row) w4a8_round(&p, x + (given ? 0 : row * in + g * group), row, g);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p.units(); ++i) w4a8_multiply(&p, i, i + 1);
  }
}
