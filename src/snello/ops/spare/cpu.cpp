// Pages for single tokens: handed to heads before a step, taken back after it. Knows nothing of
// layers' keys, or of what is stored.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cstdint>
#include <vector>

namespace {

int64_t* counts_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.scalar_type() == at::kLong && tensor.is_contiguous(),
              "spare pages: every count and number must be contiguous int64");
  return tensor.mutable_data_ptr<int64_t>();
}

int32_t* holders_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.scalar_type() == at::kInt && tensor.is_contiguous(),
              "spare pages: num_holders must be contiguous int32");
  return tensor.mutable_data_ptr<int32_t>();
}

int64_t hand_out(const at::Tensor& sequences, const at::Tensor& starts,
                 const at::Tensor& num_survivors, const at::Tensor& spare,
                 const at::Tensor& ring_tokens, const at::Tensor& num_heads, int64_t page_slots,
                 const at::Tensor& free, int64_t num_free, const at::Tensor& num_holders) {
  const int64_t *who = counts_of(sequences), *start = counts_of(starts);
  const int64_t *survivors = counts_of(num_survivors), *rings = counts_of(ring_tokens);
  const int64_t* heads = counts_of(num_heads);
  const int64_t B = sequences.numel(), N = spare.size(1), K = spare.size(2);
  std::vector<int64_t> needy;
  for (int64_t layer = 0; layer < ring_tokens.numel(); ++layer) {
    for (int64_t b = 0; b < B; ++b) {
      if (start[b] < rings[layer]) continue;
      const int64_t first = (layer * N + who[b]) * K;
      for (int64_t row = first; row < first + heads[layer]; ++row) {
        if (survivors[row] % page_slots == 0) needy.push_back(row);
      }
    }
  }
  const auto count = static_cast<int64_t>(needy.size());
  if (count > num_free) return -count;
  int64_t *pages = counts_of(free), *given = counts_of(spare);
  int32_t* holders = holders_of(num_holders);
  for (const int64_t row : needy) {
    const int64_t page = pages[--num_free];
    given[row] = page;
    holders[page] = 1;
  }
  return count;
}

int64_t take_back(const at::Tensor& sequences, const at::Tensor& spare, const at::Tensor& free,
                  int64_t num_free, const at::Tensor& num_holders) {
  const int64_t* who = counts_of(sequences);
  const int64_t L = spare.size(0), N = spare.size(1), K = spare.size(2);
  int64_t *pages = counts_of(free), *left = counts_of(spare);
  int32_t* holders = holders_of(num_holders);
  std::vector<int64_t> unused;
  for (int64_t layer = 0; layer < L; ++layer) {
    for (int64_t b = 0; b < sequences.numel(); ++b) {
      const int64_t first = (layer * N + who[b]) * K;
      for (int64_t row = first; row < first + K; ++row) {
        if (left[row] < 0) continue;
        unused.push_back(left[row]);
        left[row] = -1;
      }
    }
  }
  for (auto page = unused.rbegin(); page != unused.rend(); ++page) {
    holders[*page] = 0;
    pages[num_free++] = *page;
  }
  return static_cast<int64_t>(unused.size());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "hand_out(Tensor sequences, Tensor starts, Tensor num_survivors, Tensor(a!) spare, "
      "Tensor ring_tokens, Tensor num_heads, int page_slots, Tensor(b!) free, int num_free, "
      "Tensor(c!) num_holders) -> int");
  m.def(
      "take_back(Tensor sequences, Tensor(a!) spare, Tensor(b!) free, int num_free, "
      "Tensor(c!) num_holders) -> int");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) {
  m.impl("hand_out", &hand_out);
  m.impl("take_back", &take_back);
}
