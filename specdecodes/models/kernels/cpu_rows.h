// How a key or a value lies in a cache, its numbers as they are or in 8 bits (see cache_codes.py for what is stored), and
// what attention does with such rows and with a model's numbers.
#pragma once

#include <cfloat>
#include <type_traits>

#include "cpu_numbers.h"

namespace {

constexpr int64_t BLOCK = 32;  // slots, or head dimensions, that lie side by side

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
  static void write(const void* numbers, int64_t dim, bool, float*, uint8_t* row) {
    std::memcpy(row, numbers, dim * sizeof(T));
  }
  // to[d * STRIDE] = the row's number d
  template <int64_t STRIDE, typename A>
  static INLINE void read(const uint8_t* row, int64_t dim, A* to) {
    const T* const numbers = reinterpret_cast<const T*>(row);
    for (int64_t d = 0; d < dim; ++d) to[d * STRIDE] = widen(numbers[d]);
  }
};

template <typename T>
struct EightBits {
  using Number = T;
  static constexpr bool TURNED = true;
  static int64_t step_at(int64_t dim) { return (dim + 3) / 4 * 4; }
  static int64_t bytes(int64_t dim) { return step_at(dim) + 4; }
  // `room` is for `dim` numbers.
  static void write(const void* numbers, int64_t dim, bool is_key, float* room, uint8_t* row) {
    for (int64_t d = 0; d < dim; ++d) room[d] = widen(reinterpret_cast<const T*>(numbers)[d]);
    if (is_key) turn(room, dim);
    float top = 0;
    bool numeric = true;
    for (int64_t d = 0; d < dim; ++d) {
      top = std::max(top, std::fabs(room[d]));
      numeric &= std::fabs(room[d]) <= FLT_MAX;
    }
    const float step = numeric ? top / 127 : NAN;  // what is no number stays none
    for (int64_t d = 0; d < step_at(dim); ++d)
      row[d] = d < dim && step > 0 ? uint8_t(int8_t(std::lrint(room[d] / step))) : 0;
    std::memcpy(row + step_at(dim), &step, 4);
  }
  template <int64_t STRIDE, typename A>
  static INLINE void read(const uint8_t* row, int64_t dim, A* to) {
    const int8_t* const codes = reinterpret_cast<const int8_t*>(row);
    float step;
    std::memcpy(&step, row + step_at(dim), 4);
    for (int64_t d = 0; d < dim; ++d) to[d * STRIDE] = A(codes[d]) * A(step);
  }
};

// A query times `scale`, as keys are stored.
template <typename R, typename A>
WIDEST void take(const uint8_t* query, int64_t dim, double scale, A* to) {
  const auto* const numbers = reinterpret_cast<const typename R::Number*>(query);
  for (int64_t d = 0; d < dim; ++d) to[d] = A(widen(numbers[d])) * A(scale);
  if (R::TURNED) turn(to, dim);
}

// `slots` keys to the columns of block [dim][BLOCK], values to the rows of block [slots][dims].
template <typename R, typename A>
WIDEST void lay_keys(const uint8_t* keys, int64_t dim, int64_t slots, A* block) {
  for (int64_t slot = 0; slot < slots; ++slot) R::template read<BLOCK>(keys + slot * R::bytes(dim), dim, block + slot);
}
template <typename R, typename A>
WIDEST void lay_values(const uint8_t* values, int64_t dim, int64_t slots, int64_t dims, A* block) {
  for (int64_t slot = 0; slot < slots; ++slot)
    R::template read<1>(values + slot * R::bytes(dim), dim, block + slot * dims);
}

// Sums times `share`, rounded once.
template <typename T, typename A>
WIDEST void give(const A* sums, A share, int64_t dim, uint8_t* out) {
  for (int64_t d = 0; d < dim; ++d) narrow(float(sums[d] * share), reinterpret_cast<T*>(out) + d);
}

// These of one kind of rows. What attends calls them, and is compiled for each kind of sums, not for each kind of rows
// besides: that takes a compiler three times as long, and a call is nothing beside a block of rows.
template <typename A>
struct Rows {
  int64_t number;                 // bytes of a model's number
  bool pairs;                     // whether rows are bfloat16
  int64_t (*bytes)(int64_t dim);  // of a row
  void (*write)(const void* numbers, int64_t dim, bool is_key, float* room, uint8_t* row);
  void (*take)(const uint8_t* query, int64_t dim, double scale, A* to);
  void (*lay_keys)(const uint8_t* keys, int64_t dim, int64_t slots, A* block);
  void (*lay_values)(const uint8_t* values, int64_t dim, int64_t slots, int64_t dims, A* block);
  void (*give)(const A* sums, A share, int64_t dim, uint8_t* out);
};

template <typename R, typename A>
constexpr Rows<A> ROWS = {
    sizeof(typename R::Number), std::is_same_v<R, Whole<bfloat16>>, R::bytes,         R::write,
    take<R, A>,                 lay_keys<R, A>,                     lay_values<R, A>, give<typename R::Number, A>};

}  // namespace
