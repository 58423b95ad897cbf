// What a row of the stream says about forgetting, row by row, so that threads can share the rows.
// Knows nothing of layers, or of who calls.
#pragma once

#include <cstdint>

namespace snello {

// `scale * weight (columns, size) . norm(x) - offset`
struct Deciding {
  const float* norm;
  const float* weight;
  int64_t size, num_columns;
  float eps, scale, offset;
};

// `normed` is room for a row.
using DecideRow = void (*)(const Deciding& by, const float* x, float* normed, float* logits);

DecideRow choose_decide();

}  // namespace snello
