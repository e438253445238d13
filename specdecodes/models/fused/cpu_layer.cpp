// Consecutive layers on a few rows in one call, each: norm, queries, keys and values, rotary positions, attention,
// output, norm, SwiGLU. One team of threads goes through all of it, each step shared among them by rows, heads or units
// of outputs: what lies between the linears is little, and to wake threads for it costs as much. Linears and attention
// are other libraries' functions; inside a layer all stays in float, and is rounded to the model's type for attention
// and where it leaves the layer.
//
// hidden, out [rows][hidden]; cos, sin [rows][dim]; keys, values, slots, mask, start and stop as in cpu_attention.cpp.

#include "../../quant/kernels/cpu/w4a8_product.h"
#include "../kernels/cpu_between.h"
#include "../kernels/cpu_linear.h"
#include "../kernels/cpu_numbers.h"
#include "cpu_layer_linear.h"
#include "cpu_layer_parts.h"

namespace {

constexpr int64_t WIDEST_HEAD = 1024;
constexpr int64_t WORTH_THREADS = 1 << 18;  // weights of a layer
constexpr int64_t MOST_QUERIES = 64;        // of a kv head, that attention takes together

// A layer at work on its rows. What is declared `team` is called by all threads of one, and shared among them by columns:
// a thread goes on with what it has computed itself, since numbers come slowly from another core, and soon, since the
// weights that pass drive them out of its caches.
template <typename T>
struct Work {
  const Layer& layer;
  const Step& step;
  const Sight& sight;
  const Scratch<T>& s;
  const Own& own;
  const Bands bands{layer};

  Task task(const Linear& l) const { return {layer.kernels, l, step.rows, s.room}; }
  Task after(const Linear& l) const { return {layer.kernels, l, step.rows, s.behind}; }

  // The columns of unit `unit` of x, once they are whole.
  void sum_squares(int64_t unit) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
    for (int64_t row = 0; row < step.rows; ++row)
      s.squares[unit * step.rows + row] = squared(s.x + row * s.wide + first, count);
  }

  // A unit of x to the model's type and back.
  void leave(int64_t unit, const Kept& out) const {
    const int64_t first = unit * COLUMNS, count = std::min(COLUMNS, layer.hidden - first);
    for (int64_t row = 0; row < step.rows; ++row) {
      T* const to = static_cast<T*>(out.state) + row * out.apart + first;
      narrowed(s.x + row * s.wide + first, to, count);
      widened(to, s.x + row * s.wide + first, count);
    }
  }

  void multiply_into_x(const Task& t, const Kept& out) const {  // team
#pragma omp for schedule(guided)
    for (int64_t unit = 0; unit < t.linear.units(); ++unit) {
      t.multiply(unit, s.x + unit * COLUMNS, s.wide, true);
      if (out.state) leave(unit, out);
      sum_squares(unit);
    }
  }

  // The outputs [first, end) of all rows and what else their units have, to y [rows][broad]; where they lie then.
  float* multiply(const Task& t, int64_t first, int64_t end, float* y) const {
    const int64_t begin = first / COLUMNS;
    for (int64_t unit = begin; unit * COLUMNS < end; ++unit)
      t.multiply(unit, y + (unit - begin) * COLUMNS, own.broad, false);
    return y + first - begin * COLUMNS;
  }

  void round_normalized(const Task& t, const float* norm) const {  // team
    const int64_t rows = step.rows, in = layer.hidden, group = t.linear.group();
    float* const scales = own.scales;
    std::fill(scales, scales + rows, 0.0f);
    for (int64_t unit = 0; unit * COLUMNS < in; ++unit)
      for (int64_t row = 0; row < rows; ++row) scales[row] += s.squares[unit * rows + row];
    for (int64_t row = 0; row < rows; ++row) scales[row] = 1.0f / std::sqrt(scales[row] / float(in) + float(layer.eps));
#pragma omp for schedule(static)
    for (int64_t share = 0; share < t.linear.shares(); ++share)
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t first = share * group;
        scaled(s.x + row * s.wide + first, scales[row], norm + first, own.numbers, std::min(group, in - first));
        t.round(own.numbers, row, share);
      }
  }

  // A head of queries, keys or values turned to its position; keys and values go to their slots.
  void place(int64_t head, int64_t row, float* numbers) const {
    const int64_t dim = layer.dim, heads = layer.heads, kv = layer.kv_heads;
    const bool is_key = head >= heads && head < heads + kv;
    if (head < heads + kv)
      turned(numbers, head < heads ? layer.query_norm : layer.key_norm, layer.eps,
             static_cast<const T*>(step.cos) + row * dim, static_cast<const T*>(step.sin) + row * dim, dim);
    if (head < heads) return narrowed(numbers, s.query + (row * heads + head) * dim, dim);
    T narrow[WIDEST_HEAD];
    narrowed(numbers, narrow, dim);
    layer.attention.write(narrow, dim, is_key, step.eight_bits, is_key ? layer.keys : layer.values,
                          (head - heads) % kv * step.cache_slots + step.slots[row]);
  }

  void project() const {  // team
    const int64_t heads = layer.heads, kv = layer.kv_heads;
    const Linear* const linears[] = {&layer.q, &layer.k, &layer.v};
    const int64_t ends[] = {layer.k.out ? heads : heads + 2 * kv, heads + kv, heads + 2 * kv};
    int64_t bands_of[3];
    for (int part = 0, begin = 0; part < 3; begin = ends[part++])
      bands_of[part] = linears[part]->out ? (ends[part] - begin + bands.heads - 1) / bands.heads : 0;
#pragma omp for schedule(guided)
    for (int64_t i = 0; i < bands_of[0] + bands_of[1] + bands_of[2]; ++i) {
      int64_t part = 0, band = i;
      for (; band >= bands_of[part]; ++part) band -= bands_of[part];
      const int64_t begin = part ? ends[part - 1] : 0, first = begin + band * bands.heads;
      const int64_t end = std::min(first + bands.heads, ends[part]);
      const Task t = task(*linears[part]);
      float* const y = multiply(t, (first - begin) * layer.dim, (end - begin) * layer.dim, own.y);
      for (int64_t head = first; head < end; ++head)
        for (int64_t row = 0; row < step.rows; ++row) place(head, row, y + row * own.broad + (head - first) * layer.dim);
    }
  }

  // The columns of some rows of what attention yields, those of whole heads: to levels, where they are whole shares.
  void round_attended(const Task& t, int64_t row, int64_t rows, int64_t first, int64_t count) const {
    const int64_t group = t.linear.group(), in = t.linear.in;
    for (int64_t share = first / group; share * group < first + count; ++share)
      for (int64_t i = row; i < row + rows; ++i) {
        widened(s.attended + i * in + share * group, own.numbers, std::min(group, in - share * group));
        t.round(own.numbers, i, share);
      }
  }

  void attend(const Task& o) const {  // team
    const int64_t kv = layer.kv_heads, group = layer.heads / kv, queries = step.rows * group, wide = group * layer.dim;
    int64_t tile = layer.attention.tile(queries, kv);
    const int64_t together = std::min((tile + group - 1) / group, MOST_QUERIES / group);  // rows
    const bool whole = together > 0 && wide % o.linear.group() == 0;
    if (whole) tile = together * group;
    const int64_t tiles = (queries + tile - 1) / tile;
    const int64_t n[] = {step.rows, layer.heads, kv, layer.dim, step.cache_slots, sight.start, sight.stop,
                         sight.mask_stride, 0, 0, step.eight_bits};
#pragma omp for schedule(static)
    for (int64_t item = 0; item < kv * tiles; ++item) {
      layer.attention.attend(s.query, layer.keys, layer.values, sight.mask, s.attended,
                             1.0 / std::sqrt(double(layer.dim)), n, tile, item);
      const int64_t row = item % tiles * together;
      if (whole) round_attended(o, row, std::min(together, step.rows - row), item / tiles * wide, wide);
    }
    if (whole) return;
#pragma omp for schedule(static)
    for (int64_t share = 0; share < o.linear.shares(); ++share)
      round_attended(o, 0, step.rows, share * o.linear.group(), 1);
  }

  // Both halves of the feed-forward part, and their product, rounded.
  void feed(const Task& down) const {  // team
    const Task gate = task(layer.gate), up = task(layer.up.out ? layer.up : layer.gate);
    const int64_t ffn = layer.ffn, rows = step.rows, group = down.linear.group(), behind = layer.up.out ? 0 : ffn;
#pragma omp for schedule(guided)
    for (int64_t first = 0; first < ffn; first += bands.columns) {
      const int64_t end = std::min(first + bands.columns, ffn);
      const float* const a = multiply(gate, first, end, own.y);
      const float* const b = multiply(up, behind + first, behind + end, own.up);
      for (int64_t row = 0; row < rows; ++row) {
        float* const to = bands.shares ? own.numbers : s.inputs + row * ffn + first;
        gated(a + row * own.broad, b + row * own.broad, to, end - first);
        for (int64_t share = first / group; bands.shares && share * group < end; ++share)
          down.round(to + share * group - first, row, share);
      }
    }
    if (bands.shares) return;
#pragma omp for schedule(static)
    for (int64_t share = 0; share < down.linear.shares(); ++share)
      for (int64_t row = 0; row < rows; ++row) down.round(s.inputs + row * ffn + share * group, row, share);
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
  void run(const Kept& out) const {  // team
    const Task o = after(layer.o), down = after(layer.down);
    round_normalized(task(layer.q), layer.norm);
    project();
    attend(o);
    multiply_into_x(o, {});
    round_normalized(task(layer.gate), layer.post_norm);
    feed(down);
    multiply_into_x(down, out);
  }
};

template <typename T>
int run_layers(const Layer* const* layers, int64_t count, const Step& step, const T* hidden, T* out) {
  for (int64_t row = 0; row < step.rows; ++row)
    if (step.slots[row] < 0 || step.slots[row] >= step.cache_slots) return 1;
  const Needs needs(layers, count);
  const Scratch<T> scratch = needs.scratch<T>(step.rows);
  int64_t weights = 0;
  for (const Linear* l : {&layers[0]->q, &layers[0]->o, &layers[0]->gate, &layers[0]->down}) weights += l->in * l->out;
#pragma omp parallel if (weights > WORTH_THREADS)
  {
    const Own own = needs.own(step.rows);
    Work<T>{*layers[0], step, *step.sights, scratch, own}.enter(hidden);
    for (int64_t i = 0; i < count; ++i) {
      const bool stays = step.kept && step.kept[i].state;
      Work<T>{*layers[i], step, step.sights[i], scratch, own}.run(stays ? step.kept[i] : Kept{out, layers[i]->hidden});
    }
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
