// Attention over a window of cache slots, under a mask: out = softmax(scale q K^T) V, accumulated in A and rounded once.
//
// The queries of a kv head go together, a tile at a time. A long window is looked at in stripes, whose scores stay in a
// core's cache; what was summed before fades when a later stripe has a higher score. Blocks of slots that no query of the
// tile sees are passed over. New keys and values are written to their slots first.
//
// query, out [rows][heads][dim] contiguous; key, value [rows][kv_heads][dim], a row apart by their strides; keys, values
// [kv_heads][slots] rows, see cpu_rows.h; mask [rows][mask_stride], its first column is slot `start`. No row may be
// masked whole.

#include <omp.h>

#include <type_traits>
#include <vector>

#include "cpu_attention_bf16.h"
#include "cpu_numbers.h"
#include "cpu_rows.h"
#include "cpu_softmax.h"

namespace {

// sums[q][0..BLOCK) += factors[q][k] * block[k][0..BLOCK) for N queries; FRESH ones begin at zero.
template <int N, bool FRESH, typename A>
INLINE void accumulate(const A* factors, int64_t factors_apart, const A* block, int64_t block_apart, int64_t count,
                       A* sums, int64_t sums_apart) {
  using V = Vector<A>;
  using Lanes = typename V::Lanes;
  Lanes sum[N][V::PARTS];
  for (int q = 0; q < N; ++q)
    for (int part = 0; part < V::PARTS; ++part)
      sum[q][part] = FRESH ? Lanes{} : *(const Lanes*)(sums + q * sums_apart + part * V::WIDTH);
  for (int64_t k = 0; k < count; ++k) {
    Lanes row[V::PARTS];
    for (int part = 0; part < V::PARTS; ++part) row[part] = *(const Lanes*)(block + k * block_apart + part * V::WIDTH);
    for (int q = 0; q < N; ++q)
      for (int part = 0; part < V::PARTS; ++part) sum[q][part] += factors[q * factors_apart + k] * row[part];
  }
  for (int q = 0; q < N; ++q)
    for (int part = 0; part < V::PARTS; ++part) *(Lanes*)(sums + q * sums_apart + part * V::WIDTH) = sum[q][part];
}

// The same for any number of queries; each is summed in the same order, whatever the others are.
template <bool FRESH, typename A>
INLINE void accumulate_all(int64_t queries, const A* factors, int64_t factors_apart, const A* block,
                           int64_t block_apart, int64_t count, A* sums, int64_t sums_apart) {
  constexpr int N = Vector<A>::QUERIES;
  int64_t q = 0;
  for (; q + N <= queries; q += N)
    accumulate<N, FRESH>(factors + q * factors_apart, factors_apart, block, block_apart, count, sums + q * sums_apart,
                         sums_apart);
  for (; q < queries; ++q)
    accumulate<1, FRESH>(factors + q * factors_apart, factors_apart, block, block_apart, count, sums + q * sums_apart,
                         sums_apart);
}

// Numbers widened to `A`, which a key is once for all queries of a tile: lanes are slots in the first product and head
// dimensions in the second.
template <typename A>
struct Lanes {
  using Sums = A;
  const Rows<A>* rows = nullptr;
  std::vector<A> all;
  int64_t dims = 0;
  A *queries = nullptr, *sums = nullptr, *scores = nullptr, *block = nullptr;
  A top[TILE], total[TILE];

  INLINE void fit(int64_t count, int64_t dim) {
    dims = (dim + BLOCK - 1) / BLOCK * BLOCK;
    const size_t needed = count * (2 * dims + STRIPE) + BLOCK * dims;
    if (all.size() < needed) all.resize(needed);
    queries = all.data();
    sums = queries + count * dims;
    scores = sums + count * dims;
    block = scores + count * STRIPE;
  }
  INLINE void take(int64_t q, const uint8_t* query, int64_t dim, double scale) {
    rows->take(query, dim, scale, queries + q * dims);
  }
  INLINE void score(int64_t count, const uint8_t* keys, int64_t dim, int64_t slots, int64_t first) {
    rows->lay_keys(keys, dim, slots, block);
    accumulate_all<true, A>(count, queries, dims, block, BLOCK, dim, scores + first, STRIPE);
  }
  static INLINE A kept(A weight) { return weight; }
  INLINE void add(int64_t count, const uint8_t* values, int64_t dim, int64_t slots, int64_t first) {
    rows->lay_values(values, dim, slots, dims, block);
    for (int64_t d = 0; d < dims; d += BLOCK)
      accumulate_all<false, A>(count, scores + first, STRIPE, block + d, dims, slots, sums + d, dims);
  }
  INLINE void give(int64_t q, int64_t dim, uint8_t* out) { rows->give(sums + q * dims, 1 / total[q], dim, out); }
};

// One function for each kind of sums, which the compiler clones for the machines it may run on.
WIDEST void run(const Step& s, int64_t head, int64_t tile, Lanes<float>& way) { attend_tile(s, head, tile, way); }
WIDEST void run(const Step& s, int64_t head, int64_t tile, Lanes<double>& way) { attend_tile(s, head, tile, way); }
#ifdef PAIRS_RUN
BF16 void run(const Step& s, int64_t head, int64_t tile, Pairs& way) { attend_tile(s, head, tile, way); }
#endif

// How many queries of a kv head go together: as many as a tile holds, or fewer where that shares the work among threads.
int64_t tile_of(int64_t queries, int64_t kv_heads) {
  const int64_t threads = omp_get_max_threads();
  int64_t tiles = (queries + TILE - 1) / TILE;
  while (kv_heads * tiles % threads != 0 && kv_heads * tiles < 4 * threads && 8 * tiles < queries) ++tiles;
  return (queries + tiles - 1) / tiles;
}

// One tile of one kv head; `n` as below, and the tile's size.
template <typename A>
void attend_item(const Rows<A>& rows, const void* query, const uint8_t* keys, const uint8_t* values,
                 const uint8_t* mask, void* out, double scale, const int64_t* n, int64_t tile, int64_t item) {
  const Step step{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], tile,
                  rows.number, rows.bytes(n[3]), query, keys, values, mask, scale, out};
#ifdef PAIRS_RUN
  if constexpr (std::is_same_v<A, float>) {
    thread_local Pairs pairs;
    if (rows.pairs && Pairs::run_here()) return run(step, item / step.tiles(), item % step.tiles(), pairs);
  }
#endif
  thread_local Lanes<A> lanes;
  lanes.rows = &rows;
  run(step, item / step.tiles(), item % step.tiles(), lanes);
}

template <typename A>
void write_row(const Rows<A>& rows, const uint8_t* numbers, int64_t dim, bool is_key, uint8_t* cache, int64_t index) {
  thread_local std::vector<float> room;
  room.resize(dim);
  rows.write(numbers, dim, is_key, room.data(), cache + index * rows.bytes(dim));
}

template <typename A>
int attend(const Rows<A>& kind, const void* query, const void* key, const void* value, uint8_t* keys, uint8_t* values,
           const int64_t* new_slots, const uint8_t* mask, void* out, double scale, const int64_t* n) {
  const int64_t rows = n[0], heads = n[1], kv_heads = n[2], dim = n[3], slots = n[4], queries = rows * heads / kv_heads;
  const auto* const new_keys = static_cast<const uint8_t*>(key);
  const auto* const new_values = static_cast<const uint8_t*>(value);
  for (int64_t row = 0; row < rows; ++row)
    if (new_slots[row] < 0 || new_slots[row] >= slots) return 1;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < kv_heads; ++head) {
      const int64_t from = head * dim, to = head * slots + new_slots[row];
      write_row(kind, new_keys + (row * n[8] + from) * kind.number, dim, true, keys, to);
      write_row(kind, new_values + (row * n[9] + from) * kind.number, dim, false, values, to);
    }
  const int64_t tile = tile_of(queries, kv_heads), items = kv_heads * ((queries + tile - 1) / tile);
#pragma omp parallel for schedule(dynamic) if (items > 1 && rows * heads * dim * (n[6] - n[5]) > 100000)
  for (int64_t item = 0; item < items; ++item)
    attend_item(kind, query, keys, values, mask, out, scale, n, tile, item);
  return 0;
}

// Rows of T's as they are, or in 8 bits.
template <typename T>
const Rows<float>& rows_of(bool eight_bits) {
  return eight_bits ? ROWS<EightBits<T>, float> : ROWS<Whole<T>, float>;
}

}  // namespace

extern "C" int64_t attend_tile(int64_t queries, int64_t kv_heads) { return tile_of(queries, kv_heads); }

// attend_T: 0, or 1 when a slot to write lies outside the cache. `exact` accumulates in double, else in float.
// `n`: rows, heads, kv_heads, dim, slots, start, stop, mask_stride, key_stride, value_stride, and whether the cache's
// rows are in 8 bits, which is never exact.
// write_T and item_T are its parts, in float: a key or value to row `index` of the cache, and one tile of the queries of
// one kv head, `attend_tile` of them.
#define ATTEND(T)                                                                                                      \
  extern "C" int attend_##T(const void* query, const void* key, const void* value, uint8_t* keys, uint8_t* values,     \
                            const int64_t* slots, const uint8_t* mask, void* out, double scale, const int64_t* n,      \
                            int exact) {                                                                               \
    if (exact && !n[10])                                                                                               \
      return attend(ROWS<Whole<T>, double>, query, key, value, keys, values, slots, mask, out, scale, n);              \
    return attend(rows_of<T>(n[10]), query, key, value, keys, values, slots, mask, out, scale, n);                     \
  }                                                                                                                    \
  extern "C" void write_##T(const uint8_t* numbers, int64_t dim, int is_key, int64_t eight_bits, uint8_t* cache,       \
                            int64_t index) {                                                                           \
    write_row(rows_of<T>(eight_bits), numbers, dim, is_key != 0, cache, index);                                        \
  }                                                                                                                    \
  extern "C" void item_##T(const void* query, const uint8_t* keys, const uint8_t* values, const uint8_t* mask,         \
                           void* out, double scale, const int64_t* n, int64_t tile, int64_t item) {                    \
    attend_item(rows_of<T>(n[10]), query, keys, values, mask, out, scale, n, tile, item);                              \
  }
ATTEND(bfloat16)
ATTEND(float16)
ATTEND(float)
