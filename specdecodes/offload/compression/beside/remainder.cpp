// What is left of bfloat16 weights beside a 4-bit guess of each, and the weights again, in several ways; the format is in
// remainder.h, what a guess says in guess.h.

#include "remainder.h"
#include "guess.h"

namespace {

constexpr int64_t SEGMENT = 1024;  // columns that are restored before they are written

// ---- expanding: codes, and the words of up to 64 columns, each in several ways

struct Plain {
  static INLINE void take_lanes(const uint8_t* packed, int64_t stride, int64_t width, uint8_t* codes, int64_t pitch) {
    for (int64_t column = 0; column < width; column += 8, packed += stride)
      for (int64_t row = 0; row < BLOCK; ++row) {
        uint32_t four;
        std::memcpy(&four, packed + 4 * row, 4);
        const uint64_t eight = (four & 0x0f0f0f0f) | uint64_t(four >> 4 & 0x0f0f0f0f) << 32;
        std::memcpy(codes + row * pitch + column, &eight, 8);
      }
  }
  static INLINE void take_halves(const uint8_t* packed, int64_t rows, int64_t width, uint8_t* codes, int64_t pitch) {
    for (int64_t row = 0; row < rows; ++row, packed += width / 2, codes += pitch)
      for (int64_t i = 0; i < width / 2; ++i) codes[i] = packed[i] & 15, codes[width / 2 + i] = packed[i] >> 4;
  }
  // Returns where the nibbles of the next columns begin.
  static INLINE const uint8_t* chunk(const Line& line, int64_t column, int64_t end, const uint8_t* low,
                                     const uint8_t* tail, uint16_t* words) {
    int64_t open = 0;
    for (; column < end; column += 8) {
      const Table& table = line.tables[line.group[column / 8]];
      const uint8_t *lows = (const uint8_t*)&table.low, *highs = (const uint8_t*)&table.high;
      for (int64_t i = column; i < column + 8; ++i) {
        const uint8_t code = line.codes[i], nibble = tail[open / 2] >> (4 * (open % 2)) & 15;
        const uint8_t closed = highs[code] + (low[i] < lows[code]);
        words[i] = uint16_t((highs[code] ? closed : ((const uint8_t*)&table.open)[nibble]) << 8 | low[i]);
        open += !highs[code];
      }
    }
    return tail + (open + 1) / 2;
  }
  static INLINE void put(const uint16_t* words, int64_t count, uint16_t* out) { std::memcpy(out, words, 2 * count); }
};

// Follows what is read, as far as whole rows of the check go.
struct Checked {
  const uint8_t* at;
  Check check;
  INLINE void to(const uint8_t* end) {
    const int64_t whole = (end - at) / 64 * 64;
    check.add(at, whole), at += whole;
  }
};

// False for a damaged block, and for one of another guess. Nothing outside the block is read, whatever it holds.
template <typename Way>
INLINE bool expand(const Block& block, const Guess& guess, uint16_t* out) {
  alignas(64) uint16_t words[SEGMENT];
  Rows rows(guess);
  const int64_t width = block.width;
  const uint8_t *low = block.start + block.low, *const tails = block.start + block.tails, *tail = tails;
  const uint8_t* const limit = block.start + block.exceptions_at;
  Checked table{block.start + sizeof(Header), {}}, lows{low, {}}, rest{tails, {}};
  table.to(low);
  int64_t exception = 0;
  for (int64_t row = 0; row < block.rows; ++row, low += width) {
    const Line line = rows.line<Way>(row);
    lows.to(low + width);
    for (int64_t from = 0; from < width; from += SEGMENT) {
      const int64_t to = std::min(from + SEGMENT, width);
      for (int64_t column = from; column < to; column += CHUNK) {
        if (to - column >= CHUNK)
          tail = Way::chunk(line, column, column + CHUNK, low, tail, words - from);
        else
          tail = Plain::chunk(line, column, to, low, tail, words - from);
        if (tail > limit) return false;
      }
      for (; exception < block.exceptions; ++exception) {
        const Exception next = block.exception(exception);
        if (next.place < row * width + from) return false;
        if (next.place >= row * width + to) break;
        words[next.place - (row * width + from)] = uint16_t(next.word);
      }
      Way::put(words, to - from, out), out += to - from;
    }
    if (tail - tails != block.row(row + 1)) return false;
    rest.to(tail);
  }
  lows.to(tails), rest.to(block.start + block.bytes);
  return exception == block.exceptions && check_of(table.check, lows.check, rest.check) == block.check;
}

bool expand_plain(const Block& block, const Guess& guess, uint16_t* out) { return expand<Plain>(block, guess, out); }

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
      const uint8_t code = line.codes[column], byte = uint8_t(words[column]), *open = (const uint8_t*)&table.open;
      uint8_t high = ((const uint8_t*)&table.high)[code];
      if (high) {
        high += byte < ((const uint8_t*)&table.low)[code];
      } else {
        const uint8_t four = nibble(words[column], open);
        tail[count / 2] = uint8_t(count % 2 ? tail[count / 2] | four << 4 : four);
        high = open[four], ++count;
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
  const int64_t at = up(written.tail - block, 8), count = written.exceptions.size(), bytes = up(at + 8 * count + SLACK, 64);
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

// The fastest way of this processor: 0 plain.
extern "C" int remainder_best() { return 0; }

// Restores the weights; 0, or 1 when the block is damaged or of another guess. `way` at most `remainder_best`.
extern "C" int remainder_expand(const uint8_t* start, int64_t bytes, const Guess* guess, uint16_t* out, int way) {
  const Block block(start, bytes, guess->rows, guess->width);
  if (!block.bytes) return 1;
  return !expand_plain(block, *guess, out);
}
