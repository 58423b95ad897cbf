// Storing one new token a head and retiring the one it pushes out, head by head, so that threads can
// share the heads. Knows nothing of layers, or of who calls.
#pragma once

#include <cstdint>

#include "paged.h"
#include "retain/rule.h"

namespace snello {

// Numbers of one slot each, `stride` apart, of which new tokens fill the first `width`; a row of the
// flat batch is `row_stride` numbers behind the one before, its heads side by side.
struct Rows {
  void* stored;
  const float* fresh;
  int64_t stride, width, row_stride;
};

// One layer of one step.
struct Append {
  Rows keys, values;
  const bool* marks;
  const int64_t* rows;
  const int64_t* positions;
  const int64_t* sequences;
  const int64_t* about;
  int32_t* slot_positions;
  bool* evict;
  int64_t* pages;
  int64_t* num_held;
  int64_t* num_survivors;
  int64_t* spare;
  int64_t most_heads, width, page_tokens, page_places, num_heads, ring_tokens;
  Rule rule;
  bool is_bfloat16;
  Narrow narrow;

  // Store the new token of one head of sequence b of the batch.
  void run(int64_t b, int64_t head) const;
};

}  // namespace snello
