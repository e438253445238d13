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
  void (*round)(const Product*, int64_t first, int64_t end);
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

// Where the linears of a layer find their inputs [rows][in], and room for what these are rounded to.
struct Room {
  float* inputs;
  void* rounded;  // 8 or 16 bits an input
  float* steps;   // 2 [rows][groups]
};

// A linear at work on the inputs in `room`: what it yields goes, or is added, to y [rows][apart].
struct Task {
  const Kernels& kernels;
  const Linear& linear;
  int64_t rows, apart;
  const Room& room;
  Product low;
  FullProduct<float> whole;

  Task(const Kernels& kernels, const Linear& l, int64_t rows, const Room& room, float* y, int64_t apart, bool adds)
      : kernels(kernels), linear(l), rows(rows), apart(apart), room(room) {
    const auto* const weights = static_cast<const uint8_t*>(l.weights);
    low = {rows, l.in, l.out, l.groups, l.group(), l.bits, l.variant, adds, room.inputs, weights, l.scale, l.offset,
           l.table, nullptr, nullptr, y, static_cast<int8_t*>(room.rounded), room.steps, room.steps + rows * l.groups};
    whole = {rows, l.in, apart, static_cast<const bfloat16*>(room.rounded), static_cast<const bfloat16*>(l.weights),
             static_cast<const bfloat16*>(l.bias), y, adds};
  }

  // The inputs of share `share` of a row, as they are multiplied.
  void round(int64_t row, int64_t share) const {
    if (!linear.full()) return kernels.round(&low, row * linear.groups + share, row * linear.groups + share + 1);
    const int64_t first = row * linear.in + share * FULL_GROUP;
    narrowed(room.inputs + first, static_cast<bfloat16*>(room.rounded) + first,
             std::min(FULL_GROUP, linear.in - share * FULL_GROUP));
  }

  // The outputs of a unit, of all rows.
  void multiply(int64_t unit) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, linear.out - first);
    if (linear.full()) return kernels.multiply_full(&whole, first, first + count);
    kernels.multiply(&low, unit, unit + 1);
    const auto* const bias = static_cast<const float*>(linear.bias);
    for (int64_t row = 0; bias && row < rows; ++row) add(low.y + row * apart + first, bias + first, count);
  }
};

}  // namespace
