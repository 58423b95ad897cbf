// Storing one new token a head and retiring the one it pushes out. Knows nothing of layers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "append/appending.h"

namespace snello {
namespace {

constexpr int64_t kHeadsAlone = 128;  // fewer heads are not worth waking another thread

// A slot of a page, where its mark stands too, and where its position stands.
struct Place {
  int64_t slot, place;
};

template <typename Stored>
void write(const Rows& rows, int64_t slot, int64_t row, int64_t head) {
  auto* to = static_cast<Stored*>(rows.stored) + slot * rows.stride;
  const float* from = rows.fresh + row * rows.row_stride + head * rows.width;
  for (int64_t i = 0; i < rows.width; ++i) to[i] = static_cast<Stored>(from[i]);
}

template <typename Stored>
void copy(const Rows& rows, int64_t from, int64_t to) {
  auto* stored = static_cast<Stored*>(rows.stored);
  std::memcpy(stored + to * rows.stride, stored + from * rows.stride,
              rows.stride * sizeof(Stored));
}

// Round a row to bytes, in a survivor's slot; `which` scale of it is that of the row.
template <typename Stored>
void narrow(const Rows& rows, int64_t from, int64_t to, const Narrow& narrow, int64_t which) {
  auto* bytes = static_cast<uint8_t*>(rows.stored) + to * count_bytes(rows.stride, narrow.format);
  const auto* row = static_cast<const Stored*>(rows.stored) + from * rows.stride;
  narrow.store_scale(2 * to + which, narrow_row(row, rows.width, narrow.format, bytes));
}

template <typename Stored>
void retire(const Append& call, int64_t from, int64_t to) {
  if (call.narrow.format == Format::same) {
    copy<Stored>(call.keys, from, to);
    copy<Stored>(call.values, from, to);
    call.evict[to] = false;
    return;
  }
  narrow<Stored>(call.keys, from, to, call.narrow, 0);
  narrow<Stored>(call.values, from, to, call.narrow, 1);
}

// Where the survivors of a head end; takes the spare page if the last one is full. Survivors fill
// all places of a page, whatever they are stored in.
int64_t find_tail(const Append& call, int64_t row, int64_t count) {
  const int64_t S = call.page_tokens, V = call.page_places;
  const int64_t column = (call.ring_tokens + S - 1) / S + count / V;
  int64_t* pages = call.pages + row * call.width;
  if (count % V == 0) {
    TORCH_CHECK(call.spare[row] >= 0 && column < call.width,
                "append_token: a head needs a page and was given no spare one");
    pages[column] = call.spare[row];
    call.spare[row] = -1;
    ++call.num_held[row];
  }
  return pages[column] * V + count % V;
}

template <typename Stored>
void append_to_head(const Append& call, int64_t b, int64_t head) {
  const int64_t S = call.page_tokens, new_position = call.positions[b];
  const int64_t row = call.sequences[b] * call.most_heads + head;
  const int64_t token = call.rows[b] * call.num_heads + head;
  const auto find = [&](int64_t position) -> Place {
    const int64_t slot = position % call.ring_tokens;
    const int64_t page = call.pages[row * call.width + slot / S];
    return {page * S + slot % S, page * call.page_places + slot % S};
  };
  const bool is_own = call.about[b] == new_position;
  if (call.about[b] >= 0 && !is_own) call.evict[find(call.about[b]).slot] = call.marks[token];
  const auto [slot, place] = find(new_position);
  const int64_t old = new_position - call.ring_tokens;
  if (old >= 0 && !call.evict[slot] &&
      new_position <= last_reader(old, false, call.rule)) {
    const int64_t target = find_tail(call, row, call.num_survivors[row]++);
    retire<Stored>(call, slot, target);
    call.slot_positions[target] = call.slot_positions[place];
  }
  write<Stored>(call.keys, slot, call.rows[b], head);
  write<Stored>(call.values, slot, call.rows[b], head);
  call.slot_positions[place] = static_cast<int32_t>(new_position);
  call.evict[slot] = is_own && call.marks[token];
}

}  // namespace

void Append::run(int64_t b, int64_t head) const {
  is_bfloat16 ? append_to_head<c10::BFloat16>(*this, b, head)
              : append_to_head<float>(*this, b, head);
}

namespace {

void append_token(const at::Tensor& k, const at::Tensor& v, const at::Tensor& marks,
                  const at::Tensor& rows, const at::Tensor& positions, const at::Tensor& sequences,
                  const at::Tensor& about, at::Tensor& keys, at::Tensor& values,
                  at::Tensor& slot_positions, at::Tensor& evict, at::Tensor& pages,
                  at::Tensor& num_held, at::Tensor& num_survivors, at::Tensor& spare,
                  int64_t ring_tokens, int64_t span, bool chunked,
                  const std::optional<at::Tensor>& scales, bool is_float8) {
  const auto slots = unpack_slots(keys, values, slot_positions);
  const auto lists = unpack_lists(pages, num_held);
  TORCH_CHECK(k.scalar_type() == at::kFloat && v.scalar_type() == at::kFloat,
              "append_token: k and v must be float32");
  TORCH_CHECK(num_survivors.is_contiguous() && spare.is_contiguous() && evict.is_contiguous(),
              "append_token: num_survivors, spare and evict must be contiguous");
  const at::Tensor fresh_keys = k.contiguous(), fresh_values = v.contiguous();
  const at::Tensor announced = marks.contiguous();
  const int64_t K = k.size(1);
  const Append call = {
      {keys.mutable_data_ptr(), fresh_keys.const_data_ptr<float>(), slots.key_stride, k.size(2),
       K * k.size(2)},
      {values.mutable_data_ptr(), fresh_values.const_data_ptr<float>(), slots.value_stride,
       v.size(2), K * v.size(2)},
      announced.const_data_ptr<bool>(),
      rows.const_data_ptr<int64_t>(),
      positions.const_data_ptr<int64_t>(),
      sequences.const_data_ptr<int64_t>(),
      about.const_data_ptr<int64_t>(),
      slot_positions.mutable_data_ptr<int32_t>(),
      evict.mutable_data_ptr<bool>(),
      pages.mutable_data_ptr<int64_t>(),
      num_held.mutable_data_ptr<int64_t>(),
      num_survivors.mutable_data_ptr<int64_t>(),
      spare.mutable_data_ptr<int64_t>(),
      lists.most_heads,
      lists.width,
      slots.page_tokens,
      slots.page_places,
      K,
      ring_tokens,
      {0, span, chunked},
      slots.is_bfloat16,
      unpack_narrow(scales, is_float8, 0, keys, slots)};
  at::parallel_for(0, rows.numel() * K, kHeadsAlone, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) call.run(first / K, first % K);
  });
}

}  // namespace
}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "append_token(Tensor k, Tensor v, Tensor marks, Tensor rows, Tensor positions, "
      "Tensor sequences, Tensor about, Tensor(a!) keys, Tensor(b!) values, "
      "Tensor(c!) slot_positions, Tensor(d!) evict, Tensor(e!) pages, Tensor(f!) num_held, "
      "Tensor(g!) num_survivors, Tensor(h!) spare, int ring_tokens, int span, bool chunked, "
      "Tensor(i!)? scales, bool is_float8) -> ()");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("append_token", &snello::append_token); }
