// Attention of single queries over pages, in equal tiles. Knows nothing of windows or layers.
//
// A tile is some pages of one head; how many depends on the width of a slot alone, so that a
// sequence is cut the same way whatever else is in the batch. Threads take tiles as they come; the
// parts of a head are merged in order by whoever finishes the last of them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "paged.h"
#include "retain/rule.h"
#include "simd.h"

namespace {

// What all tiles of one call have in common.
struct ReadTask {
  const void* keys;
  const void* values;
  long key_stride, value_stride, key_size, value_size, group, score_stride;
  bool value_in_key;
  // Where rows are narrow, two for each slot: the first is the key's. Null: rows are what they say.
  const float* scales = nullptr;
};

SNELLO_BEGIN_AVX2
namespace avx2 {
#define SNELLO_VECTOR_BITS 256
#include "vector.inc"
#include "page_attend/kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx2
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#define SNELLO_VECTOR_BITS 512
#include "vector.inc"
#include "page_attend/kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx512
SNELLO_END

using Read = void (*)(const ReadTask&, const float*, const uint32_t*, long, float*, float*, float*,
                      float*);

Read choose_narrow_read(snello::Format format) {
  const bool is_int8 = format == snello::Format::int8;
  if (snello::best_isa() == snello::Isa::avx512) {
    return is_int8 ? &avx512::read_tile<int8_t> : &avx512::read_tile<avx512::Float8>;
  }
  return is_int8 ? &avx2::read_tile<int8_t> : &avx2::read_tile<avx2::Float8>;
}

Read choose_read(bool is_bfloat16) {
  if (snello::best_isa() == snello::Isa::avx512) {
    return is_bfloat16 ? &avx512::read_tile<uint16_t> : &avx512::read_tile<float>;
  }
  return is_bfloat16 ? &avx2::read_tile<uint16_t> : &avx2::read_tile<float>;
}

constexpr int64_t kTileNumbers = 65536;  // 256 KiB of float32: well within a second-level cache
constexpr int64_t kMostTileTokens = 512;
constexpr int64_t kNumbersAlone = 16384;  // less is not worth waking another thread

// Pages [first, last) of the head in `row` of the batch's B * K.
struct Tile {
  int64_t row, first, last;
};

int64_t pages_of_tile(int64_t numbers_per_slot, int64_t page_tokens) {
  const int64_t tokens = std::min(kMostTileTokens, kTileNumbers / numbers_per_slot);
  return std::max<int64_t>(1, tokens / page_tokens);
}

// How many pages a tile holds: of those that are as wide as they say, and of narrow ones behind.
struct Cut {
  int64_t pages, ring_pages = INT64_MAX, narrow_pages = 1;
};

// The tiles of all heads, one head after the other; `starts[row]` is the first of a head.
std::vector<Tile> cut_tiles(const std::vector<int64_t>& num_pages, const Cut& cut,
                            std::vector<int64_t>& starts) {
  std::vector<Tile> tiles;
  const auto add = [&](int64_t row, int64_t first, int64_t end, int64_t tile_pages) {
    for (; first < end; first += tile_pages) {
      tiles.push_back({row, first, std::min(first + tile_pages, end)});
    }
  };
  for (size_t row = 0; row < num_pages.size(); ++row) {
    starts.push_back(tiles.size());
    add(row, 0, std::min(num_pages[row], cut.ring_pages), cut.pages);
    add(row, cut.ring_pages, num_pages[row], cut.narrow_pages);
  }
  starts.push_back(tiles.size());
  return tiles;
}

// One call: who asks, what is read, and where results of tiles wait to be merged.
struct Call {
  ReadTask task, narrow_task;
  Read read, narrow_read;
  snello::Slots slots;
  snello::Narrow narrow;
  snello::Lists lists;
  snello::Rule rule;
  const float* q;
  const int64_t* rows;
  const int64_t* query_positions;
  const int64_t* sequences;
  int64_t num_heads, tile_tokens;
  float scale;
  float* out;
  std::vector<Tile> tiles;
  std::vector<int64_t> starts;
  float* parts;                            // (tiles, g, E)
  std::vector<float> largest, total;       // (tiles, g)
  std::vector<int64_t> num_seen;           // (tiles)
  std::unique_ptr<std::atomic<int>[]> left;  // (rows), tiles of a head not read yet

  int64_t num_queries() const { return num_heads * task.group; }

  // The first number of the group of queries that a head answers, in a tensor of rows of `size`.
  int64_t offset(int64_t row, int64_t size) const {
    const int64_t head = row % num_heads;
    return (rows[row / num_heads] * num_queries() + head * task.group) * size;
  }
};

struct Scratch {
  std::vector<float> q, scores;
  std::vector<uint32_t> slots;

  explicit Scratch(const Call& call)
      : q(call.task.group * call.task.key_size),
        scores(call.task.group * call.task.score_stride),
        slots(call.tile_tokens) {}
};

// List the slots of a tile that the query sees.
int64_t list_seen(const Call& call, const Tile& tile, std::vector<uint32_t>& seen) {
  const int64_t b = tile.row / call.num_heads, P = call.slots.page_places;
  const int64_t S = tile.first < call.narrow.ring_pages ? call.slots.page_tokens : P;
  const int64_t query = call.query_positions[b];
  const int64_t row = call.lists.row(call.sequences[b], tile.row % call.num_heads);
  int64_t count = 0;
  const int64_t* pages = call.lists.pages + row * call.lists.width;
  for (int64_t column = tile.first; column < tile.last; ++column) {
    __builtin_prefetch(call.slots.positions + pages[column] * P);
  }
  for (int64_t column = tile.first; column < tile.last; ++column) {
    const int64_t first = pages[column] * S;
    const int32_t* positions = call.slots.positions + pages[column] * P;
    for (int64_t i = 0; i < S; ++i) {
      const int32_t position = positions[i];
      seen[count] = static_cast<uint32_t>(first + i);
      count += position <= query && query <= snello::last_reader(position, false, call.rule);
    }
  }
  return count;
}

// Add the parts of a head up, the largest score of all subtracted; an empty part weighs nothing.
void merge(const Call& call, int64_t row) {
  const int64_t g = call.task.group, E = call.task.value_size;
  float* out = call.out + call.offset(row, E);
  std::memset(out, 0, g * E * sizeof *out);
  for (int64_t h = 0; h < g; ++h) {
    float most = -INFINITY, weight_sum = 0.0f;
    for (int64_t i = call.starts[row]; i < call.starts[row + 1]; ++i) {
      if (call.num_seen[i]) most = std::max(most, call.largest[i * g + h]);
    }
    for (int64_t i = call.starts[row]; i < call.starts[row + 1]; ++i) {
      if (call.num_seen[i] == 0) continue;
      const float weight = std::exp(call.largest[i * g + h] - most);
      const float* part = call.parts + (i * g + h) * E;
      weight_sum += weight * call.total[i * g + h];
      for (int64_t e = 0; e < E; ++e) out[h * E + e] += weight * part[e];
    }
    if (weight_sum > 0.0f) {
      for (int64_t e = 0; e < E; ++e) out[h * E + e] /= weight_sum;
    }
  }
}

void read(Call& call, int64_t index, Scratch& scratch) {
  const Tile& tile = call.tiles[index];
  const int64_t g = call.task.group;
  const int64_t num_seen = call.num_seen[index] = list_seen(call, tile, scratch.slots);
  if (num_seen > 0) {
    const float* q = call.q + call.offset(tile.row, call.task.key_size);
    for (size_t i = 0; i < scratch.q.size(); ++i) scratch.q[i] = q[i] * call.scale;
    const bool is_exact = tile.first < call.narrow.ring_pages;
    const auto read_tile = is_exact ? call.read : call.narrow_read;
    read_tile(is_exact ? call.task : call.narrow_task, scratch.q.data(), scratch.slots.data(), num_seen, scratch.scores.data(),
              call.parts + index * g * call.task.value_size, &call.largest[index * g],
              &call.total[index * g]);
  }
  if (call.left[tile.row].fetch_sub(1, std::memory_order_acq_rel) == 1) merge(call, tile.row);
}

void read_all(Call& call) {
  const int64_t num_tiles = call.tiles.size();
  const int64_t width = call.task.key_size + call.task.value_size;
  const bool alone = num_tiles * call.tile_tokens * width * call.task.group < kNumbersAlone;
  const int64_t num_workers = alone ? 1 : std::min<int64_t>(at::get_num_threads(), num_tiles);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, num_workers, 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {
      Scratch scratch(call);
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < num_tiles;) {
        read(call, i, scratch);
      }
    }
  });
}

void page_attend(const at::Tensor& q, const at::Tensor& rows, const at::Tensor& query_positions,
                 const at::Tensor& sequences, const at::Tensor& keys, const at::Tensor& values,
                 const at::Tensor& positions, const at::Tensor& pages, const at::Tensor& num_held,
                 int64_t num_heads, bool value_in_key, int64_t span, bool chunked, double scale,
                 at::Tensor& out, at::Tensor& num_seen, const std::optional<at::Tensor>& scales,
                 bool is_float8, int64_t ring_pages) {
  TORCH_CHECK(q.scalar_type() == at::kFloat && out.scalar_type() == at::kFloat,
              "page_attend: queries and out must be float32");
  TORCH_CHECK(out.is_contiguous() && num_seen.is_contiguous(),
              "page_attend: out and num_seen must be contiguous");
  const at::Tensor asked = q.contiguous();
  Call call;
  call.slots = snello::unpack_slots(keys, values, positions);
  call.lists = snello::unpack_lists(pages, num_held);
  call.rule = {0, span, chunked};
  call.q = asked.const_data_ptr<float>();
  call.rows = rows.const_data_ptr<int64_t>();
  call.query_positions = query_positions.const_data_ptr<int64_t>();
  call.sequences = sequences.const_data_ptr<int64_t>();
  call.num_heads = num_heads;
  call.scale = static_cast<float>(scale);
  call.out = out.mutable_data_ptr<float>();
  const int64_t B = rows.numel(), g = q.size(1) / num_heads;
  const int64_t D = q.size(2), E = out.size(2), S = call.slots.page_tokens;
  const int64_t P = call.slots.page_places, numbers = D + (value_in_key ? 0 : E);
  call.narrow = snello::unpack_narrow(scales, is_float8, ring_pages, keys, call.slots);
  const Cut cut = {pages_of_tile(numbers, S), call.narrow.ring_pages, pages_of_tile(numbers, P)};
  call.tile_tokens = std::max(cut.pages * S, cut.narrow_pages * P);
  call.task = {call.slots.keys,
               value_in_key ? call.slots.keys : call.slots.values,
               call.slots.key_stride,
               value_in_key ? call.slots.key_stride : call.slots.value_stride,
               D,
               E,
               g,
               (call.tile_tokens + 15) / 16 * 16,
               value_in_key};
  call.read = choose_read(call.slots.is_bfloat16);
  call.narrow_task = call.task;
  call.narrow_task.scales = call.narrow.scales;
  call.narrow_read = choose_narrow_read(call.narrow.format);
  std::vector<int64_t> held(B * num_heads);
  for (int64_t row = 0; row < B * num_heads; ++row) {
    held[row] = call.lists.num_held[call.lists.row(call.sequences[row / num_heads],
                                                   row % num_heads)];
  }
  call.tiles = cut_tiles(held, cut, call.starts);
  const int64_t num_tiles = call.tiles.size();
  const at::Tensor parts = at::empty({num_tiles * g * E}, out.options());
  call.parts = parts.mutable_data_ptr<float>();
  call.largest.resize(num_tiles * g);
  call.total.resize(num_tiles * g);
  call.num_seen.resize(num_tiles);
  call.left = std::make_unique<std::atomic<int>[]>(held.size());
  for (size_t row = 0; row < held.size(); ++row) {
    call.left[row] = static_cast<int>(call.starts[row + 1] - call.starts[row]);
    if (call.left[row] == 0) merge(call, row);
  }
  if (num_tiles > 0) read_all(call);
  int64_t* seen = num_seen.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < num_tiles; ++i) seen[call.tiles[i].row / num_heads] += call.num_seen[i];
}

// The tiles of heads that hold so many pages, as rows (head, first page, last page).
at::Tensor page_tiles(const at::Tensor& num_pages, int64_t numbers_per_slot, int64_t page_tokens) {
  const at::Tensor held = num_pages.contiguous();
  const int64_t* counts = held.const_data_ptr<int64_t>();
  std::vector<int64_t> starts;
  const auto tiles = cut_tiles({counts, counts + held.numel()},
                               {pages_of_tile(numbers_per_slot, page_tokens)}, starts);
  const at::Tensor out = at::empty({static_cast<int64_t>(tiles.size()), 3}, held.options());
  std::memcpy(out.mutable_data_ptr<int64_t>(), tiles.data(), tiles.size() * sizeof(Tile));
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "page_attend(Tensor q, Tensor rows, Tensor query_positions, Tensor sequences, Tensor keys, "
      "Tensor values, Tensor positions, Tensor pages, Tensor num_held, int num_heads, "
      "bool value_in_key, int span, bool chunked, float scale, Tensor(a!) out, "
      "Tensor(b!) num_seen, Tensor? scales, bool is_float8, int ring_pages) -> ()");
  m.def("page_tiles(Tensor num_pages, int numbers_per_slot, int page_tokens) -> Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) {
  m.impl("page_attend", &page_attend);
  m.impl("page_tiles", &page_tiles);
}
