// Telling queries and keys where they stand, head by head, so that threads can share the heads.
// Knows nothing of layers, or of who calls.
#pragma once

#include <cstdint>

namespace snello {

constexpr long kMostNumbers = 1024;  // of a head

// What all heads of a call have in common: angles of each row, `num_pairs` of them.
struct Placing {
  const float* cos;
  const float* sin;
  int64_t num_pairs, size;
  float eps;
  bool interleaved;
};

// Norm a head of row `row` (unless `weight` is null), then turn it; `out` is not `x`.
using PlaceHead = void (*)(const Placing& by, const float* x, const float* weight, int64_t row,
                           float* out);

PlaceHead choose_place();

}  // namespace snello
