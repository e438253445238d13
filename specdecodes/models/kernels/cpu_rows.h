// How a key or a value lies in a cache: its numbers as they are, or in 8 bits (see cache_codes.py for what is stored).
#pragma once

#include <cfloat>

#include "cpu_numbers.h"

namespace {

// The Hadamard rotation of quant/hadamard.py, in place.
template <typename A>
INLINE void turn(A* x, int64_t dim) {
  const int64_t size = std::min<int64_t>(dim & -dim, 512);
  const A scale = A(1) / std::sqrt(A(size));
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t first = 0; first < dim; first += 2 * half)
      for (int64_t i = first; i < first + half; ++i) {
        const A low = x[i], high = x[i + half];
        x[i] = low + high;
        x[i + half] = low - high;
      }
  for (int64_t i = 0; i < dim; ++i) x[i] *= scale;
}

template <typename T>
struct Whole {
  using Number = T;
  static constexpr bool TURNED = false;  // whether keys are, and so queries have to be
  static int64_t bytes(int64_t dim) { return dim * int64_t(sizeof(T)); }
  static void write(const T* numbers, int64_t dim, bool, float*, uint8_t* row) {
    std::memcpy(row, numbers, dim * sizeof(T));
  }
  // to[d * apart] = the row's number d
  template <typename A>
  static INLINE void read(const uint8_t* row, int64_t dim, A* to, int64_t apart) {
    const T* const numbers = reinterpret_cast<const T*>(row);
    for (int64_t d = 0; d < dim; ++d) to[d * apart] = widen(numbers[d]);
  }
};

template <typename T>
struct EightBits {
  using Number = T;
  static constexpr bool TURNED = true;
  static int64_t step_at(int64_t dim) { return (dim + 3) / 4 * 4; }
  static int64_t bytes(int64_t dim) { return step_at(dim) + 4; }
  // `room` is for `dim` numbers.
  static void write(const T* numbers, int64_t dim, bool is_key, float* room, uint8_t* row) {
    for (int64_t d = 0; d < dim; ++d) room[d] = widen(numbers[d]);
    if (is_key) turn(room, dim);
    float top = 0;
    bool numeric = true;
    for (int64_t d = 0; d < dim; ++d) {
      top = std::max(top, std::fabs(room[d]));
      numeric &= std::fabs(room[d]) <= FLT_MAX;
    }
    const float step = numeric ? top / 127 : NAN;  // what is no number stays none
    std::memset(row, 0, step_at(dim));
    std::memcpy(row + step_at(dim), &step, 4);
    for (int64_t d = 0; step > 0 && d < dim; ++d) row[d] = uint8_t(int8_t(std::lrint(room[d] / step)));
  }
  template <typename A>
  static INLINE void read(const uint8_t* row, int64_t dim, A* to, int64_t apart) {
    const int8_t* const codes = reinterpret_cast<const int8_t*>(row);
    float step;
    std::memcpy(&step, row + step_at(dim), 4);
    for (int64_t d = 0; d < dim; ++d) to[d * apart] = A(codes[d]) * A(step);
  }
};

}  // namespace
