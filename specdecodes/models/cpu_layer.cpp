// A layer of a draft on a few rows in one call: norm, queries, keys and values, rotary positions, attention, output,
// norm, SwiGLU. Linears and attention are other libraries' functions, which share their work among threads; what lies
// between is little, stays in float, and is rounded to the model's type where it enters the cache or leaves the layer.
//
// hidden, out [rows][hidden]; cos, sin [rows][dim]; keys, values, slots, mask, start and stop as in cpu_attention.cpp.

#include <vector>

#include "cpu_numbers.h"

namespace {

using Product = void (*)(const float* x, const int8_t*, const float*, const uint8_t* packed, const uint16_t* scale,
                         const uint16_t* offset, const uint8_t* table, float* y, int64_t rows, int64_t in, int64_t out,
                         int64_t groups, int bits, int variant);
using Attend = int (*)(const void* query, const void* key, const void* value, void* keys, void* values,
                       const int64_t* slots, const uint8_t* mask, void* out, double scale, const int64_t* n, int exact);

constexpr int64_t CHUNK = 1024;   // numbers that a thread takes at a time
constexpr int64_t PARALLEL = 16;  // chunks that are worth a second thread

// As w4a8.cpp takes it; bias [out] or null.
struct Linear {
  const uint8_t* packed;
  const uint16_t *scale, *offset;
  const uint8_t* table;
  const float* bias;
  int64_t in, out, groups, bits, variant;
};

}  // namespace

extern "C" {

// Norms are float; those of a head's queries and keys may be null.
struct Layer {
  Product product;
  Attend attend;
  const float *norm, *post_norm, *query_norm, *key_norm;
  double eps;
  int64_t hidden, heads, kv_heads, dim, ffn;
  Linear qkv, o, gate_up, down;
};

struct Step {
  int64_t rows;
  const void *cos, *sin;
  void *keys, *values;
  const int64_t* slots;
  const uint8_t* mask;
  int64_t cache_slots, start, stop, mask_stride, eight_bits;
};
}

namespace {

// One function for each type, which the compiler clones for the machines it may run on.
template <typename T>
INLINE void widen_each(const T* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}
template <typename T>
INLINE void narrow_each(const float* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}
WIDEST void widened(const bfloat16* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void widened(const float16* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void widened(const float* from, float* to, int64_t count) { widen_each(from, to, count); }
WIDEST void narrowed(const float* from, bfloat16* to, int64_t count) { narrow_each(from, to, count); }
WIDEST void narrowed(const float* from, float16* to, int64_t count) { narrow_each(from, to, count); }
WIDEST void narrowed(const float* from, float* to, int64_t count) { narrow_each(from, to, count); }

// out = x / its root mean square * weight; out may be x.
WIDEST void normalize(const float* x, const float* weight, double eps, int64_t size, float* out) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / float(size) + float(eps));
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

// Of one head, in place; its halves turn against each other.
WIDEST void rotate(float* x, const float* cos, const float* sin, int64_t dim) {
  const int64_t half = dim / 2;
  float *low = x, *high = x + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * cos[i] - b * sin[i];
    high[i] = b * cos[half + i] + a * sin[half + i];
  }
}

WIDEST void add(float* x, const float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

// out = silu(gate) * up
WIDEST void gated(const float* gate, const float* up, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float tail = exponential(-std::fabs(gate[i]));
    const float share = (gate[i] < 0 ? tail : 1.0f) / (1.0f + tail);
    out[i] = gate[i] * share * up[i];
  }
}

// y [rows][linear.out]
void run(const Layer& layer, const Linear& linear, const float* x, int64_t rows, float* y) {
  layer.product(x, nullptr, nullptr, linear.packed, linear.scale, linear.offset, linear.table, y, rows, linear.in,
                linear.out, linear.groups, int(linear.bits), int(linear.variant));
  for (int64_t row = 0; linear.bias && row < rows; ++row) add(y + row * linear.out, linear.bias, linear.out);
}

void gate(const Layer& layer, const float* both, int64_t rows, float* out) {
  const int64_t chunks = (layer.ffn + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) if (rows * chunks >= PARALLEL)
  for (int64_t item = 0; item < rows * chunks; ++item) {
    const int64_t row = item / chunks, first = item % chunks * CHUNK;
    const float* from = both + row * layer.gate_up.out + first;
    gated(from, from + layer.ffn, out + row * layer.ffn + first, std::min(CHUNK, layer.ffn - first));
  }
}

// Turns queries, keys and values [rows][qkv.out] to their positions; out [rows][heads * dim] is what they yield. `room`
// is for as many numbers as both have.
template <typename T>
int attend(const Layer& layer, const Step& step, float* qkv, float* room, float* out) {
  const int64_t dim = layer.dim, heads = layer.heads, kv = layer.kv_heads, queries = heads * dim, width = 2 * kv * dim;
  T *const query = reinterpret_cast<T*>(room), *const rest = query + step.rows * queries;
  T* const attended = rest + step.rows * width;
  float turn[2 * 1024];
  for (int64_t row = 0; row < step.rows; ++row) {
    float* const x = qkv + row * layer.qkv.out;
    widened(static_cast<const T*>(step.cos) + row * dim, turn, dim);
    widened(static_cast<const T*>(step.sin) + row * dim, turn + 1024, dim);
    for (int64_t head = 0; head < heads + kv; ++head) {
      const float* norm = head < heads ? layer.query_norm : layer.key_norm;
      if (norm) normalize(x + head * dim, norm, layer.eps, dim, x + head * dim);
      rotate(x + head * dim, turn, turn + 1024, dim);
    }
    narrowed(x, query + row * queries, queries);
    narrowed(x + queries, rest + row * width, width);
  }
  const int64_t n[] = {step.rows, heads,     kv,    dim,  step.cache_slots, step.start, step.stop,
                       step.mask_stride, width, width, step.eight_bits};
  if (layer.attend(query, rest, rest + kv * dim, step.keys, step.values, step.slots, step.mask, attended,
                   1.0 / std::sqrt(double(dim)), n, 0))
    return 1;
  widened(attended, out, step.rows * queries);
  return 0;
}

template <typename T>
int run_layer(const Layer& layer, const Step& step, const T* hidden, T* out) {
  const int64_t rows = step.rows, size = layer.hidden;
  const int64_t widest_in = std::max({size, layer.heads * layer.dim, layer.ffn});
  const int64_t widest_out = std::max({layer.qkv.out, layer.o.out, layer.gate_up.out, layer.down.out});
  const int64_t needed = rows * (size + widest_in + widest_out + 2 * (layer.heads + layer.kv_heads) * layer.dim);
  thread_local std::vector<float> scratch;  // kept: fresh memory costs more than what is done in it
  if (int64_t(scratch.size()) < needed) scratch.resize(needed);
  float *const x = scratch.data(), *const inputs = x + rows * size;
  float *const outputs = inputs + rows * widest_in, *const room = outputs + rows * widest_out;
  const auto norm = [&](const float* weight) {
    for (int64_t row = 0; row < rows; ++row)
      normalize(x + row * size, weight, layer.eps, size, inputs + row * size);
  };
  const auto add_outputs = [&](const Linear& linear) {
    for (int64_t row = 0; row < rows; ++row) add(x + row * size, outputs + row * linear.out, size);
  };
  widened(hidden, x, rows * size);
  norm(layer.norm);
  run(layer, layer.qkv, inputs, rows, outputs);
  if (attend<T>(layer, step, outputs, room, inputs)) return 1;
  run(layer, layer.o, inputs, rows, outputs);
  add_outputs(layer.o);
  norm(layer.post_norm);
  run(layer, layer.gate_up, inputs, rows, outputs);
  gate(layer, outputs, rows, inputs);
  run(layer, layer.down, inputs, rows, outputs);
  add_outputs(layer.down);
  narrowed(x, out, rows * size);
  return 0;
}

}  // namespace

// 0, or 1 when a slot to write lies outside the cache.
extern "C" int layer_bfloat16(const Layer* layer, const Step* step, const bfloat16* hidden, bfloat16* out) {
  return run_layer(*layer, *step, hidden, out);
}

extern "C" int layer_float16(const Layer* layer, const Step* step, const float16* hidden, float16* out) {
  return run_layer(*layer, *step, hidden, out);
}

extern "C" int layer_float(const Layer* layer, const Step* step, const float* hidden, float* out) {
  return run_layer(*layer, *step, hidden, out);
}
