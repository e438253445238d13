// A layer of a draft on a few rows in one call: norm, queries, keys and values, rotary positions, attention, output,
// norm, SwiGLU. One team of threads goes through all of it, each step shared among them by rows, heads or units of
// outputs: what lies between the linears is little, and to wake threads for it costs as much. Linears and attention are
// other libraries' functions; all stays in float, and is rounded to the model's type for attention and where it leaves the
// layer.
//
// hidden, out [rows][hidden]; cos, sin [rows][dim]; keys, values, slots, mask, start and stop as in cpu_attention.cpp.

#include <vector>

#include "../quant/kernels/cpu/w4a8_product.h"
#include "cpu_numbers.h"

namespace {

using Share = void (*)(const Product*, int64_t first, int64_t end);
using Write = void (*)(const void* numbers, int64_t dim, int is_key, int64_t eight_bits, void* cache, int64_t index);
using Attend = void (*)(const void* query, const void* keys, const void* values, const uint8_t* mask, void* out,
                        double scale, const int64_t* n, int64_t tile, int64_t item);

constexpr int64_t COLUMNS = UNIT * LANES;    // outputs of a unit
constexpr int64_t WIDEST_HEAD = 1024;
constexpr int64_t WORTH_THREADS = 1 << 18;  // weights

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
  Share round, multiply;
  int64_t (*tile)(int64_t queries, int64_t kv_heads);
  Write write;
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

WIDEST float squared(const float* x, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

WIDEST void scaled(const float* x, float scale, const float* weight, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

// A head in place: its norm, if there is one, and its halves turned against each other.
template <typename T>
INLINE void turn(float* x, const float* norm, double eps, const T* cos, const T* sin, int64_t dim) {
  const int64_t half = dim / 2;
  float *low = x, *high = x + half, sum = 0;
  if (norm) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < dim; ++i) sum += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(sum / float(dim) + float(eps));
    for (int64_t i = 0; i < dim; ++i) x[i] = x[i] * scale * norm[i];
  }
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * widen(cos[i]) - b * widen(sin[i]);
    high[i] = b * widen(cos[half + i]) + a * widen(sin[half + i]);
  }
}
#define TURNED(T)                                                                                        \
  WIDEST void turned(float* x, const float* norm, double eps, const T* cos, const T* sin, int64_t dim) { \
    turn(x, norm, eps, cos, sin, dim);                                                                   \
  }
TURNED(bfloat16)
TURNED(float16)
TURNED(float)

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

// A layer at work on its rows. What is declared `team` is called by all threads of one, and shared among them by columns:
// a thread goes on with what it has computed itself, since numbers come slowly from another core.
template <typename T>
struct Work {
  const Layer& layer;
  const Step& step;
  float *x, *inputs, *outputs;  // [rows][o.out], and [rows] of the widest inputs and outputs
  float* squares;               // [units of o][rows], summed over the columns of x that a unit has
  T *query, *attended;          // [rows][heads * dim]
  int8_t* levels;
  float* steps;

  Product product(const Linear& l, bool adds) const {
    return {step.rows, l.in, l.out, l.groups, l.in / l.groups, l.bits, l.variant, adds, inputs, l.packed, l.scale,
            l.offset, l.table, nullptr, nullptr, adds ? x : outputs, levels, steps, steps + step.rows * l.groups};
  }

  void multiply(const Product& p, int64_t first, int64_t end) const {  // team
#pragma omp for schedule(static) nowait
    for (int64_t unit = first; unit < end; ++unit) layer.multiply(&p, unit, unit + 1);
  }

  // The columns of unit `unit` of x, once they are whole.
  void sum_squares(int64_t unit) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
    for (int64_t row = 0; row < step.rows; ++row)
      squares[unit * step.rows + row] = squared(x + row * layer.o.out + first, count);
  }

  void multiply_into_x(const Product& p, const float* bias) const {  // team
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < p.units(); ++unit) {
      const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
      layer.multiply(&p, unit, unit + 1);
      for (int64_t row = 0; bias && row < step.rows; ++row) add(x + row * p.out + first, bias + first, count);
      sum_squares(unit);
    }
  }

  void round_normalized(const Product& p, const float* norm) const {  // team
    for (int64_t row = 0; row < step.rows; ++row) {
      float sum = 0;
      for (int64_t unit = 0; unit * COLUMNS < layer.hidden; ++unit) sum += squares[unit * step.rows + row];
      const float scale = 1.0f / std::sqrt(sum / float(layer.hidden) + float(layer.eps));
#pragma omp for schedule(static) nowait
      for (int64_t g = 0; g < p.groups; ++g) {
        const int64_t first = g * p.group;
        scaled(x + row * layer.o.out + first, scale, norm + first, inputs + row * p.in + first, p.group);
        layer.round(&p, row * p.groups + g, row * p.groups + g + 1);
      }
    }
#pragma omp barrier
  }

  // Queries, keys and values turned to their positions; keys and values go to their slots.
  void place() const {  // team
    const int64_t dim = layer.dim, heads = layer.heads, kv = layer.kv_heads;
#pragma omp for schedule(static)
    for (int64_t head = 0; head < heads + 2 * kv; ++head)
      for (int64_t row = 0; row < step.rows; ++row) {
        float* const own = outputs + row * layer.qkv.out + head * dim;
        const bool is_key = head >= heads && head < heads + kv;
        T numbers[WIDEST_HEAD];
        if (layer.qkv.bias) add(own, layer.qkv.bias + head * dim, dim);
        if (head < heads || is_key)
          turned(own, head < heads ? layer.query_norm : layer.key_norm, layer.eps,
                 static_cast<const T*>(step.cos) + row * dim, static_cast<const T*>(step.sin) + row * dim, dim);
        narrowed(own, head < heads ? query + (row * heads + head) * dim : numbers, dim);
        if (head >= heads)
          layer.write(numbers, dim, is_key, step.eight_bits, is_key ? step.keys : step.values,
                      (head - heads) % kv * step.cache_slots + step.slots[row]);
      }
  }

  void attend() const {  // team
    const int64_t group = layer.heads / layer.kv_heads, queries = step.rows * group;
    const int64_t tile = layer.tile(queries, layer.kv_heads);
    const int64_t n[] = {step.rows, layer.heads, layer.kv_heads, layer.dim, step.cache_slots, step.start, step.stop,
                         step.mask_stride, 0, 0, step.eight_bits};
    const int64_t items = layer.kv_heads * ((queries + tile - 1) / tile);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item)
      layer.attend(query, step.keys, step.values, step.mask, attended, 1.0 / std::sqrt(double(layer.dim)), n, tile,
                   item);
  }

  void round_attended(const Product& p) const {  // team
#pragma omp for schedule(static)
    for (int64_t g = 0; g < p.groups; ++g)
      for (int64_t row = 0; row < step.rows; ++row) {
        const int64_t at = row * p.in + g * p.group;
        widened(attended + at, inputs + at, p.group);
        layer.round(&p, row * p.groups + g, row * p.groups + g + 1);
      }
  }

  void round_gated(const Product& p) const {  // team
    const float* const bias = layer.gate_up.bias;
#pragma omp for schedule(static)
    for (int64_t g = 0; g < p.groups; ++g)
      for (int64_t row = 0; row < step.rows; ++row) {
        const int64_t first = g * p.group;
        float* const own = outputs + row * layer.gate_up.out + first;
        if (bias) add(own, bias + first, p.group), add(own + layer.ffn, bias + layer.ffn + first, p.group);
        gated(own, own + layer.ffn, inputs + row * p.in + first, p.group);
        layer.round(&p, row * p.groups + g, row * p.groups + g + 1);
      }
  }

  void run(const T* hidden, T* out) const {  // team
    const Product qkv = product(layer.qkv, false), o = product(layer.o, true);
    const Product gate_up = product(layer.gate_up, false), down = product(layer.down, true);
    const int64_t size = layer.hidden, up = layer.ffn % COLUMNS == 0 ? layer.ffn / COLUMNS : 0;
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < o.units(); ++unit) {
      const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, size - first);
      for (int64_t row = 0; row < step.rows; ++row)
        widened(hidden + row * size + first, x + row * o.out + first, count);
      sum_squares(unit);
    }
    round_normalized(qkv, layer.norm);
    multiply(qkv, 0, qkv.units());
#pragma omp barrier
    place();
    attend();
    round_attended(o);
    multiply_into_x(o, layer.o.bias);
    round_normalized(gate_up, layer.post_norm);
    multiply(gate_up, 0, up);  // a thread's share of both halves, whose product it takes next
    multiply(gate_up, up, gate_up.units());
#pragma omp barrier
    round_gated(down);
    multiply_into_x(down, layer.down.bias);
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < down.units(); ++unit) {
      const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, size - first);
      for (int64_t row = 0; row < step.rows; ++row)
        narrowed(x + row * down.out + first, out + row * size + first, count);
    }
  }
};

template <typename T>
int run_layer(const Layer& layer, const Step& step, const T* hidden, T* out) {
  for (int64_t row = 0; row < step.rows; ++row)
    if (step.slots[row] < 0 || step.slots[row] >= step.cache_slots) return 1;
  const int64_t rows = step.rows, queries = layer.heads * layer.dim;
  const int64_t in = std::max({layer.hidden, queries, layer.ffn}), out_ = std::max(layer.qkv.out, layer.gate_up.out);
  const int64_t groups = std::max({layer.qkv.groups, layer.o.groups, layer.gate_up.groups, layer.down.groups});
  const int64_t sizes[] = {layer.o.out, in, out_, layer.o.out / LANES, queries, queries, (in + 3) / 4, 2 * groups};
  int64_t weights = 0, ends[8], end = 0;  // ends: of the parts of the scratch, in lines of sixteen numbers
  for (const Linear* l : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) weights += l->in * l->out;
  for (int part = 0; part < 8; ++part) ends[part] = end += (rows * sizes[part] + 15) / 16 * 16;
  thread_local std::vector<float> scratch;  // kept: fresh memory costs more than what is done in it
  if (int64_t(scratch.size()) < end) scratch.resize(end);
  float* const all = scratch.data();
  const Work<T> work{layer, step, all, all + ends[0], all + ends[1], all + ends[2], reinterpret_cast<T*>(all + ends[3]),
                     reinterpret_cast<T*>(all + ends[4]), reinterpret_cast<int8_t*>(all + ends[5]), all + ends[6]};
#pragma omp parallel if (weights > WORTH_THREADS)
  work.run(hidden, out);
  return 0;
}

}  // namespace

// 0, or 1 when a slot to write lies outside the cache.
#define LAYER(T)                                                                                  \
  extern "C" int layer_##T(const Layer* layer, const Step* step, const T* hidden, T* out) { \
    return run_layer(*layer, *step, hidden, out);                                                 \
  }
LAYER(bfloat16)
LAYER(float16)
LAYER(float)
