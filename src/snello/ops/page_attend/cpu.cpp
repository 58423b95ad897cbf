// Attention of single queries over pages, in equal tiles. Knows nothing of windows or layers.
//
// A tile is some pages of one head; how many depends on the width of a slot alone, so that a
// sequence is cut the same way whatever else is in the batch. Threads take tiles as they come; the
// parts of a head are merged in order by whoever finishes the last of them.
#include "page_attend/reading.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>

#include "simd.h"

namespace snello {
namespace {

SNELLO_BEGIN_AVX2
namespace avx2 {
#define SNELLO_VECTOR_BITS 256
#include "vector.inc"
#include "page_attend/kernel.inc"
#include "page_attend/row_kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx2
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#define SNELLO_VECTOR_BITS 512
#include "vector.inc"
#include "page_attend/kernel.inc"
#include "page_attend/row_kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx512
SNELLO_END

ReadTile choose_narrow_read(Format format) {
  if (format == Format::int4) {
    return best_isa() == Isa::avx512 ? &avx512::read_tile<avx512::Nibbles>
                                     : &avx2::read_tile<avx2::Nibbles>;
  }
  const bool is_int8 = format == Format::int8;
  if (best_isa() == Isa::avx512) {
    return is_int8 ? &avx512::read_tile_by_rows<int8_t>
                   : &avx512::read_tile_by_rows<avx512::Float8>;
  }
  return is_int8 ? &avx2::read_tile_by_rows<int8_t> : &avx2::read_tile_by_rows<avx2::Float8>;
}

ReadTile choose_read(bool is_bfloat16) {
  if (best_isa() == Isa::avx512) {
    return is_bfloat16 ? &avx512::read_tile_by_rows<uint16_t> : &avx512::read_tile_by_rows<float>;
  }
  return is_bfloat16 ? &avx2::read_tile_by_rows<uint16_t> : &avx2::read_tile_by_rows<float>;
}

constexpr int64_t kTileNumbers = 131072;  // 256 KiB of float32: well within a second-level cache
constexpr int64_t kMostTileTokens = 512;
constexpr int64_t kNumbersAlone = 16384;  // less is not worth waking another thread

}  // namespace

int64_t pages_of_tile(int64_t numbers_per_slot, int64_t page_tokens) {
  const int64_t tokens = std::min(kMostTileTokens, kTileNumbers / numbers_per_slot);
  return std::max<int64_t>(1, tokens / page_tokens);
}

void cut_tiles(const std::vector<int64_t>& num_pages, const Cut& cut, std::vector<Tile>& tiles,
               std::vector<int64_t>& starts) {
  const auto add = [&](int64_t row, int64_t first, int64_t end, int64_t tile_pages) {
    for (; first < end; first += tile_pages) {
      tiles.push_back({row, first, std::min(first + tile_pages, end)});
    }
  };
  tiles.clear();
  starts.clear();
  for (size_t row = 0; row < num_pages.size(); ++row) {
    starts.push_back(tiles.size());
    add(row, 0, std::min(num_pages[row], cut.ring_pages), cut.pages);
    add(row, cut.ring_pages, num_pages[row], cut.narrow_pages);
  }
  starts.push_back(tiles.size());
}

void PageRead::shape(int64_t key_size, int64_t value_size, int64_t group, bool value_in_key) {
  const int64_t S = slots.page_tokens, V = slots.page_places;
  const int64_t numbers = key_size + (value_in_key ? 0 : value_size);
  cut = {pages_of_tile(numbers, S), narrow.ring_pages, pages_of_tile(numbers, V)};
  tile_tokens = std::max(cut.pages * S, cut.narrow_pages * V);
  task = {slots.keys,
          value_in_key ? slots.keys : slots.values,
          slots.key_stride,
          value_in_key ? slots.key_stride : slots.value_stride,
          key_size,
          value_size,
          group,
          (tile_tokens + 15) / 16 * 16,
          value_in_key};
  read_tile = choose_read(slots.is_bfloat16);
  narrow_task = task;
  narrow_task.scales = narrow.scales;
  narrow_task.key_stride = count_bytes(task.key_stride, narrow.format);
  narrow_task.value_stride = count_bytes(task.value_stride, narrow.format);
  narrow_task.key_size = count_bytes(key_size, narrow.format);
  narrow_task.value_size = count_bytes(rotated_values(), narrow.format);
  read_narrow_tile = choose_narrow_read(narrow.format);
}

void PageRead::prepare() {
  const int64_t num_rows = batch * num_heads;
  held_.resize(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    held_[row] = lists.num_held[lists.row(sequences[row / num_heads], row % num_heads)];
  }
  cut_tiles(held_, cut, tiles_, starts_);
  parts_.resize(num_tiles() * task.group * task.value_size);
  largest_.resize(num_tiles() * task.group);
  total_.resize(num_tiles() * task.group);
  num_seen_.resize(num_tiles());
  if (num_left_ < num_rows) {
    left_ = std::make_unique<std::atomic<int>[]>(num_rows);
    num_left_ = num_rows;
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    left_[row] = static_cast<int>(starts_[row + 1] - starts_[row]);
    if (left_[row] == 0) merge(row);
  }
  next_ = 0;
}

void PageRead::work(ReadScratch& scratch) {
  scratch.q.resize(task.group * task.key_size);
  scratch.scores.resize(task.group * task.score_stride);
  scratch.slots.resize(tile_tokens);
  scratch.rows.resize(2 * tile_tokens + kSlotsAhead);
  const auto take = [&] {
    const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index < num_tiles()) ask_for_positions(index);
    return index;
  };
  for (int64_t i = take(); i < num_tiles();) {
    const int64_t following = take();  // its first rows come while this one is read
    read(i, following, scratch);
    i = following;
  }
}

void PageRead::count(int64_t* num_seen) const {
  for (int64_t i = 0; i < num_tiles(); ++i) num_seen[tiles_[i].row / num_heads] += num_seen_[i];
}

// The first number of the group of queries that a head answers, in a tensor of rows of `size`.
int64_t PageRead::offset(int64_t row, int64_t size) const {
  const int64_t b = row / num_heads, head = row % num_heads;
  return (rows[b] * num_heads + head) * task.group * size;
}

const int64_t* PageRead::pages_of(const Tile& tile) const {
  const int64_t sequence = sequences[tile.row / num_heads];
  return lists.pages + lists.row(sequence, tile.row % num_heads) * lists.width;
}

int64_t PageRead::slots_of_page(const Tile& tile) const {
  return is_narrow(tile) ? slots.page_places : slots.page_tokens;
}

// Ask for what the reading of a tile begins with.
void PageRead::ask_for_positions(int64_t index) const {
  const Tile& tile = tiles_[index];
  const int64_t* pages = pages_of(tile);
  for (int64_t column = tile.first; column < tile.last; ++column) {
    __builtin_prefetch(slots.positions + pages[column] * slots.page_places);
  }
}

// List the slots of a tile that the query sees; pages of which it sees all come at once.
int64_t PageRead::list_seen(const Tile& tile, std::vector<uint32_t>& seen) const {
  const int64_t P = slots.page_places, S = slots_of_page(tile);
  const int64_t query = query_positions[tile.row / num_heads];
  const int64_t* pages = pages_of(tile);
  uint32_t* to = seen.data();
  for (int64_t column = tile.first; column < tile.last; ++column) {
    const auto first = static_cast<uint32_t>(pages[column] * S);
    const int32_t* positions = slots.positions + pages[column] * P;
    int64_t num_hidden = rule.span > 0;  // with a horizon, each slot is looked at
    for (int64_t i = 0; i < S; ++i) num_hidden += positions[i] > query;
    if (num_hidden == 0) {
      for (int64_t i = 0; i < S; ++i) to[i] = first + static_cast<uint32_t>(i);
      to += S;
      continue;
    }
    for (int64_t i = 0; i < S; ++i) {
      const int32_t position = positions[i];
      *to = first + static_cast<uint32_t>(i);
      to += position <= query && query <= last_reader(position, false, rule);
    }
  }
  return to - seen.data();
}

// List the rows of a tile, and those that the tile after it begins with, seen or not.
void PageRead::list_rows(const Tile& tile, int64_t following, int64_t seen,
                         ReadScratch& scratch) const {
  const auto* keys = static_cast<const uint8_t*>(slots.keys);
  const auto* values = static_cast<const uint8_t*>(task.values);
  const int64_t K = key_bytes(is_narrow(tile));
  const int64_t V = task.value_in_key ? K : value_bytes(is_narrow(tile));
  const uint8_t** to = scratch.rows.data();
  for (int64_t s = 0; s < seen; ++s) {
    to[s] = keys + scratch.slots[s] * K;
    to[seen + s] = values + scratch.slots[s] * V;
  }
  to += 2 * seen;
  std::fill_n(to, kSlotsAhead, to[-1]);
  if (following >= num_tiles()) return;
  const Tile& next = tiles_[following];
  const int64_t* pages = pages_of(next);
  const int64_t S = slots_of_page(next), row_bytes = key_bytes(is_narrow(next));
  const int64_t count = std::min<int64_t>(kSlotsAhead, (next.last - next.first) * S);
  for (int64_t s = 0; s < count; ++s) {
    to[s] = keys + (pages[next.first + s / S] * S + s % S) * row_bytes;
  }
}

// Add the parts of a head up, the largest score of all subtracted; an empty part weighs nothing.
void PageRead::merge(int64_t row) {
  const int64_t g = task.group, E = task.value_size;
  float* to = out + offset(row, E);
  std::memset(to, 0, g * E * sizeof *to);
  for (int64_t h = 0; h < g; ++h) {
    float most = -INFINITY, weight_sum = 0.0f;
    for (int64_t i = starts_[row]; i < starts_[row + 1]; ++i) {
      if (num_seen_[i]) most = std::max(most, largest_[i * g + h]);
    }
    for (int64_t i = starts_[row]; i < starts_[row + 1]; ++i) {
      if (num_seen_[i] == 0) continue;
      const float weight = std::exp(largest_[i * g + h] - most);
      const float* part = parts_.data() + (i * g + h) * E;
      weight_sum += weight * total_[i * g + h];
      for (int64_t e = 0; e < E; ++e) to[h * E + e] += weight * part[e];
    }
    if (weight_sum > 0.0f) {
      for (int64_t e = 0; e < E; ++e) to[h * E + e] /= weight_sum;
    }
  }
}

// How many numbers of a row make its value: of a rotated key, whole blocks.
int64_t PageRead::rotated_values() const {
  const bool is_cut = narrow.format == Format::int4 && task.value_in_key;
  const int64_t mixed = is_cut ? count_mixed(task.key_size) : 1;
  return (task.value_size + mixed - 1) / mixed * mixed;
}

// Read a tile of rotated rows: the query is rotated as they are, and what was read is rotated back.
void PageRead::read_rotated(const TileRows& rows, ReadScratch& scratch, float* part,
                            float* largest, float* total) const {
  const int64_t D = task.key_size, bytes = narrow_task.key_size, E = rotated_values();
  const int64_t mixed = count_mixed(task.value_in_key ? D : E);
  scratch.rotated_q.assign(task.group * 2 * bytes, 0.0f);
  scratch.rotated_out.resize(task.group * 2 * narrow_task.value_size + E);
  for (int64_t h = 0; h < task.group; ++h) {
    float* row = scratch.q.data() + h * D;
    rotate_row(row, D, count_mixed(D));
    float* to = scratch.rotated_q.data() + h * 2 * bytes;
    for (int64_t i = 0; i < D; ++i) to[i % 2 * bytes + i / 2] = row[i];
  }
  float* out = scratch.rotated_out.data();
  read_narrow_tile(narrow_task, scratch.rotated_q.data(), rows, scratch.scores.data(), out, largest,
                   total);
  float* row = out + task.group * 2 * narrow_task.value_size;
  for (int64_t h = 0; h < task.group; ++h) {
    const float* from = out + h * 2 * narrow_task.value_size;
    for (int64_t i = 0; i < E; ++i) row[i] = from[i % 2 * narrow_task.value_size + i / 2];
    rotate_row(row, E, mixed);
    std::copy(row, row + task.value_size, part + h * task.value_size);
  }
}

void PageRead::read(int64_t index, int64_t following, ReadScratch& scratch) {
  const Tile& tile = tiles_[index];
  const int64_t g = task.group;
  const int64_t seen = num_seen_[index] = list_seen(tile, scratch.slots);
  if (seen > 0) {
    list_rows(tile, following, seen, scratch);
    const float* asked = q + offset(tile.row, task.key_size);
    for (int64_t i = 0; i < g * task.key_size; ++i) scratch.q[i] = asked[i] * scale;
    const TileRows rows = {scratch.rows.data(), scratch.slots.data(), seen};
    float* part = parts_.data() + index * g * task.value_size;
    if (is_narrow(tile) && narrow.format == Format::int4) {
      read_rotated(rows, scratch, part, &largest_[index * g], &total_[index * g]);
    } else {
      const ReadTile read_one = is_narrow(tile) ? read_narrow_tile : read_tile;
      read_one(is_narrow(tile) ? narrow_task : task, scratch.q.data(), rows, scratch.scores.data(),
               part, &largest_[index * g], &total_[index * g]);
    }
  }
  if (left_[tile.row].fetch_sub(1, std::memory_order_acq_rel) == 1) merge(tile.row);
}

namespace {

// Share the tiles out among torch's threads.
void read_all(PageRead& call) {
  const int64_t width = call.task.key_size + call.task.value_size;
  const int64_t work = call.num_tiles() * call.tile_tokens * width * call.task.group;
  const int64_t most = work < kNumbersAlone ? 1 : at::get_num_threads();
  at::parallel_for(0, std::min(most, call.num_tiles()), 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {
      ReadScratch scratch;
      call.work(scratch);
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
  PageRead call;
  call.slots = unpack_slots(keys, values, positions);
  call.narrow = unpack_narrow(scales, is_float8, ring_pages, keys, call.slots);
  call.lists = unpack_lists(pages, num_held);
  call.rule = {0, span, chunked};
  call.q = asked.const_data_ptr<float>();
  call.rows = rows.const_data_ptr<int64_t>();
  call.query_positions = query_positions.const_data_ptr<int64_t>();
  call.sequences = sequences.const_data_ptr<int64_t>();
  call.batch = rows.numel();
  call.num_heads = num_heads;
  call.scale = static_cast<float>(scale);
  call.out = out.mutable_data_ptr<float>();
  call.shape(q.size(2), out.size(2), q.size(1) / num_heads, value_in_key);
  call.prepare();
  read_all(call);
  call.count(num_seen.mutable_data_ptr<int64_t>());
}

// The tiles of heads that hold so many pages, as rows (head, first page, last page).
at::Tensor page_tiles(const at::Tensor& num_pages, int64_t numbers_per_slot, int64_t page_tokens) {
  const at::Tensor held = num_pages.contiguous();
  const int64_t* counts = held.const_data_ptr<int64_t>();
  std::vector<Tile> tiles;
  std::vector<int64_t> starts;
  cut_tiles({counts, counts + held.numel()}, {pages_of_tile(numbers_per_slot, page_tokens)}, tiles,
            starts);
  const at::Tensor out = at::empty({static_cast<int64_t>(tiles.size()), 3}, held.options());
  std::memcpy(out.mutable_data_ptr<int64_t>(), tiles.data(), tiles.size() * sizeof(Tile));
  return out;
}

}  // namespace
}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "page_attend(Tensor q, Tensor rows, Tensor query_positions, Tensor sequences, Tensor keys, "
      "Tensor values, Tensor positions, Tensor pages, Tensor num_held, int num_heads, "
      "bool value_in_key, int span, bool chunked, float scale, Tensor(a!) out, "
      "Tensor(b!) num_seen, Tensor? scales, bool is_float8, int ring_pages) -> ()");
  m.def("page_tiles(Tensor num_pages, int numbers_per_slot, int page_tokens) -> Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) {
  m.impl("page_attend", &snello::page_attend);
  m.impl("page_tiles", &snello::page_tiles);
}
