// A product of full-precision weights, which threads share by outputs: y = x W^T + b, or y += x W^T + b with `adds`.
#pragma once

#include "cpu_numbers.h"

namespace {

template <typename Y>
struct FullProduct {
  int64_t rows, in, apart;    // apart: from a row of y to the next
  const bfloat16 *x, *w, *b;  // [rows][in], [out][in], [out] or null
  Y* y;
  bool adds;
};

}  // namespace
