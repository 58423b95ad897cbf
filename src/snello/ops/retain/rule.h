// The rule of delayed eviction for kernels: the comparison of reference.py, solved for the query.
// Knows nothing of pages.
#pragma once

#include <algorithm>
#include <cstdint>

namespace snello {

// `span` 0: the layer sees everything; otherwise a sliding horizon, or a chunked one.
struct Rule {
  int64_t window;
  int64_t span;
  bool chunked;
};

// The last position whose query sees a token; the first is the token's own. Between the two, every
// query sees it, so that `position <= query && query <= last_reader(position, ...)` is `retain`.
inline int32_t last_reader(int64_t position, bool evict, const Rule& rule) {
  int64_t last = INT32_MAX;
  if (evict) last = std::min(last, position + rule.window);
  if (rule.span > 0) {
    const int64_t beyond =
        rule.chunked ? (position / rule.span + 1) * rule.span : position + rule.span;
    last = std::min(last, beyond - 1);
  }
  return static_cast<int32_t>(last);
}

}  // namespace snello
