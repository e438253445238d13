// y = x W^T + b for a few rows in bfloat16, sums in float: as fast as the weights arrive from memory.
//
// A row's sum runs over the inputs in one order, whatever rows stand beside it: its bits do not depend on them.
//
// x [rows][in], w [out][in], b [out] or null, y [rows][out].

#include <vector>

#include "cpu_between.h"
#include "cpu_linear.h"
#include "cpu_numbers.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif
#define UNROLL _Pragma("GCC unroll 8")

namespace {

constexpr int64_t STEP = 32;  // inputs of a vector
constexpr int SIDE = 8;       // outputs side by side: streams of weights from memory
constexpr int TALL = 4;       // rows that share them
constexpr int64_t UNIT = 2 * SIDE;  // outputs whose weights stay in the second cache until all rows are through

#if defined(__x86_64__)

// What the next unit needs is fetched meanwhile, by each pass over a unit its part: no pattern that the processor would
// see by itself. In inputs: where a pass begins, and how many it fetches for every STEP that it multiplies.
struct Ahead {
  int64_t begin, step;
};

// M rows of N outputs.
template <int M, int N, typename Y>
BF16 void tile(const FullProduct<Y>& p, int64_t row, int64_t n0, Ahead ahead) {
  const bfloat16 *x = p.x + row * p.in, *w = p.w + n0 * p.in;
  const bfloat16* next = w + UNIT * p.in + ahead.begin;
  __m512 sum[N][M];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) sum[n][m] = _mm512_setzero_ps();
  const int64_t whole = p.in / STEP * STEP;
  for (int64_t i = 0; i < whole; i += STEP, next += ahead.step) {
    __m512bh a[M];
    UNROLL for (int m = 0; m < M; ++m) a[m] = (__m512bh)_mm512_loadu_si512(x + m * p.in + i);
    UNROLL for (int n = 0; n < N; ++n) {
      _mm_prefetch(reinterpret_cast<const char*>(next + n * p.in), _MM_HINT_T1);
      const __m512bh weights = (__m512bh)_mm512_loadu_si512(w + n * p.in + i);
      UNROLL for (int m = 0; m < M; ++m) sum[n][m] = _mm512_dpbf16_ps(sum[n][m], weights, a[m]);
    }
  }
  if (whole < p.in) {
    const __mmask32 inside = (1u << (p.in - whole)) - 1;
    UNROLL for (int n = 0; n < N; ++n) {
      const __m512bh weights = (__m512bh)_mm512_maskz_loadu_epi16(inside, w + n * p.in + whole);
      UNROLL for (int m = 0; m < M; ++m) {
        const __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(inside, x + m * p.in + whole);
        sum[n][m] = _mm512_dpbf16_ps(sum[n][m], weights, a);
      }
    }
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int m = 0; m < M; ++m) {
    const float total = _mm512_reduce_add_ps(sum[n][m]);
    Y* const y = p.y + (row + m) * p.apart + n0 + n;
    narrow((p.b ? total + widen(p.b[n0 + n]) : total) + (p.adds ? widen(*y) : 0.0f), y);
  }
}

template <int M, typename Y>
void rows_of(const FullProduct<Y>& p, int64_t row, int64_t first, int64_t end, Ahead ahead) {
  int64_t n = first;
  for (; n + SIDE <= end; n += SIDE) tile<M, SIDE>(p, row, n, ahead);
  for (; n + 2 <= end; n += 2) tile<M, 2>(p, row, n, ahead);
  for (; n < end; ++n) tile<M, 1>(p, row, n, ahead);
}

template <typename Y>
void unit(const FullProduct<Y>& p, int64_t first, int64_t end) {
  const int64_t passes = (p.rows + TALL - 1) / TALL, step = (STEP + passes - 1) / passes;
  for (int64_t row = 0; row < p.rows; row += TALL) {
    const Ahead ahead{row / TALL * (p.in / STEP * step), step};
    switch (std::min<int64_t>(TALL, p.rows - row)) {
      case 1: rows_of<1>(p, row, first, end, ahead); break;
      case 2: rows_of<2>(p, row, first, end, ahead); break;
      case 3: rows_of<3>(p, row, first, end, ahead); break;
      default: rows_of<TALL>(p, row, first, end, ahead);
    }
  }
}

#else

template <typename Y>
void unit(const FullProduct<Y>&, int64_t, int64_t) {}

#endif

}  // namespace

// Whether this processor multiplies bfloat16.
extern "C" int cpu_linear_runs() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return 0;
#endif
}

// The outputs [first, end) of all rows, for kernels whose threads share them.
extern "C" void cpu_linear_share(const FullProduct<float>* p, int64_t first, int64_t end) {
  for (int64_t n = first; n < end; n += UNIT) unit(*p, n, std::min(n + UNIT, end));
}

extern "C" void cpu_linear(const bfloat16* x, const bfloat16* w, const bfloat16* b, bfloat16* y, int64_t rows,
                           int64_t in, int64_t out) {
  const FullProduct<bfloat16> p{rows, in, out, x, w, b, y, false};
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < out; first += UNIT) unit(p, first, std::min(first + UNIT, out));
}

// A model's head: y = norm(x) W^T, the norm's weights in float.
extern "C" void cpu_head(const bfloat16* x, const float* norm, double eps, const bfloat16* w, bfloat16* y, int64_t rows,
                         int64_t in, int64_t out) {
  std::vector<float> wide(in);
  std::vector<bfloat16> normalized(rows * in);
  for (int64_t row = 0; row < rows; ++row) {
    widened(x + row * in, wide.data(), in);
    const float scale = 1.0f / std::sqrt(squared(wide.data(), in) / float(in) + float(eps));
    scaled(wide.data(), scale, norm, wide.data(), in);
    narrowed(wide.data(), normalized.data() + row * in, in);
  }
  cpu_linear(normalized.data(), w, nullptr, y, rows, in, out);
}
