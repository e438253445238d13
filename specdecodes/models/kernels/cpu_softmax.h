// Attention by tiles of queries, whatever it multiplies with: a step's tensors, scores to weights, stripes of slots.
//
// `W`, a way to multiply, is a thread's working memory too, kept: fresh memory costs more than what is done in it. It has
// scores [TILE][STRIPE] and sums [TILE][dims] of its Sums, dims padded to a multiple of BLOCK (what the padding holds is
// not read), and of each query's scores so far `top`, the highest, and `total`, the sum of e^(score - top).
#pragma once

#include <vector>

#include "cpu_rows.h"

namespace {

constexpr int64_t TILE = 64;     // queries
constexpr int64_t STRIPE = 512;  // slots

struct Step {
  int64_t rows, heads, kv_heads, dim, slots, start, stop, mask_stride, tile, number, row;  // bytes of the last two
  const void* query;
  const uint8_t *keys, *values, *mask;
  double scale;
  void* out;

  int64_t group() const { return heads / kv_heads; }
  int64_t queries() const { return rows * group(); }  // of one kv head
  int64_t tiles() const { return (queries() + tile - 1) / tile; }
  int64_t seen() const { return stop - start; }
  int64_t place(int64_t head, int64_t q) const {  // of a query, and of what it yields
    return ((q / group()) * heads + head * group() + q % group()) * dim * number;
  }
};

template <typename A>
struct Vector {
  typedef A Lanes __attribute__((vector_size(64), aligned(alignof(A)), may_alias));
  typedef uint8_t Bytes __attribute__((vector_size(64 / sizeof(A)), aligned(1), may_alias));
  static constexpr int64_t WIDTH = 64 / sizeof(A), PARTS = BLOCK / WIDTH, QUERIES = 8 / PARTS;  // kept in registers
};

// The highest of `top` and the visible scores; the others become -inf. `count` is whole vectors.
template <typename A>
INLINE A hide(A* row, const uint8_t* visible, int64_t count, A top) {
  using V = Vector<A>;
  using Lanes = typename V::Lanes;
  const Lanes nothing = Lanes{} - INFINITY;
  Lanes peaks = nothing;
  for (int64_t slot = 0; slot < count; slot += V::WIDTH) {
    Lanes& scores = *(Lanes*)(row + slot);
    const auto seen = __builtin_convertvector(*(const typename V::Bytes*)(visible + slot), decltype(scores > peaks));
    scores = seen != 0 ? scores : nothing;
    peaks = scores > peaks ? scores : peaks;
  }
  for (int64_t lane = 0; lane < V::WIDTH; ++lane) top = peaks[lane] > top ? peaks[lane] : top;
  return top;
}

// A stripe's scores to weights, the invisible ones zero; what was summed up before fades to their scale. Weights are
// summed as they are kept, in double, and whole blocks at a time, so that the sum does not depend on where among invisible
// slots they lie. `visible` is zero behind the last slot up to a whole block.
template <typename W>
INLINE void weigh(const uint8_t* visible, int64_t count, int64_t q, W& way) {
  using A = typename W::Sums;
  const int64_t whole = (count + BLOCK - 1) / BLOCK * BLOCK, dims = way.dims;
  A *const row = way.scores + q * STRIPE, *const sums = way.sums + q * dims;
  const A before = way.top[q], peak = hide(row, visible, whole, before);
  const A base = peak == A(-INFINITY) ? A(0) : peak;  // nothing seen yet: -inf minus -inf would be no number
  double added = 0;
#pragma omp simd reduction(+ : added)
  for (int64_t slot = 0; slot < whole; ++slot) {
    row[slot] = W::kept(exponential(row[slot] - base));
    added += row[slot];
  }
  const A fade = exponential(before - base);
  way.total[q] = way.total[q] * fade + A(added);
  if (peak != before)
    for (int64_t d = 0; d < dims; ++d) sums[d] *= fade;
  way.top[q] = peak;
}

// Whether any query of a tile sees one of `count` slots; `mask` is that of its first row, there.
INLINE bool seen_by(const uint8_t* mask, int64_t rows, int64_t mask_stride, int64_t count) {
  uint8_t any = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t slot = 0; slot < count; ++slot) any |= mask[row * mask_stride + slot];
  return any != 0;
}

// The slots [begin, begin + count) of the window, at most STRIPE, for the queries of a tile.
template <typename W>
INLINE void attend_stripe(const Step& s, int64_t head, int64_t first_query, int64_t queries, int64_t begin,
                          int64_t count, W& way) {
  const int64_t first_row = first_query / s.group();
  const int64_t rows = (first_query + queries - 1) / s.group() - first_row + 1;
  const int64_t from = (head * s.slots + s.start + begin) * s.row;
  const uint8_t *const keys = s.keys + from, *const values = s.values + from;
  const uint8_t* const mask = s.mask + begin;
  bool seen[STRIPE / BLOCK], any = false;
  for (int64_t first = 0; first < count; first += BLOCK) {
    const int64_t slots = std::min(BLOCK, count - first);
    seen[first / BLOCK] = seen_by(mask + first_row * s.mask_stride + first, rows, s.mask_stride, slots);
    any |= seen[first / BLOCK];
  }
  if (!any) return;
  for (int64_t first = 0; first < count; first += BLOCK)
    if (seen[first / BLOCK]) way.score(queries, keys + first * s.row, s.dim, std::min(BLOCK, count - first), first);
  uint8_t visible[STRIPE] = {0};  // to the row of query q
  for (int64_t q = 0; q < queries; ++q) {
    if (q == 0 || (first_query + q) % s.group() == 0)
      std::memcpy(visible, mask + (first_query + q) / s.group() * s.mask_stride, count);
    weigh(visible, count, q, way);
  }
  for (int64_t first = 0; first < count; first += BLOCK)
    if (seen[first / BLOCK]) way.add(queries, values + first * s.row, s.dim, std::min(BLOCK, count - first), first);
}

// One tile of the queries of one kv head.
template <typename W>
INLINE void attend_tile(const Step& s, int64_t head, int64_t tile, W& way) {
  const int64_t first_query = tile * s.tile, queries = std::min(s.tile, s.queries() - first_query);
  way.fit(queries, s.dim);
  std::fill(way.sums, way.sums + queries * way.dims, 0);
  std::fill(way.top, way.top + queries, -INFINITY);
  std::fill(way.total, way.total + queries, 0);
  for (int64_t q = 0; q < queries; ++q)
    way.take(q, (const uint8_t*)s.query + s.place(head, first_query + q), s.dim, s.scale);
  for (int64_t begin = 0; begin < s.seen(); begin += STRIPE)
    attend_stripe(s, head, first_query, queries, begin, std::min(STRIPE, s.seen() - begin), way);
  for (int64_t q = 0; q < queries; ++q) way.give(q, s.dim, (uint8_t*)s.out + s.place(head, first_query + q));
}

}  // namespace
