// Attention over a window of cache slots, under a mask: out = softmax(scale q K^T) V, accumulated in A and rounded once.
//
// The queries of a kv head go together, a tile at a time, so that a key is widened once for all of them; lanes are
// slots in the first product and head dimensions in the second. A long window is looked at in stripes, whose scores stay
// in a core's cache; what was summed before fades when a later stripe has a higher score. Blocks of slots that no query
// of the tile sees are passed over. New keys and values are written to their slots first.
//
// query, out [rows][heads][dim] contiguous; key, value [rows][kv_heads][dim], a row apart by their strides; keys, values
// [kv_heads][slots] rows, see cpu_rows.h; mask [rows][mask_stride], its first column is slot `start`. No row may be
// masked whole.

#include <omp.h>

#include <vector>

#include "cpu_numbers.h"
#include "cpu_rows.h"

namespace {

constexpr int64_t BLOCK = 32;    // slots, or head dimensions, that lie side by side
constexpr int64_t TILE = 64;     // queries
constexpr int64_t STRIPE = 512;  // slots

template <typename R>
struct Step {
  using T = typename R::Number;
  int64_t rows, heads, kv_heads, dim, slots, start, stop, mask_stride, tile;
  const T* query;
  const uint8_t *keys, *values;
  const uint8_t* mask;
  double scale;
  T* out;

  int64_t group() const { return heads / kv_heads; }
  int64_t queries() const { return rows * group(); }  // of one kv head
  int64_t tiles() const { return (queries() + tile - 1) / tile; }
  int64_t seen() const { return stop - start; }
  int64_t place(int64_t head, int64_t q) const {  // of a query, and of what it yields
    return ((q / group()) * heads + head * group() + q % group()) * dim;
  }
};

// Working memory of a thread, kept: fresh memory costs more than what is done in it. Dims are padded to a multiple of
// BLOCK, and what the padding holds is not read.
template <typename A>
struct Memory {
  std::vector<A> all;
  int64_t dims = 0;
  A *queries = nullptr, *sums = nullptr, *scores = nullptr, *block = nullptr;
  A top[TILE], total[TILE];  // of each query's scores so far: the highest, and the sum of e^(score - top)

  void fit(int64_t count, int64_t dim) {
    dims = (dim + BLOCK - 1) / BLOCK * BLOCK;
    const size_t needed = count * (2 * dims + STRIPE) + BLOCK * dims;
    if (all.size() < needed) all.resize(needed);
    queries = all.data();
    sums = queries + count * dims;
    scores = sums + count * dims;
    block = scores + count * STRIPE;
    std::fill(sums, scores, A(0));
    std::fill(top, top + count, A(-INFINITY));
    std::fill(total, total + count, A(0));
  }
};

template <typename A>
struct Vector {
  typedef A Lanes __attribute__((vector_size(64), aligned(alignof(A)), may_alias));
  typedef uint8_t Bytes __attribute__((vector_size(64 / sizeof(A)), aligned(1), may_alias));
  static constexpr int64_t WIDTH = 64 / sizeof(A), PARTS = BLOCK / WIDTH, QUERIES = 8 / PARTS;  // kept in registers
};

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
// summed in double, and whole blocks at a time, so that the sum does not depend on where among invisible slots they lie.
// `visible` is zero behind the last slot up to a whole block.
template <typename A>
INLINE void weigh(A* row, const uint8_t* visible, int64_t count, A* top, A* total, A* sums, int64_t dims) {
  const int64_t whole = (count + BLOCK - 1) / BLOCK * BLOCK;
  const A peak = hide(row, visible, whole, *top);
  const A base = peak == A(-INFINITY) ? A(0) : peak;  // nothing seen yet: -inf minus -inf would be no number
  double added = 0;
#pragma omp simd reduction(+ : added)
  for (int64_t slot = 0; slot < whole; ++slot) {
    row[slot] = exponential(row[slot] - base);
    added += row[slot];
  }
  const A fade = exponential(*top - base);
  *total = *total * fade + A(added);
  if (peak != *top)
    for (int64_t d = 0; d < dims; ++d) sums[d] *= fade;
  *top = peak;
}

// Whether any query of a tile sees one of `count` slots; `mask` is that of its first row, there.
INLINE bool seen_by(const uint8_t* mask, int64_t rows, int64_t mask_stride, int64_t count) {
  uint8_t any = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t slot = 0; slot < count; ++slot) any |= mask[row * mask_stride + slot];
  return any != 0;
}

// The slots [begin, begin + count) of the window, at most STRIPE, for the queries of a tile.
template <typename R, typename A>
INLINE void attend_stripe(const Step<R>& s, int64_t head, int64_t first_query, int64_t queries, int64_t begin,
                          int64_t count, Memory<A>& m) {
  const int64_t dim = s.dim, first_row = first_query / s.group();
  const int64_t rows = (first_query + queries - 1) / s.group() - first_row + 1;
  const int64_t row = R::bytes(dim), from = (head * s.slots + s.start + begin) * row;
  const uint8_t *const keys = s.keys + from, *const values = s.values + from;
  const uint8_t* const mask = s.mask + begin;
  bool seen[STRIPE / BLOCK], any = false;
  for (int64_t first = 0; first < count; first += BLOCK) {
    const int64_t slots = std::min(BLOCK, count - first);
    seen[first / BLOCK] = seen_by(mask + first_row * s.mask_stride + first, rows, s.mask_stride, slots);
    any |= seen[first / BLOCK];
  }
  if (!any) return;
  for (int64_t first = 0; first < count; first += BLOCK) {
    if (!seen[first / BLOCK]) continue;
    const int64_t slots = std::min(BLOCK, count - first);
    for (int64_t slot = 0; slot < slots; ++slot) R::read(keys + (first + slot) * row, dim, m.block + slot, BLOCK);
    accumulate_all<true, A>(queries, m.queries, m.dims, m.block, BLOCK, dim, m.scores + first, STRIPE);
  }
  uint8_t visible[STRIPE] = {0};  // to the row of query q
  for (int64_t q = 0; q < queries; ++q) {
    if (q == 0 || (first_query + q) % s.group() == 0)
      std::memcpy(visible, mask + (first_query + q) / s.group() * s.mask_stride, count);
    weigh<A>(m.scores + q * STRIPE, visible, count, m.top + q, m.total + q, m.sums + q * m.dims, m.dims);
  }
  for (int64_t first = 0; first < count; first += BLOCK) {
    if (!seen[first / BLOCK]) continue;
    const int64_t slots = std::min(BLOCK, count - first);
    for (int64_t slot = 0; slot < slots; ++slot) R::read(values + (first + slot) * row, dim, m.block + slot * m.dims, 1);
    for (int64_t d = 0; d < m.dims; d += BLOCK)
      accumulate_all<false, A>(queries, m.scores + first, STRIPE, m.block + d, m.dims, slots, m.sums + d, m.dims);
  }
}

// One tile of the queries of one kv head.
template <typename R, typename A>
INLINE void attend_tile(const Step<R>& s, int64_t head, int64_t tile, Memory<A>& m) {
  const int64_t first_query = tile * s.tile, queries = std::min(s.tile, s.queries() - first_query), dim = s.dim;
  m.fit(queries, dim);
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t d = 0; d < dim; ++d)
      m.queries[q * m.dims + d] = A(widen(s.query[s.place(head, first_query + q) + d])) * A(s.scale);
    if (R::TURNED) turn(m.queries + q * m.dims, dim);
  }
  for (int64_t begin = 0; begin < s.seen(); begin += STRIPE)
    attend_stripe(s, head, first_query, queries, begin, std::min(STRIPE, s.seen() - begin), m);
  for (int64_t q = 0; q < queries; ++q) {
    const A share = 1 / m.total[q];
    for (int64_t d = 0; d < dim; ++d)
      narrow(float(m.sums[q * m.dims + d] * share), s.out + s.place(head, first_query + q) + d);
  }
}

// One function for each kind of rows and of sums, which the compiler clones for the machines it may run on.
#define RUN(R, A) \
  WIDEST void run(const Step<R>& s, int64_t head, int64_t tile, Memory<A>& m) { attend_tile(s, head, tile, m); }
RUN(Whole<bfloat16>, float)
RUN(Whole<float16>, float)
RUN(Whole<float>, float)
RUN(Whole<bfloat16>, double)
RUN(Whole<float16>, double)
RUN(Whole<float>, double)
RUN(EightBits<bfloat16>, float)
RUN(EightBits<float16>, float)
RUN(EightBits<float>, float)

// How many queries of a kv head go together: as many as a tile holds, or fewer where that shares the work among threads.
int64_t tile_of(int64_t queries, int64_t kv_heads) {
  const int64_t threads = omp_get_max_threads();
  int64_t tiles = (queries + TILE - 1) / TILE;
  while (kv_heads * tiles % threads != 0 && kv_heads * tiles < 4 * threads && 8 * tiles < queries) ++tiles;
  return (queries + tiles - 1) / tiles;
}

// One tile of one kv head; `n` as below, and the tile's size.
template <typename A, typename R, typename T>
void attend_item(const T* query, const uint8_t* keys, const uint8_t* values, const uint8_t* mask, T* out, double scale,
                 const int64_t* n, int64_t tile, int64_t item) {
  thread_local Memory<A> memory;
  const Step<R> step{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], tile, query, keys, values, mask, scale, out};
  run(step, item / step.tiles(), item % step.tiles(), memory);
}

template <typename R, typename T>
void write_row(const T* numbers, int64_t dim, bool is_key, uint8_t* cache, int64_t index) {
  thread_local std::vector<float> room;
  room.resize(dim);
  R::write(numbers, dim, is_key, room.data(), cache + index * R::bytes(dim));
}

template <typename A, typename R, typename T>
int attend(const T* query, const T* key, const T* value, uint8_t* keys, uint8_t* values, const int64_t* new_slots,
           const uint8_t* mask, T* out, double scale, const int64_t* n) {
  const int64_t rows = n[0], heads = n[1], kv_heads = n[2], dim = n[3], slots = n[4], queries = rows * heads / kv_heads;
  for (int64_t row = 0; row < rows; ++row)
    if (new_slots[row] < 0 || new_slots[row] >= slots) return 1;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < kv_heads; ++head) {
      write_row<R>(key + row * n[8] + head * dim, dim, true, keys, head * slots + new_slots[row]);
      write_row<R>(value + row * n[9] + head * dim, dim, false, values, head * slots + new_slots[row]);
    }
  const int64_t tile = tile_of(queries, kv_heads), items = kv_heads * ((queries + tile - 1) / tile);
#pragma omp parallel for schedule(dynamic) if (items > 1 && rows * heads * dim * (n[6] - n[5]) > 100000)
  for (int64_t item = 0; item < items; ++item)
    attend_item<A, R>(query, keys, values, mask, out, scale, n, tile, item);
  return 0;
}

}  // namespace

extern "C" int64_t attend_tile(int64_t queries, int64_t kv_heads) { return tile_of(queries, kv_heads); }

// attend_T: 0, or 1 when a slot to write lies outside the cache. `exact` accumulates in double, else in float.
// `n`: rows, heads, kv_heads, dim, slots, start, stop, mask_stride, key_stride, value_stride, and whether the cache's
// rows are in 8 bits, which is never exact.
// write_T and item_T are its parts, in float: a key or value to row `index` of the cache, and one tile of the queries of
// one kv head, `attend_tile` of them.
#define ATTEND(T)                                                                                                      \
  extern "C" int attend_##T(const T* query, const T* key, const T* value, uint8_t* keys, uint8_t* values,              \
                            const int64_t* slots, const uint8_t* mask, T* out, double scale, const int64_t* n,         \
                            int exact) {                                                                              \
    const auto run = n[10] ? attend<float, EightBits<T>, T>                                                           \
                     : exact ? attend<double, Whole<T>, T> : attend<float, Whole<T>, T>;                              \
    return run(query, key, value, keys, values, slots, mask, out, scale, n);                                          \
  }                                                                                                                   \
  extern "C" void write_##T(const T* numbers, int64_t dim, int is_key, int64_t eight_bits, uint8_t* cache,             \
                            int64_t index) {                                                                          \
    (eight_bits ? write_row<EightBits<T>, T> : write_row<Whole<T>, T>)(numbers, dim, is_key != 0, cache, index);       \
  }                                                                                                                   \
  extern "C" void item_##T(const T* query, const uint8_t* keys, const uint8_t* values, const uint8_t* mask, T* out,    \
                           double scale, const int64_t* n, int64_t tile, int64_t item) {                               \
    const auto run = n[10] ? attend_item<float, EightBits<T>, T> : attend_item<float, Whole<T>, T>;                   \
    run(query, keys, values, mask, out, scale, n, tile, item);                                                        \
  }
ATTEND(bfloat16)
ATTEND(float16)
ATTEND(float)
