// The tensors of a page store and of a page table, checked and unpacked for kernels.
// Knows nothing of what is done with them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace snello {

// Slots of S tokens a page, `key_stride` and `value_stride` numbers apart; float or bfloat16.
struct Slots {
  const void* keys;
  const void* values;
  const int32_t* positions;
  int64_t page_tokens, key_stride, value_stride;
  bool is_bfloat16;
};

// Pages of each head of one layer: `pages[(sequence * most_heads + head) * width + column]`.
struct Lists {
  const int64_t* pages;
  const int64_t* num_held;
  int64_t most_heads, width;

  int64_t row(int64_t sequence, int64_t head) const { return sequence * most_heads + head; }
};

inline Slots unpack_slots(const at::Tensor& keys, const at::Tensor& values,
                          const at::Tensor& positions) {
  const auto dtype = keys.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16,
              "pages are ", dtype, "; the CPU kernels read float32 and bfloat16");
  TORCH_CHECK(values.scalar_type() == dtype && positions.scalar_type() == at::kInt,
              "values must be stored like keys, positions as int32");
  TORCH_CHECK(keys.is_contiguous() && values.is_contiguous() && positions.is_contiguous(),
              "page tensors must be contiguous");
  return {keys.const_data_ptr(), values.const_data_ptr(), positions.const_data_ptr<int32_t>(),
          keys.size(1),          keys.size(2),            values.size(2),
          dtype == at::kBFloat16};
}

inline Lists unpack_lists(const at::Tensor& pages, const at::Tensor& num_held) {
  TORCH_CHECK(pages.dim() == 3 && pages.is_contiguous() && num_held.is_contiguous(),
              "page lists must be contiguous, (sequences, heads, pages)");
  return {pages.const_data_ptr<int64_t>(), num_held.const_data_ptr<int64_t>(), pages.size(1),
          pages.size(2)};
}

}  // namespace snello
