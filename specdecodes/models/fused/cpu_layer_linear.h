// A linear of a layer: weights of few bits (w4a8.cpp) or in full precision (cpu_linear.cpp), either in shares that the
// threads of a team take. Numbers come and go in float.
#pragma once

#include <algorithm>

#include "../../quant/kernels/cpu/w4a8_product.h"
#include "../kernels/cpu_between.h"
#include "../kernels/cpu_linear.h"
#include "../kernels/cpu_numbers.h"

namespace {

constexpr int64_t COLUMNS = UNIT * LANES;  // outputs of a unit, which a thread takes at a time
constexpr int64_t FULL_GROUP = 64;         // inputs that a thread takes at a time, where no rounding says how many

// The parts of other libraries' products.
struct Kernels {
  void (*round)(const Product*, const float* x, int64_t row, int64_t group);
  void (*multiply)(const Product*, int64_t first, int64_t end);
  void (*multiply_full)(const FullProduct<float>*, int64_t first, int64_t end);
};

// As w4a8.cpp takes it, its bias in float [out] or null; or, of 16 bits, as cpu_linear.cpp does: `weights` and bias are
// in bfloat16, and the rest means nothing. Nothing at all where `out` is 0.
struct Linear {
  const void* weights;
  const uint16_t *scale, *offset;
  const uint8_t* table;
  const void* bias;
  int64_t in, out, groups, bits, variant;

  bool full() const { return bits == 16; }
  int64_t group() const { return full() ? FULL_GROUP : in / std::max<int64_t>(groups, 1); }
  int64_t shares() const { return (in + group() - 1) / group(); }  // of the inputs
  int64_t units() const { return (out + COLUMNS - 1) / COLUMNS; }
};

// What the inputs of a layer's linears [rows][in] are rounded to.
struct Room {
  void* rounded;  // 8 or 16 bits an input
  float* steps;   // 2 [rows][groups]
};

// A linear at work on the inputs in `room`. Its weights are shared by units of outputs, its inputs by groups.
struct Task {
  const Kernels& kernels;
  const Linear& linear;
  int64_t rows;
  Room room;

  // The inputs of share `share` of a row, `x`, as they are multiplied.
  void round(const float* x, int64_t row, int64_t share) const {
    if (!linear.full()) {
      const Product p = low(0, nullptr, 0, false);
      return kernels.round(&p, x, row, share);
    }
    const int64_t first = share * FULL_GROUP;
    narrowed(x, static_cast<bfloat16*>(room.rounded) + row * linear.in + first, std::min(FULL_GROUP, linear.in - first));
  }

  // The outputs of a unit, of all rows, go or are added to y [rows][apart].
  void multiply(int64_t unit, float* y, int64_t apart, bool adds) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, linear.out - first);
    if (linear.full()) {
      const auto *const weights = static_cast<const bfloat16*>(linear.weights) + first * linear.in,
                 *const bias = static_cast<const bfloat16*>(linear.bias);
      const auto* const x = static_cast<const bfloat16*>(room.rounded);
      const FullProduct<float> p{rows, linear.in, apart, x, weights, bias ? bias + first : nullptr, y, adds};
      return kernels.multiply_full(&p, 0, count);
    }
    const Product p = low(unit, y, apart, adds);
    kernels.multiply(&p, 0, 1);
    const auto* const bias = static_cast<const float*>(linear.bias);
    for (int64_t row = 0; bias && row < rows; ++row) add(y + row * apart, bias + first, count);
  }

 private:
  // From `unit` on.
  Product low(int64_t unit, float* y, int64_t apart, bool adds) const {
    const Linear& l = linear;
    const int64_t first = unit * COLUMNS, scales = first * l.groups;
    const auto* const weights = static_cast<const uint8_t*>(l.weights) + first * l.in * l.bits / 8;
    return {rows, l.in, l.out - first, l.groups, l.group(), l.bits, l.variant, adds, apart, weights, l.scale + scales,
            l.offset + scales, l.table, nullptr, nullptr, y, static_cast<int8_t*>(room.rounded), room.steps,
            room.steps + rows * l.groups};
  }
};

}  // namespace
