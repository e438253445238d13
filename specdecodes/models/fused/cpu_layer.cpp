// Consecutive layers on a few rows in one call, each: norm, queries, keys and values, rotary positions, attention,
// output, norm, SwiGLU. One team of threads goes through all of it, each step shared among them by rows, heads or units
// of outputs: what lies between the linears is little, and to wake threads for it costs as much. Linears and attention
// are other libraries' functions; inside a layer all stays in float, and is rounded to the model's type for attention
// and where it leaves the layer.
//
// hidden, out [rows][hidden]; cos, sin [rows][dim]; keys, values, slots, mask, start and stop as in cpu_attention.cpp.

#include <initializer_list>
#include <vector>

#include "../../quant/kernels/cpu/w4a8_product.h"
#include "../kernels/cpu_between.h"
#include "../kernels/cpu_linear.h"
#include "../kernels/cpu_numbers.h"
#include "cpu_layer_linear.h"

namespace {

constexpr int64_t WIDEST_HEAD = 1024;
constexpr int64_t WORTH_THREADS = 1 << 18;  // weights of a layer

struct Attention {
  int64_t (*tile)(int64_t queries, int64_t kv_heads);
  void (*write)(const void* numbers, int64_t dim, int is_key, int64_t eight_bits, void* cache, int64_t index);
  void (*attend)(const void* query, const void* keys, const void* values, const uint8_t* mask, void* out, double scale,
                 const int64_t* n, int64_t tile, int64_t item);
};

}  // namespace

extern "C" {

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

struct Step {
  int64_t rows;
  const void *cos, *sin;
  const int64_t* slots;
  int64_t cache_slots, eight_bits;
  const Sight* sights;  // of each layer
};
}

namespace {

// The numbers between the steps of a layer.
template <typename T>
struct Scratch {
  int64_t wide;                          // numbers of a row of x
  float *x, *outputs;                    // [rows][wide], and [rows] of the widest outputs
  float* squares;                        // [units of x][rows], summed over the columns of x that a unit has
  T *query, *attended;                   // [rows][heads * dim]
  Room room;
};

// A layer at work on its rows. What is declared `team` is called by all threads of one, and shared among them by columns:
// a thread goes on with what it has computed itself, since numbers come slowly from another core.
template <typename T>
struct Work {
  const Layer& layer;
  const Step& step;
  const Sight& sight;
  const Scratch<T>& s;

  Task task(const Linear& l, int64_t column, int64_t apart) const {
    return {layer.kernels, l, step.rows, s.room, s.outputs + column, apart, false};
  }
  Task adding(const Linear& l) const { return {layer.kernels, l, step.rows, s.room, s.x, s.wide, true}; }

  struct Units {
    const Task& task;
    int64_t first, end;
  };

  void multiply(std::initializer_list<Units> parts) const {  // team
    int64_t count = 0;
    for (const Units& part : parts) count += part.end - part.first;
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < count; ++i) {
      const Units* part = parts.begin();
      int64_t unit = i;
      for (; unit >= part->end - part->first; ++part) unit -= part->end - part->first;
      part->task.multiply(part->first + unit);
    }
  }

  // The columns of unit `unit` of x, once they are whole.
  void sum_squares(int64_t unit) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
    for (int64_t row = 0; row < step.rows; ++row)
      s.squares[unit * step.rows + row] = squared(s.x + row * s.wide + first, count);
  }

  // A unit of x to the model's type and back.
  void leave(int64_t unit, T* out) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
    for (int64_t row = 0; row < step.rows; ++row) {
      narrowed(s.x + row * s.wide + first, out + row * layer.hidden + first, count);
      widened(out + row * layer.hidden + first, s.x + row * s.wide + first, count);
    }
  }

  void multiply_into_x(const Task& t, T* out) const {  // team
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < t.linear.units(); ++unit) {
      t.multiply(unit);
      if (out) leave(unit, out);
      sum_squares(unit);
    }
  }

  void round_normalized(const Task& t, const float* norm) const {  // team
    const int64_t in = layer.hidden, group = t.linear.group();
    for (int64_t row = 0; row < step.rows; ++row) {
      float sum = 0;
      for (int64_t unit = 0; unit * COLUMNS < in; ++unit) sum += s.squares[unit * step.rows + row];
      const float scale = 1.0f / std::sqrt(sum / float(in) + float(layer.eps));
#pragma omp for schedule(static) nowait
      for (int64_t share = 0; share < t.linear.shares(); ++share) {
        const int64_t first = share * group, count = std::min(group, in - first);
        scaled(s.x + row * s.wide + first, scale, norm + first, s.room.inputs + row * in + first, count);
        t.round(row, share);
      }
    }
#pragma omp barrier
  }

  // Queries, keys and values turned to their positions; keys and values go to their slots.
  void place(int64_t apart) const {  // team
    const int64_t dim = layer.dim, heads = layer.heads, kv = layer.kv_heads;
#pragma omp for schedule(static)
    for (int64_t head = 0; head < heads + 2 * kv; ++head)
      for (int64_t row = 0; row < step.rows; ++row) {
        float* const own = s.outputs + row * apart + head * dim;
        const bool is_key = head >= heads && head < heads + kv;
        T numbers[WIDEST_HEAD];
        if (head < heads || is_key)
          turned(own, head < heads ? layer.query_norm : layer.key_norm, layer.eps,
                 static_cast<const T*>(step.cos) + row * dim, static_cast<const T*>(step.sin) + row * dim, dim);
        narrowed(own, head < heads ? s.query + (row * heads + head) * dim : numbers, dim);
        if (head >= heads)
          layer.attention.write(numbers, dim, is_key, step.eight_bits, is_key ? layer.keys : layer.values,
                                (head - heads) % kv * step.cache_slots + step.slots[row]);
      }
  }

  void attend() const {  // team
    const int64_t queries = step.rows * layer.heads / layer.kv_heads;
    const int64_t tile = layer.attention.tile(queries, layer.kv_heads);
    const int64_t items = layer.kv_heads * ((queries + tile - 1) / tile);
    const int64_t n[] = {step.rows, layer.heads, layer.kv_heads, layer.dim, step.cache_slots, sight.start, sight.stop,
                         sight.mask_stride, 0, 0, step.eight_bits};
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item)
      layer.attention.attend(s.query, layer.keys, layer.values, sight.mask, s.attended,
                             1.0 / std::sqrt(double(layer.dim)), n, tile, item);
  }

  void round_attended(const Task& t) const {  // team
    const int64_t in = t.linear.in, group = t.linear.group();
#pragma omp for schedule(static)
    for (int64_t share = 0; share < t.linear.shares(); ++share)
      for (int64_t row = 0; row < step.rows; ++row) {
        const int64_t at = row * in + share * group;
        widened(s.attended + at, s.room.inputs + at, std::min(group, in - share * group));
        t.round(row, share);
      }
  }

  void round_gated(const Task& t, int64_t apart) const {  // team
    const int64_t in = t.linear.in, group = t.linear.group();
#pragma omp for schedule(static)
    for (int64_t share = 0; share < t.linear.shares(); ++share)
      for (int64_t row = 0; row < step.rows; ++row) {
        const int64_t first = share * group;
        const float* const gate = s.outputs + row * apart + first;
        gated(gate, gate + in, s.room.inputs + row * in + first, std::min(group, in - first));
        t.round(row, share);
      }
  }

  void enter(const T* hidden) const {  // team
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < layer.o.units(); ++unit) {
      const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
      for (int64_t row = 0; row < step.rows; ++row)
        widened(hidden + row * layer.hidden + first, s.x + row * s.wide + first, count);
      sum_squares(unit);
    }
  }

  // From x to x, which goes to `out` too.
  void run(T* out) const {  // team
    const int64_t apart = layer.q.out + layer.k.out + layer.v.out, both = layer.gate.out + layer.up.out;
    const Task q = task(layer.q, 0, apart), k = task(layer.k, layer.q.out, apart);
    const Task v = task(layer.v, layer.q.out + layer.k.out, apart), o = adding(layer.o);
    const Task gate = task(layer.gate, 0, both), up = task(layer.up, layer.gate.out, both), down = adding(layer.down);
    round_normalized(q, layer.norm);
    multiply({{q, 0, layer.q.units()}, {k, 0, layer.k.units()}, {v, 0, layer.v.units()}});
#pragma omp barrier
    place(apart);
    attend();
    round_attended(o);
    multiply_into_x(o, nullptr);
    round_normalized(gate, layer.post_norm);
    // A thread's share of both halves, whose product it takes next.
    const int64_t half = layer.up.out ? layer.gate.units() : layer.ffn % COLUMNS == 0 ? layer.ffn / COLUMNS : 0;
    multiply({{gate, 0, half}});
    multiply({{gate, half, layer.gate.units()}, {up, 0, layer.up.units()}});
#pragma omp barrier
    round_gated(down, both);
    multiply_into_x(down, out);
  }
};

// The room that any of the layers needs, in lines of sixteen numbers.
template <typename T>
Scratch<T> scratch_of(const Layer* const* layers, int64_t count, int64_t rows) {
  int64_t wide = 0, in = 0, out = 0, queries = 0, groups = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Layer& l = *layers[i];
    wide = std::max({wide, l.o.out, l.down.out}), queries = std::max(queries, l.heads * l.dim);
    in = std::max({in, l.hidden, l.heads * l.dim, l.ffn});
    out = std::max({out, l.q.out + l.k.out + l.v.out, l.gate.out + l.up.out});
    for (const Linear* linear : {&l.q, &l.o, &l.gate, &l.down}) groups = std::max(groups, linear->groups);
  }
  const int64_t sizes[] = {wide, in, out, (wide + COLUMNS - 1) / COLUMNS, queries, queries, (in + 1) / 2, 2 * groups};
  int64_t ends[8], end = 0;
  for (int part = 0; part < 8; ++part) ends[part] = end += (rows * sizes[part] + 15) / 16 * 16;
  thread_local std::vector<float> kept;  // fresh memory costs more than what is done in it
  if (int64_t(kept.size()) < end) kept.resize(end);
  float* const all = kept.data();
  return {wide, all, all + ends[1], all + ends[2], reinterpret_cast<T*>(all + ends[3]),
          reinterpret_cast<T*>(all + ends[4]), {all + ends[0], all + ends[5], all + ends[6]}};
}

template <typename T>
int run_layers(const Layer* const* layers, int64_t count, const Step& step, const T* hidden, T* out) {
  for (int64_t row = 0; row < step.rows; ++row)
    if (step.slots[row] < 0 || step.slots[row] >= step.cache_slots) return 1;
  const Scratch<T> scratch = scratch_of<T>(layers, count, step.rows);
  int64_t weights = 0;
  for (const Linear* l : {&layers[0]->q, &layers[0]->o, &layers[0]->gate, &layers[0]->down}) weights += l->in * l->out;
#pragma omp parallel if (weights > WORTH_THREADS)
  {
    Work<T>{*layers[0], step, *step.sights, scratch}.enter(hidden);
    for (int64_t i = 0; i < count; ++i) Work<T>{*layers[i], step, step.sights[i], scratch}.run(out);
  }
  return 0;
}

}  // namespace

// 0, or 1 when a slot to write lies outside the cache. At least one layer; all of one hidden size, their caches of one
// shape.
#define LAYERS(T)                                                                                                      \
  extern "C" int layers_##T(const Layer* const* layers, int64_t count, const Step* step, const T* hidden, T* out) { \
    return run_layers(layers, count, *step, hidden, out);                                                              \
  }
LAYERS(bfloat16)
LAYERS(float16)
LAYERS(float)
