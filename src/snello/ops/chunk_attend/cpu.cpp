// Attention of chunks of queries over pages and over the chunk, block by block of keys.
// Knows nothing of layers, or of when a token is stored.
//
// A task is a block of queries of one head group. It lists the keys that any of its queries sees,
// brings them together in blocks, and reads each block with all its queries. What none sees is never
// touched, so that the cost follows the tokens that are alive. Tasks do not depend on the batch.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "paged.h"
#include "retain/rule.h"
#include "simd.h"

namespace {

constexpr int64_t kMostRows = 128;  // queries of a task, over all heads of its group
constexpr int64_t kBlockKeys = 64;

// Keys and values side by side in float32, and which queries see each of them.
struct KeyBlock {
  const float* keys;
  const float* values;
  long num_keys, key_size, value_size, value_stride;
  const int32_t* first;
  const int32_t* last;
  bool has_edges;
};

// Some queries in lanes, and what they have read so far.
struct Packet {
  const float* q;            // (D, rows)
  const int32_t* positions;  // (rows)
  float* largest;            // (rows)
  float* total;              // (rows)
  float* read;               // (E, rows)
};

SNELLO_BEGIN_AVX2
namespace avx2 {
#define SNELLO_VECTOR_BITS 256
#include "vector.inc"
#include "chunk_attend/kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx2
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#define SNELLO_VECTOR_BITS 512
#include "vector.inc"
#include "chunk_attend/kernel.inc"
#undef SNELLO_VECTOR_BITS
}  // namespace avx512
SNELLO_END

// One call: who asks, and what there is to read.
struct Call {
  snello::Slots slots;
  snello::Narrow narrow;
  std::array<float, 256> meanings;
  snello::Lists lists;
  snello::Rule rule;
  const bool* evict;
  const float* q;
  const float* fresh_keys;  // null where the chunk is in the pages already
  const float* fresh_values;
  const bool* fresh_evict;
  const int64_t* rows;
  const int64_t* starts;
  const int64_t* sequences;
  const int64_t* counts;
  int64_t num_heads, group, key_size, value_size, fresh_width;
  bool value_in_key;
  float scale;
  float* out;
  int64_t packet_rows;
  void (*read_block)(const KeyBlock&, const Packet&, float*);

  int64_t queries_of_task() const { return std::max<int64_t>(1, kMostRows / group); }
};

// Queries [first, last) of sequence b of the batch, for one head.
struct Task {
  int64_t b, head, first, last;
};

// What a key is read from: an exact slot of the store, a slot of narrow survivors, or a token of the
// chunk; the exact ones once more, as who sees them behind its window does.
enum class From { slot, survivor, chunk, rounded_slot, rounded_chunk };

// A key that is seen, and by whom.
struct Seen {
  From from;
  int64_t place;
  int32_t first, last;
};

struct Scratch {
  std::vector<Seen> seen;
  std::vector<float> q, largest, total, read, keys, values, scores;
  std::vector<int32_t> positions, first, last;
  std::vector<uint8_t> bytes;
};

int64_t num_common(int64_t first, int64_t last, int64_t from, int64_t to) {
  return std::max<int64_t>(0, std::min(last, to) - std::max(first, from) + 1);
}

// List the keys that a task's queries see; return how many pairs of query and key that makes.
int64_t list_seen(const Call& call, const Task& task, std::vector<Seen>& seen) {
  const int64_t P = call.slots.page_places, start = call.starts[task.b];
  const int64_t begin = start + task.first, end = start + task.last - 1;
  int64_t pairs = 0;
  const auto list = [&](From from, int64_t place, int32_t first, int32_t last) {
    const int64_t common = num_common(first, last, begin, end);
    pairs += common;
    if (common > 0) seen.push_back({from, place, first, last});
  };
  const auto add = [&](From from, int64_t place, int32_t position, bool evict) {
    const int32_t last = snello::last_reader(position, evict, call.rule);
    if (call.narrow.format == snello::Format::same || from == From::survivor) {
      list(from, place, position, last);
      return;
    }
    const auto recent = static_cast<int32_t>(std::min<int64_t>(last, position + call.rule.window));
    list(from, place, position, recent);
    const From rounded = from == From::slot ? From::rounded_slot : From::rounded_chunk;
    if (recent < last) list(rounded, place, recent + 1, last);
  };
  seen.clear();
  const int64_t row = call.lists.row(call.sequences[task.b], task.head);
  for (int64_t column = 0; column < call.lists.num_held[row]; ++column) {
    const bool is_exact = column < call.narrow.ring_pages;
    const int64_t S = is_exact ? call.slots.page_tokens : P;
    const int64_t page = call.lists.pages[row * call.lists.width + column];
    for (int64_t i = 0; i < S; ++i) {
      add(is_exact ? From::slot : From::survivor, page * S + i, call.slots.positions[page * P + i],
          is_exact && call.evict[page * S + i]);
    }
  }
  if (call.fresh_keys == nullptr) return pairs;
  for (int64_t token = 0; token < task.last; ++token) {
    const int64_t place = (call.rows[task.b] + token) * call.num_heads + task.head;
    add(From::chunk, place, static_cast<int32_t>(start + token), call.fresh_evict[place]);
  }
  return pairs;
}

// Pack the queries of a task: lanes of `packet_rows`, the group's heads of one token side by side.
void pack_queries(const Call& call, const Task& task, Scratch& scratch) {
  const int64_t g = call.group, D = call.key_size, R = call.packet_rows;
  const int64_t num_rows = (task.last - task.first) * g;
  const int64_t num_padded = (num_rows + R - 1) / R * R;
  scratch.q.assign(num_padded * D, 0.0f);
  scratch.positions.assign(num_padded, -1);
  scratch.largest.assign(num_padded, -std::numeric_limits<float>::max());
  scratch.total.assign(num_padded, 0.0f);
  scratch.read.assign(num_padded * call.value_size, 0.0f);
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t token = task.first + r / g, head = task.head * g + r % g;
    const float* from = call.q + ((call.rows[task.b] + token) * call.num_heads * g + head) * D;
    float* to = scratch.q.data() + r / R * R * D + r % R;
    for (int64_t d = 0; d < D; ++d) to[d * R] = from[d] * call.scale;
    scratch.positions[r] = static_cast<int32_t>(call.starts[task.b] + token);
  }
}

void unpack_read(const Call& call, const Task& task, const Scratch& scratch) {
  const int64_t g = call.group, E = call.value_size, R = call.packet_rows;
  for (int64_t r = 0; r < (task.last - task.first) * g; ++r) {
    const int64_t token = task.first + r / g, head = task.head * g + r % g;
    float* to = call.out + ((call.rows[task.b] + token) * call.num_heads * g + head) * E;
    const float* from = scratch.read.data() + r / R * R * E + r % R;
    const float share = scratch.total[r] > 0.0f ? 1.0f / scratch.total[r] : 0.0f;
    for (int64_t e = 0; e < E; ++e) to[e] = from[e * R] * share;
  }
}

void widen(const void* stored, bool is_bfloat16, int64_t first, int64_t size, float* to) {
  if (!is_bfloat16) {
    std::memcpy(to, static_cast<const float*>(stored) + first, size * sizeof *to);
    return;
  }
  const auto* from = static_cast<const uint16_t*>(stored) + first;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// Bring a key, or a value, of a store or of a chunk to float32.
struct Rows {
  const void* stored;
  const float* fresh;
  int64_t stride, fresh_width, size, which_scale;
};

void bring(const Call& call, const Rows& rows, const Seen& key, std::vector<uint8_t>& bytes,
           float* to) {
  const int64_t first = key.place * rows.stride, size = rows.size;
  const snello::Format format = call.narrow.format;
  if (key.from == From::survivor) {
    const float scale = call.narrow.load_scale(2 * key.place + rows.which_scale);
    const auto* row = static_cast<const uint8_t*>(rows.stored) +
                      key.place * snello::count_bytes(rows.stride, format);
    snello::widen_row(row, size, format, call.meanings, scale, to);
  } else if (key.from == From::slot || key.from == From::rounded_slot) {
    widen(rows.stored, call.slots.is_bfloat16, first, size, to);
  } else {
    std::memcpy(to, rows.fresh + key.place * rows.fresh_width, size * sizeof *to);
  }
  if (key.from == From::rounded_slot || key.from == From::rounded_chunk) {
    bytes.resize(size);
    const float scale = snello::narrow_row(to, size, format, bytes.data());
    snello::widen_row(bytes.data(), size, format, call.meanings, scale, to);
  }
}

// Bring keys [first, first + count) of the list together.
KeyBlock gather(const Call& call, const Task& task, Scratch& scratch, int64_t first,
                int64_t count) {
  const int64_t D = call.key_size, E = call.value_size, start = call.starts[task.b];
  const Rows keys = {call.slots.keys, call.fresh_keys, call.slots.key_stride, D, D, 0};
  const Rows values = {call.slots.values, call.fresh_values, call.slots.value_stride,
                       call.fresh_width,  E,                 1};
  bool has_edges = false;
  for (int64_t j = 0; j < count; ++j) {
    const Seen& key = scratch.seen[first + j];
    bring(call, keys, key, scratch.bytes, scratch.keys.data() + j * D);
    if (!call.value_in_key) {
      bring(call, values, key, scratch.bytes, scratch.values.data() + j * E);
    }
    scratch.first[j] = key.first;
    scratch.last[j] = key.last;
    has_edges |= key.first > start + task.first || key.last < start + task.last - 1;
  }
  return {scratch.keys.data(),
          call.value_in_key ? scratch.keys.data() : scratch.values.data(),
          count,
          D,
          E,
          call.value_in_key ? D : E,
          scratch.first.data(),
          scratch.last.data(),
          has_edges};
}

// The last position that a packet of queries asks from; rows that fill it up ask from -1.
int32_t find_last(const Scratch& scratch, int64_t row, int64_t num_rows) {
  const auto first = scratch.positions.begin() + row;
  return *std::max_element(first, first + num_rows);
}

// Leave out the keys at a block's end that are ahead of a whole packet, as on the diagonal.
KeyBlock cut_behind(KeyBlock block, int32_t last) {
  while (block.num_keys > 0 && block.first[block.num_keys - 1] > last) --block.num_keys;
  return block;
}

int64_t run_task(const Call& call, const Task& task, Scratch& scratch) {
  const int64_t pairs = list_seen(call, task, scratch.seen);
  pack_queries(call, task, scratch);
  scratch.keys.resize(kBlockKeys * call.key_size);
  scratch.values.resize(kBlockKeys * call.value_size);
  scratch.scores.resize(kBlockKeys * call.packet_rows);
  scratch.first.resize(kBlockKeys);
  scratch.last.resize(kBlockKeys);
  const int64_t num_seen = scratch.seen.size();
  for (int64_t first = 0; first < num_seen; first += kBlockKeys) {
    const auto block =
        gather(call, task, scratch, first, std::min(kBlockKeys, num_seen - first));
    const int64_t num_rows = scratch.positions.size();
    for (int64_t row = 0; row < num_rows; row += call.packet_rows) {
      const Packet packet = {scratch.q.data() + row * call.key_size,
                             scratch.positions.data() + row, scratch.largest.data() + row,
                             scratch.total.data() + row,
                             scratch.read.data() + row * call.value_size};
      const KeyBlock seen = cut_behind(block, find_last(scratch, row, call.packet_rows));
      if (seen.num_keys > 0) call.read_block(seen, packet, scratch.scores.data());
    }
  }
  unpack_read(call, task, scratch);
  return pairs;
}

// All tasks, those that see most first, so that no thread ends with a long one.
std::vector<Task> cut_tasks(const Call& call, int64_t B) {
  std::vector<Task> tasks;
  const int64_t most = call.queries_of_task();
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t first = 0; first < call.counts[b]; first += most) {
      for (int64_t head = 0; head < call.num_heads; ++head) {
        tasks.push_back({b, head, first, std::min(first + most, call.counts[b])});
      }
    }
  }
  std::reverse(tasks.begin(), tasks.end());
  return tasks;
}

void run_all(const Call& call, const std::vector<Task>& tasks, int64_t* num_seen) {
  const int64_t num_tasks = tasks.size();
  std::vector<int64_t> pairs(num_tasks);
  std::atomic<int64_t> next{0};
  const int64_t num_workers = std::min<int64_t>(at::get_num_threads(), num_tasks);
  at::parallel_for(0, num_workers, 1, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {
      Scratch scratch;
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
        pairs[i] = run_task(call, tasks[i], scratch);
      }
    }
  });
  for (int64_t i = 0; i < num_tasks; ++i) num_seen[tasks[i].b] += pairs[i];
}

using Optional = std::optional<at::Tensor>;

void chunk_attend(const at::Tensor& q, const at::Tensor& rows, const at::Tensor& starts,
                  const at::Tensor& sequences, const at::Tensor& counts, const Optional& k,
                  const Optional& v, const Optional& fresh_evict, const at::Tensor& keys,
                  const at::Tensor& values, const at::Tensor& positions, const at::Tensor& evict,
                  const at::Tensor& pages, const at::Tensor& num_held, int64_t num_heads,
                  bool value_in_key, int64_t window, int64_t span, bool chunked, double scale,
                  at::Tensor& out, at::Tensor& num_seen, const Optional& scales, bool is_float8,
                  int64_t ring_pages) {
  TORCH_CHECK(q.scalar_type() == at::kFloat && out.scalar_type() == at::kFloat,
              "chunk_attend: queries and out must be float32");
  TORCH_CHECK(out.is_contiguous() && num_seen.is_contiguous() && evict.is_contiguous(),
              "chunk_attend: out, num_seen and evict must be contiguous");
  const at::Tensor asked = q.contiguous();
  const at::Tensor fresh_keys = k ? k->contiguous() : at::Tensor();
  const at::Tensor fresh_values = v ? v->contiguous() : at::Tensor();
  const at::Tensor fresh_marks = fresh_evict ? fresh_evict->contiguous() : at::Tensor();
  Call call;
  call.slots = snello::unpack_slots(keys, values, positions);
  call.lists = snello::unpack_lists(pages, num_held);
  call.rule = {window, span, chunked};
  call.narrow = snello::unpack_narrow(scales, is_float8, ring_pages, keys, call.slots);
  call.meanings = snello::list_meanings(call.narrow.format);
  call.evict = evict.const_data_ptr<bool>();
  call.q = asked.const_data_ptr<float>();
  call.fresh_keys = k ? fresh_keys.const_data_ptr<float>() : nullptr;
  call.fresh_values = v ? fresh_values.const_data_ptr<float>() : nullptr;
  call.fresh_evict = k ? fresh_marks.const_data_ptr<bool>() : nullptr;
  call.rows = rows.const_data_ptr<int64_t>();
  call.starts = starts.const_data_ptr<int64_t>();
  call.sequences = sequences.const_data_ptr<int64_t>();
  call.counts = counts.const_data_ptr<int64_t>();
  call.num_heads = num_heads;
  call.group = q.size(1) / num_heads;
  call.key_size = q.size(2);
  call.value_size = out.size(2);
  call.fresh_width = v ? v->size(2) : 0;
  call.value_in_key = value_in_key;
  call.scale = static_cast<float>(scale);
  call.out = out.mutable_data_ptr<float>();
  const bool wide = snello::best_isa() == snello::Isa::avx512;
  call.packet_rows = wide ? avx512::kPacketRows : avx2::kPacketRows;
  call.read_block = wide ? &avx512::read_block : &avx2::read_block;
  run_all(call, cut_tasks(call, rows.numel()), num_seen.mutable_data_ptr<int64_t>());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "chunk_attend(Tensor q, Tensor rows, Tensor starts, Tensor sequences, Tensor counts, "
      "Tensor? k, Tensor? v, Tensor? fresh_evict, Tensor keys, Tensor values, Tensor positions, "
      "Tensor evict, Tensor pages, Tensor num_held, int num_heads, bool value_in_key, int window, "
      "int span, bool chunked, float scale, Tensor(a!) out, Tensor(b!) num_seen, Tensor? scales, "
      "bool is_float8, int ring_pages) -> ()");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("chunk_attend", &chunk_attend); }
