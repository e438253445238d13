// The next level of a tree, from what a draft said of the last one: each node's likeliest children, what the target may
// make of them, and the best of all. What torch does in thirty small operations, each of which takes as long to call.
//
// scores [width][vocab]; nodes [width] int64, which become the new ones; curve: shift and slope of `Trust`, or null. The
// tree and its offspring are as in Python, of `capacity` nodes and so many `children` each.

#include <limits>
#include <vector>

#include "../models/kernels/cpu_numbers.h"

namespace {

constexpr float SURE = 5;       // as in trust.py
constexpr int64_t STRIP = 64;  // scores that are looked at together
constexpr int64_t WORTH_THREADS = 1 << 17;  // scores
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// A token of a row, or a child of a node by its place.
struct Child {
  float worth;
  int64_t place, row;
};

// NaN before all else, as torch has it.
bool before(float a, float b) { return a > b || (std::isnan(a) && !std::isnan(b)); }

WIDEST float highest(const float* x, int64_t count) {
  float top = NOTHING;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < count; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// The sum of e^((x - top) / temperature); NaN where one of x is none.
WIDEST float weight(const float* x, int64_t count, float colder, float top) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += exponential((x[i] - top) * colder);
  return sum;
}

// Puts `child` among the best of `kept`, at most `most`, highest first; of equals the earlier ones stay.
void keep(std::vector<Child>& kept, size_t most, const Child& child) {
  if (kept.size() == most && !before(child.worth, kept.back().worth)) return;
  if (kept.size() == most) kept.pop_back();
  auto place = kept.end();
  while (place != kept.begin() && before(child.worth, (place - 1)->worth)) --place;
  kept.insert(place, child);
}

// The log-chance that the target takes what a draft gives this one; see `Trust.correct`.
float corrected(float said, const float* curve) {
  if (!curve) return said;
  const float odds = said - std::log1p(-std::exp(said)), drawn = curve[0] + curve[1] * (odds > SURE ? SURE : odds);
  return std::min(drawn, 0.0f) - std::log1p(std::exp(-std::fabs(drawn)));
}

// A node's likeliest tokens, by log-chance.
std::vector<Child> children_of(const float* scores, int64_t vocab, int64_t count, float temperature) {
  std::vector<Child> best;
  const float top = highest(scores, vocab), sum = weight(scores, vocab, 1 / temperature, top);
  if (std::isnan(sum)) {
    for (int64_t token = 0; token < count; ++token) best.push_back({sum, token, 0});
    return best;
  }
  best.reserve(count + 1);
  for (int64_t first = 0; first < vocab; first += STRIP) {
    const int64_t end = std::min(vocab, first + STRIP);
    if (int64_t(best.size()) == count && !(highest(scores + first, end - first) > best.back().worth)) continue;
    for (int64_t token = first; token < end; ++token) keep(best, count, {scores[token], token, 0});
  }
  for (Child& child : best) child.worth = (child.worth - top) / temperature - std::log(sum);
  return best;
}

}  // namespace

extern "C" {

struct Grown {
  int64_t *tokens, *parents, *depths;
  float* scores;
  uint8_t* ancestors;
  int64_t* child_tokens;
  float* child_scores;
  int64_t* child_nodes;
  int64_t capacity, children;
};

// How many of the new nodes an accepted path is expected to hold.
float choose_level(const float* scores, int64_t vocab, float temperature, const float* curve, int64_t* nodes,
                   int64_t width, const Grown* g) {
  std::vector<std::vector<Child>> children(width);
#pragma omp parallel for if (width * vocab > WORTH_THREADS)
  for (int64_t row = 0; row < width; ++row)
    children[row] = children_of(scores + row * vocab, vocab, g->children, temperature);
  std::vector<Child> best;
  for (int64_t row = 0; row < width; ++row)
    for (int64_t i = 0; i < g->children; ++i) {
      const int64_t node = nodes[row], at = node * g->children + i;
      const float worth = g->scores[node] + corrected(children[row][i].worth, curve);
      g->child_tokens[at] = children[row][i].place, g->child_scores[at] = worth, g->child_nodes[at] = -1;
      keep(best, width, {worth, i, row});
    }
  float reach = 0;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t parent = nodes[best[i].row], child = parent * g->children + best[i].place, made = nodes[i] + width;
    g->tokens[made] = g->child_tokens[child], g->parents[made] = parent, g->depths[made] = g->depths[parent] + 1;
    g->scores[made] = best[i].worth, g->child_nodes[child] = made;
    std::memcpy(g->ancestors + made * g->capacity, g->ancestors + parent * g->capacity, g->capacity);
    g->ancestors[made * g->capacity + made] = 1;
    reach += std::exp(best[i].worth);
  }
  for (int64_t i = 0; i < width; ++i) nodes[i] += width;
  return reach;
}
}
