// Attention of single queries over pages, tile by tile, so that threads can share the tiles. Knows
// nothing of layers, or of who calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "paged.h"
#include "retain/rule.h"

namespace snello {

// What all tiles of one call have in common.
struct ReadTask {
  const void* keys;
  const void* values;
  long key_stride, value_stride, key_size, value_size, group, score_stride;
  bool value_in_key;
  // Where rows are narrow, two for each slot: the first is the key's. Null: rows are what they say.
  const void* scales = nullptr;
};

constexpr long kSlotsAhead = 24;  // rows that are asked for before they are needed

// The rows of a tile in the order they are read: all keys, all values, and `kSlotsAhead` of what is
// read next.
struct TileRows {
  const uint8_t* const* rows;
  const uint32_t* slots;
  long num_slots;

  const uint8_t* const* keys() const { return rows; }
  const uint8_t* const* values() const { return rows + num_slots; }
};

using ReadTile = void (*)(const ReadTask&, const float* q, const TileRows& rows, float* scores,
                          float* out, float* largest, float* total);

// Pages [first, last) of the head in `row` of the batch's B * K.
struct Tile {
  int64_t row, first, last;
};

// How many pages a tile holds: of those that are as wide as they say, and of narrow ones behind.
struct Cut {
  int64_t pages, ring_pages = INT64_MAX, narrow_pages = 1;
};

// What one thread works with; the last two where rows are rotated, plane by plane.
struct ReadScratch {
  std::vector<float> q, scores, rotated_q, rotated_out;
  std::vector<uint32_t> slots;
  std::vector<const uint8_t*> rows;
};

// One call: who asks, what is read, and where results of tiles wait to be merged. First `prepare`,
// by one thread; then any number of threads `work`; then `count`, by one.
struct PageRead {
  ReadTask task, narrow_task;
  ReadTile read_tile, read_narrow_tile;
  Slots slots;
  Narrow narrow;
  Lists lists;
  Rule rule;
  const float* q;
  const int64_t* rows;
  const int64_t* query_positions;
  const int64_t* sequences;
  int64_t batch, num_heads, tile_tokens;
  Cut cut;
  float scale;
  float* out;

  // Choose kernel and tiles for heads of these sizes; `group` queries share a head.
  void shape(int64_t key_size, int64_t value_size, int64_t group, bool value_in_key);
  // Cut what the heads hold now into tiles.
  void prepare();
  // Read tiles until none is left.
  void work(ReadScratch& scratch);
  // Add the number of tokens that each of the batch saw.
  void count(int64_t* num_seen) const;

  int64_t num_tiles() const { return static_cast<int64_t>(tiles_.size()); }

 private:
  std::vector<Tile> tiles_;
  std::vector<int64_t> starts_, held_;  // first tile, and pages, of each head
  std::vector<float> parts_;            // (tiles, g, E)
  std::vector<float> largest_, total_;  // (tiles, g)
  std::vector<int64_t> num_seen_;       // (tiles)
  std::unique_ptr<std::atomic<int>[]> left_;  // tiles of each head that are not read yet
  int64_t num_left_ = 0;
  std::atomic<int64_t> next_{0};

  int64_t offset(int64_t row, int64_t size) const;
  // Bytes from one row to the next.
  int64_t key_bytes(bool is_narrow) const {
    return is_narrow ? narrow_task.key_stride : slots.key_stride * (slots.is_bfloat16 ? 2 : 4);
  }
  int64_t value_bytes(bool is_narrow) const {
    return is_narrow ? narrow_task.value_stride : slots.value_stride * (slots.is_bfloat16 ? 2 : 4);
  }
  const int64_t* pages_of(const Tile& tile) const;
  bool is_narrow(const Tile& tile) const { return tile.first >= narrow.ring_pages; }
  int64_t slots_of_page(const Tile& tile) const;
  void ask_for_positions(int64_t index) const;
  int64_t list_seen(const Tile& tile, std::vector<uint32_t>& seen) const;
  void list_rows(const Tile& tile, int64_t following, int64_t seen, ReadScratch& scratch) const;
  void read(int64_t index, int64_t following, ReadScratch& scratch);
  void read_rotated(const TileRows& rows, ReadScratch& scratch, float* part, float* largest,
                    float* total) const;
  int64_t rotated_values() const;
  void merge(int64_t row);
};

// How many pages a tile has, for slots of so many numbers.
int64_t pages_of_tile(int64_t numbers_per_slot, int64_t page_tokens);

// The tiles of all heads, one head after the other; `starts[row]` is the first of a head.
void cut_tiles(const std::vector<int64_t>& num_pages, const Cut& cut, std::vector<Tile>& tiles,
               std::vector<int64_t>& starts);

}  // namespace snello
