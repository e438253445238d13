// The layers and steps that are called, as Python lays them out, and the numbers that lie between the steps of a layer.
#pragma once

#include <array>
#include <numeric>
#include <vector>

#include "cpu_layer_linear.h"

namespace {

struct Attention {
  int64_t (*tile)(int64_t queries, int64_t kv_heads);
  void (*write)(const void* numbers, int64_t dim, int is_key, int64_t eight_bits, void* cache, int64_t index);
  void (*attend)(const void* query, const void* keys, const void* values, const uint8_t* mask, void* out, double scale,
                 const int64_t* n, int64_t tile, int64_t item);
};

// Norms are float; those of a head's queries and keys may be null. One linear may stand for q, k and v, and one for gate
// and up: then it is the first of them.
struct Layer {
  Kernels kernels;
  Attention attention;
  const float *norm, *post_norm, *query_norm, *key_norm;
  double eps;
  int64_t hidden, heads, kv_heads, dim, ffn;
  void *keys, *values;
  Linear q, k, v, o, gate, up, down;
};

struct Sight {
  const uint8_t* mask;
  int64_t start, stop, mask_stride;
};

// Where the state that leaves a layer is to stay, its rows so far apart; null: nowhere.
struct Kept {
  void* state;
  int64_t apart;
};

struct Step {
  int64_t rows;
  const void *cos, *sin;
  const int64_t* slots;
  int64_t cache_slots, eight_bits;
  const Sight* sights;  // of each layer
  const Kept* kept;     // of each layer, or null
};

constexpr int64_t BAND = 512;  // columns that a thread takes at a time where units cut them badly, at least

// The numbers between the steps of a layer.
template <typename T>
struct Scratch {
  int64_t wide;         // numbers of a row of x
  float* x;             // [rows][wide]
  float* squares;       // [units of x][rows], summed over the columns of x that a unit has
  float* inputs;        // [rows][ffn], where those are rounded in wide shares
  T *query, *attended;  // [rows][heads * dim]
  Room room, behind;    // of inputs that are normalized, and of those that come of their products
};

// A thread's own numbers.
struct Own {
  int64_t broad;   // numbers of a row
  float* numbers;  // of the widest share
  float* scales;   // [rows]
  float *y, *up;   // [rows][broad]
};

// How the outputs of a layer's linears are cut, so that a thread goes on with what it has just computed.
struct Bands {
  int64_t heads;    // whole ones whose columns are whole units
  int64_t columns;  // of the feed-forward part: whole units and shares of what comes next
  bool shares;      // or units alone, where those are too wide

  explicit Bands(const Layer& l) : heads(std::lcm(COLUMNS, l.dim) / l.dim), columns(std::lcm(COLUMNS, l.down.group())) {
    shares = columns <= BAND || l.down.group() == COLUMNS;
    if (!shares) columns = COLUMNS;
    if (l.up.out == 0 && l.ffn % COLUMNS) columns *= (BAND + columns - 1) / columns;  // a unit too many each
  }
};

// Room for parts of so many numbers, each on cache lines of its own; fresh memory costs more than what is done in it.
template <int N>
std::array<float*, N> parts_of(std::vector<float>& kept, const int64_t (&sizes)[N]) {
  constexpr int64_t LINE = 16;
  std::array<float*, N> parts;
  int64_t ends[N], end = 0;
  for (int i = 0; i < N; ++i) ends[i] = end += (sizes[i] + LINE - 1) / LINE * LINE;
  if (int64_t(kept.size()) < end + LINE) kept.resize(end + LINE);
  float* const all = kept.data() + (LINE - reinterpret_cast<uintptr_t>(kept.data()) / sizeof(float) % LINE) % LINE;
  for (int i = 0; i < N; ++i) parts[i] = i ? all + ends[i - 1] : all;
  return parts;
}

// What any of some layers needs.
struct Needs {
  int64_t wide = 0, in = 0, queries = 0, groups = 0, share = 0, broad = 0;

  Needs(const Layer* const* layers, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const Layer& l = *layers[i];
      const Bands bands(l);
      wide = std::max({wide, l.o.out, l.down.out}), queries = std::max(queries, l.heads * l.dim);
      in = std::max({in, l.hidden, l.heads * l.dim, l.ffn});
      for (const Linear* linear : {&l.q, &l.o, &l.gate, &l.down})
        groups = std::max(groups, linear->groups), share = std::max(share, linear->group());
      share = std::max(share, bands.columns);
      broad = std::max({broad, bands.heads * l.dim, bands.columns + 2 * COLUMNS});
    }
  }

  template <typename T>
  Scratch<T> scratch(int64_t rows) const {
    thread_local std::vector<float> kept;
    const int64_t squares = (wide + COLUMNS - 1) / COLUMNS, rounded = (in + 1) / 2;
    const auto parts = parts_of(kept, {rows * wide, rows * squares, rows * in, rows * queries, rows * queries,
                                       rows * rounded, rows * 2 * groups, rows * rounded, rows * 2 * groups});
    return {wide, parts[0], parts[1], parts[2], reinterpret_cast<T*>(parts[3]), reinterpret_cast<T*>(parts[4]),
            {parts[5], parts[6]}, {parts[7], parts[8]}};
  }

  Own own(int64_t rows) const {
    thread_local std::vector<float> kept;
    const auto parts = parts_of(kept, {share, rows, rows * broad, rows * broad});
    return {broad, parts[0], parts[1], parts[2], parts[3]};
  }
};

}  // namespace
