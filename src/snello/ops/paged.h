// The tensors of a page store and of a page table, checked and unpacked for kernels.
// Knows nothing of what is done with them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "narrow/rule.h"

namespace snello {

// Slots of S tokens a page, `key_stride` and `value_stride` numbers apart; float or bfloat16. A
// page has S marks and `page_places` positions, of which only one of narrow survivors fills all.
struct Slots {
  const void* keys;
  const void* values;
  const int32_t* positions;
  int64_t page_tokens, page_places, key_stride, value_stride;
  bool is_bfloat16;
};

// Pages behind the first `ring_pages` of each head hold bytes, in `page_places` slots.
struct Narrow {
  Format format = Format::same;
  void* scales = nullptr;  // for each slot, of its key and of its value; see `load_scale`
  int64_t ring_pages = INT64_MAX;

  // Scales of nibbles are bfloat16, all others are float.
  float load_scale(int64_t index) const {
    if (format == Format::int4) return static_cast<const c10::BFloat16*>(scales)[index];
    return static_cast<const float*>(scales)[index];
  }
  void store_scale(int64_t index, float scale) const {
    if (format == Format::int4) {
      static_cast<c10::BFloat16*>(scales)[index] = scale;
    } else {
      static_cast<float*>(scales)[index] = scale;
    }
  }
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
          keys.size(1),          positions.size(1),       keys.size(2),
          values.size(2),        dtype == at::kBFloat16};
}

// The format follows from the scales, which are bfloat16 beside nibbles, and from `is_float8`.
inline Narrow unpack_narrow(const std::optional<at::Tensor>& scales, bool is_float8,
                            int64_t ring_pages, const at::Tensor& keys, const Slots& slots) {
  if (!scales) return {};
  const bool is_int4 = scales->scalar_type() == at::kBFloat16;
  const int64_t per_byte = is_int4 ? 2 : 1;
  TORCH_CHECK((is_int4 || scales->scalar_type() == at::kFloat) && scales->is_contiguous() &&
                  scales->numel() == 2 * keys.size(0) * slots.page_places &&
                  slots.page_places == slots.page_tokens * keys.element_size() * per_byte &&
                  slots.key_stride % per_byte == 0 && slots.value_stride % per_byte == 0,
              "scales must be two for each slot of a page: float32 beside bytes, bfloat16 beside "
              "nibbles, of which rows have an even number");
  const Format format = is_int4 ? Format::int4 : is_float8 ? Format::float8 : Format::int8;
  return {format, const_cast<void*>(scales->const_data_ptr()), ring_pages};
}

inline Lists unpack_lists(const at::Tensor& pages, const at::Tensor& num_held) {
  TORCH_CHECK(pages.dim() == 3 && pages.is_contiguous() && num_held.is_contiguous(),
              "page lists must be contiguous, (sequences, heads, pages)");
  return {pages.const_data_ptr<int64_t>(), num_held.const_data_ptr<int64_t>(), pages.size(1),
          pages.size(2)};
}

}  // namespace snello
