// What is left of bfloat16 weights beside a 4-bit guess of each, and the weights again, in three ways; the format is in
// remainder.h, what a guess says in guess.h.

#include "../ways.h"
#include "remainder.h"
#include "guess.h"
#include "remainder_plain.h"
#include "remainder_avx2.h"
#include "remainder_avx512.h"

namespace {

constexpr int64_t SHARE = 1 << 17;  // weights that a thread restores at a time

// ---- expanding

// Words on their way to memory, which takes whole lines of 64 bytes.
template <typename Way>
struct Lines {
  uint8_t* to;          // a multiple of 64
  int64_t first, held;  // of `room` filled: from, to
  alignas(64) uint8_t room[2 * SEGMENT + 64];
  explicit Lines(uint16_t* out) : to((uint8_t*)out - uintptr_t(out) % 64), first(uintptr_t(out) % 64), held(first) {}
  INLINE uint16_t* end() { return (uint16_t*)(room + held); }
  INLINE void add(int64_t bytes) {
    int64_t at = 0;
    held += bytes;
    if (first && held >= 64) std::memcpy(to + first, room + first, 64 - first), first = 0, at = 64;
    for (; at + 64 <= held; at += 64) Way::move(room + at, to + at);
    if (at) std::memcpy(room, room + at, 64), to += at, held -= at;
  }
  INLINE void finish() { std::memcpy(to + first, room + first, held - first); }
};

// Some rows of a block, and what was seen of them.
struct Share {
  const Block* block;
  const Guess* guess;
  uint16_t* out;  // of the first row of the block
  int64_t first, last, exceptions = 0;
  bool sound = false;
  Check low = {}, rest = {};
};

// Nothing outside the block is read, whatever it holds.
template <typename Way>
INLINE void expand(Share& share) {
  const Block& block = *share.block;
  const int64_t width = block.width;
  Lines<Way> lines(share.out + share.first * width);
  Rows rows(*share.guess);
  const uint8_t *const plane = block.start + block.low, *low = plane + share.first * width;
  const uint8_t *const tails = block.start + block.tails, *tail = tails + block.row(share.first);
  const uint8_t* const limit = block.start + block.exceptions_at;
  if (tail > limit) return;
  Checked lows{plane + up(low - plane, 64), {}}, rest{tails + (share.first ? up(tail - tails, 64) : 0), {}};
  int64_t exception = block.first_exception(share.first * width);
  for (int64_t row = share.first; row < share.last; ++row, low += width) {
    const Line line = rows.line<Way>(row);
    for (int64_t from = 0; from < width; from += SEGMENT) {
      const int64_t to = std::min(from + SEGMENT, width);
      lows.to(low + to);
      tail = Way::columns(line, from, to, low, tail, limit, lines.end());
      if (!tail) return;
      for (; exception < block.exceptions; ++exception, ++share.exceptions) {
        const Exception next = block.exception(exception);
        if (next.place < row * width + from) return;
        if (next.place >= row * width + to) break;
        lines.end()[next.place - (row * width + from)] = uint16_t(next.word);
      }
      lines.add(2 * (to - from));
    }
    if (tail - tails != block.row(row + 1)) return;
    rest.to(tail);
  }
  lines.finish();
  lows.to(plane + up(low - plane, 64)), share.low = lows.check;
  rest.to(share.last < block.rows ? tails + up(tail - tails, 64) : block.start + block.bytes), share.rest = rest.check;
  share.sound = true;
}

void expand_plain(Share& share) { expand<Plain>(share); }
#if X86
MIDDLE void expand_bits(Share& share) {
  expand<Bits>(share);
  _mm_sfence();
}
WIDE void expand_vectors(Share& share) {
  expand<Vectors>(share);
  _mm_sfence();
}
#endif

void expand_by(int way, Share& share) {
#if X86
  if (way == 2 && Vectors::take(*share.guess)) return expand_vectors(share);
  if (way == 1 && Bits::take(*share.guess)) return expand_bits(share);
#endif
  expand_plain(share);
}

// ---- compressing

struct Written {
  uint8_t *low, *tail;
  std::vector<Exception> exceptions;
  int64_t weights = 0;

  // The nibble of an open weight whose bytes are in `open`, or any.
  static INLINE uint8_t nibble(uint16_t word, const uint8_t* open) {
    const int below = open[0] - (word >> 8 & 0x7f), sign = word >> 15 << 3;
    return uint8_t(sign | (below >= 0 && below < 7 ? below : 7));
  }
  INLINE void chunk(const Line& line, int64_t column, int64_t end, const uint16_t* words) {
    int64_t count = 0;
    for (; column < end; ++column, ++weights) {
      const Table& table = line.tables[line.group[column / 8]];
      const uint8_t code = line.codes[column], byte = uint8_t(words[column]);
      uint8_t high = table.high[code];
      if (high) {
        high += byte < table.low[code];
      } else {
        const uint8_t four = nibble(words[column], table.open);
        tail[count / 2] = uint8_t(count % 2 ? tail[count / 2] | four << 4 : four);
        high = table.open[four], ++count;
      }
      low[weights] = byte;
      if (high != words[column] >> 8) exceptions.push_back({uint32_t(weights), words[column]});
    }
    tail += (count + 1) / 2;
  }
};

}  // namespace

// Bytes that the remainder of rows x width weights takes at most.
extern "C" int64_t remainder_bound(int64_t rows, int64_t width) {
  return up(up(tails_of(rows, width) + rows * tail_bound(width), 8) + 8 * rows * width + SLACK, 64);
}

// Writes what is left of `words` beside `guess` to `block`, `remainder_bound` bytes; returns the bytes it took.
extern "C" int64_t remainder_compress(const uint16_t* words, const Guess* guess, uint8_t* block) {
  const int64_t width = guess->width, low = low_plane(guess->rows), tails = tails_of(guess->rows, width);
  Rows rows(*guess);
  Written written{block + low, block + tails, {}};
  std::memset(block, 0, low), std::memset(block + low + guess->rows * width, 0, tails - low - guess->rows * width);
  for (int64_t row = 0; row < guess->rows; ++row, words += width) {
    const Line line = rows.line<Plain>(row);
    for (int64_t column = 0; column < width; column += CHUNK)
      written.chunk(line, column, std::min(column + CHUNK, width), words);
    const uint32_t end = uint32_t(written.tail - block - tails);
    std::memcpy(block + sizeof(Header) + 4 * (row + 1), &end, 4);
  }
  const int64_t at = up(written.tail - block, 8), count = written.exceptions.size();
  const int64_t bytes = up(at + 8 * count + SLACK, 64);
  std::memset(written.tail, 0, block + bytes - written.tail);
  if (count) std::memcpy(block + at, written.exceptions.data(), 8 * count);
  Checked table{block + sizeof(Header), {}}, plane{block + low, {}}, rest{block + tails, {}};
  table.to(block + low), plane.to(block + tails), rest.to(block + bytes);
  const Header header{MAGIC, uint32_t(guess->rows), uint32_t(width), uint32_t(bytes), uint32_t(count),
                      check_of(table.check, plane.check, rest.check), uint32_t(tails), uint32_t(at), {}};
  std::memcpy(block, &header, sizeof header);
  return bytes;
}

// Whether a block of so many bytes is an undamaged one of `weights` weights.
extern "C" int remainder_sound(const uint8_t* start, int64_t bytes, int64_t weights) {
  Header header = {};
  if (bytes >= int64_t(sizeof header)) std::memcpy(&header, start, sizeof header);
  if (int64_t(header.rows) * header.width != weights) return 0;
  const Block block(start, bytes, header.rows, header.width);
  if (!block.bytes || !block.ordered()) return 0;
  Checked table{start + sizeof(Header), {}}, low{start + block.low, {}}, rest{start + block.tails, {}};
  table.to(start + block.low), low.to(start + block.tails), rest.to(start + bytes);
  return check_of(table.check, low.check, rest.check) == block.check;
}

// The fastest way of this processor, by its number in ways.h.
extern "C" int remainder_best() { return best_way(); }

// Restores the weights; 0, or 1 when the block is damaged or of another guess. `way` at most `remainder_best`;
// `threads` as many as share the work.
extern "C" int remainder_expand(const uint8_t* start, int64_t bytes, const Guess* guess, uint16_t* out, int way,
                                int threads) {
  const Block block(start, bytes, guess->rows, guess->width);
  if (!block.bytes) return 1;
  std::vector<Share> shares;
  const int64_t most = up(std::max<int64_t>(SHARE / guess->width, 1), BLOCK);
  for (int64_t first = 0; first < guess->rows; first = shares.back().last) {
    const int64_t last = threads > 1 ? first + most - (guess->first + first) % BLOCK : guess->rows;
    shares.push_back({&block, guess, out, first, std::min(last, guess->rows)});
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (shares.size() > 1)
  for (size_t i = 0; i < shares.size(); ++i) expand_by(way, shares[i]);
  Share whole{&block, guess, out, 0, 0};
  for (const Share& share : shares) {
    if (!share.sound) return 1;
    whole.low.join(share.low), whole.rest.join(share.rest), whole.exceptions += share.exceptions;
  }
  Checked table{start + sizeof(Header), {}};
  table.to(start + block.low);
  return whole.exceptions != block.exceptions || check_of(table.check, whole.low, whole.rest) != block.check;
}
