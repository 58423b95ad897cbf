// One new token of each sequence through all layers of a packed model, in one parallel region.
//
// Knows nothing of files, requests or logits. Each phase is a kernel that its own operator runs as
// well, so that a row's numbers are the same here and there, bit for bit.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "append/appending.h"
#include "decide/deciding.h"
#include "matmul/product.h"
#include "norm/norming.h"
#include "page_attend/reading.h"
#include "place/placing.h"
#include "stack/team.h"

namespace snello {
namespace {

constexpr int64_t kPieceBytes = 64 * 1024;   // of weights, taken at once by a thread
constexpr int64_t kBytesAhead = 128 * 1024;  // of weights, fetched by threads that wait

using Optional = std::optional<at::Tensor>;

struct Weight {
  at::Tensor packed;
  Optional bias;
};

struct Layer {
  Weight qkv, output, gate_up, down;
  at::Tensor input_norm, middle_norm;
  Optional query_norm, key_norm, decision_norm, decision;
};

struct Sizes {
  int64_t hidden, inner, num_heads, num_kv_heads, head_size, bits, group;

  int64_t queries() const { return num_heads * head_size; }
  int64_t keys() const { return num_kv_heads * head_size; }
  int64_t qkv() const { return queries() + 2 * keys(); }
  int64_t widest() const { return std::max({hidden, inner, queries()}); }
};

struct Numbers {
  double eps, attention_scale, decision_scale, decision_offset;
};

const float* floats_of(const Optional& tensor) {
  return tensor ? tensor->const_data_ptr<float>() : nullptr;
}

// Buffers of one step, for all layers and threads.
struct Room {
  std::vector<float> stream, qkv, queries, keys, read, inner, normed;
  std::vector<uint8_t> codes;
  std::vector<float> logits;
  std::vector<uint8_t> marks;
  std::vector<int64_t> zeros;
};

// What the memory shows of itself for one step.
struct Shown {
  at::Tensor keys, values, positions, evict, pages, num_held;
  Optional num_survivors, spare, marks, scales;
  std::vector<int64_t> ring_tokens, spans, chunked;
  bool decides;    // whether the layers' own decisions make the marks
  bool is_float8;  // where there are scales: else survivors are int8

  Narrow narrow(int64_t ring_pages, const Slots& slots) const {
    return unpack_narrow(scales, is_float8, ring_pages, keys, slots);
  }
};

struct Step {
  int64_t batch;
  const int64_t* rows;
  const int64_t* positions;
  const int64_t* sequences;
  const int64_t* about;
  int64_t* num_seen;
  Placing placing;
};

}  // namespace

class Stack : public torch::CustomClassHolder {
 public:
  Stack(std::vector<int64_t> sizes, std::vector<double> numbers, bool interleaved, at::Tensor norm)
      : sizes_{sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3), sizes.at(4), sizes.at(5),
               sizes.at(6)},
        numbers_{numbers.at(0), numbers.at(1), numbers.at(2), numbers.at(3)},
        interleaved_(interleaved),
        norm_(std::move(norm)) {}

  // Weights in the order of `Layer`, without their biases, and the biases of the four.
  void add_layer(std::vector<at::Tensor> weights, std::vector<Optional> biases,
                 std::vector<at::Tensor> norms, std::vector<Optional> others) {
    for (const auto& norm : norms) {
      TORCH_CHECK(norm.scalar_type() == at::kFloat && norm.is_contiguous(),
                  "Stack: norms must be contiguous float32");
    }
    layers_.push_back({{weights.at(0), biases.at(0)},
                       {weights.at(1), biases.at(1)},
                       {weights.at(2), biases.at(2)},
                       {weights.at(3), biases.at(3)},
                       norms.at(0),
                       norms.at(1),
                       others.at(0),
                       others.at(1),
                       others.at(2),
                       others.at(3)});
  }

  at::Tensor run(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                 std::vector<at::Tensor> news, const at::Tensor& num_seen,
                 std::vector<at::Tensor> store, std::vector<at::Tensor> lists,
                 std::vector<Optional> tails, std::vector<std::vector<int64_t>> rules,
                 bool decides, bool is_float8) {
    const int64_t T = x.size(0);
    TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && x.size(1) == sizes_.hidden,
                "Stack: x must be contiguous float32, (rows, ", sizes_.hidden, ")");
    TORCH_CHECK(news.at(0).numel() == T, "Stack: every row must be a sequence's only new token");
    const Shown shown = {store.at(0),  store.at(1),  store.at(2),  store.at(3), lists.at(0),
                         lists.at(1),  tails.at(0),  tails.at(1),  tails.at(2), tails.at(3),
                         rules.at(0),  rules.at(1),  rules.at(2),  decides,     is_float8};
    const Step step = {T,
                       news.at(0).const_data_ptr<int64_t>(),
                       news.at(1).const_data_ptr<int64_t>(),
                       news.at(2).const_data_ptr<int64_t>(),
                       news.at(3).const_data_ptr<int64_t>(),
                       num_seen.mutable_data_ptr<int64_t>(),
                       {cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), cos.size(1),
                        sizes_.head_size, static_cast<float>(numbers_.eps), interleaved_}};
    make_room(T, shown);
    const float* from = x.const_data_ptr<float>();
    std::copy(from, from + x.numel(), room_.stream.begin());
    reading_.rows = step.rows;
    reading_.query_positions = step.positions;
    reading_.sequences = step.sequences;
    reading_.batch = T;
    reading_.num_heads = sizes_.num_kv_heads;
    reading_.scale = static_cast<float>(numbers_.attention_scale);
    reading_.slots = unpack_slots(shown.keys, shown.values, shown.positions);
    const int64_t num_threads = at::get_num_threads();
    Team team(num_threads);
#pragma omp parallel for num_threads(num_threads) schedule(static, 1)
    for (int64_t thread = 0; thread < num_threads; ++thread) run_thread(step, shown, team, thread);
    at::Tensor out = at::empty(x.sizes(), x.options());
    float* to = out.mutable_data_ptr<float>();
    for (int64_t row = 0; row < T; ++row) {
      choose_norm()(room_.stream.data() + row * sizes_.hidden, norm_.const_data_ptr<float>(),
                    static_cast<float>(numbers_.eps), sizes_.hidden, to + row * sizes_.hidden);
    }
    return out;
  }

 private:
  const Sizes sizes_;
  const Numbers numbers_;
  const bool interleaved_;
  const at::Tensor norm_;  // after the last layer
  std::vector<Layer> layers_;
  Room room_;
  PageRead reading_;

  void make_room(int64_t T, const Shown& shown) {
    const auto grow = [](auto& room, int64_t size) {
      if (static_cast<int64_t>(room.size()) < size) room.resize(size);
    };
    const int64_t threads = at::get_num_threads();
    grow(room_.stream, T * sizes_.hidden);
    grow(room_.qkv, T * sizes_.qkv());
    grow(room_.queries, T * sizes_.queries());
    grow(room_.keys, T * sizes_.keys());
    grow(room_.read, T * sizes_.queries());
    grow(room_.inner, T * sizes_.inner);
    grow(room_.normed, threads * sizes_.hidden);
    grow(room_.logits, T * sizes_.num_kv_heads);
    grow(room_.marks, T * sizes_.num_kv_heads);
    grow(room_.codes, std::max(T, threads) * (sizes_.widest() + 8 * (sizes_.widest() / sizes_.group)));
    grow(room_.zeros, shown.num_held.size(1) * shown.num_held.size(2));
  }

  Product product(int64_t T, const float* x, const at::Tensor* norm, const Weight& weight,
                  int64_t num_inputs, int64_t num_outputs, bool gated, float* out,
                  const float* residual, int64_t thread) {
    Product job{.x = x,
                .norm = norm == nullptr ? nullptr : norm->const_data_ptr<float>(),
                .bias = floats_of(weight.bias),
                .residual = residual,
                .out = out,
                .packed = weight.packed.const_data_ptr<uint8_t>(),
                .eps = static_cast<float>(numbers_.eps),
                .gated = gated,
                .num_rows = T,
                .num_inputs = num_inputs,
                .num_outputs = num_outputs,
                .num_groups = num_inputs / sizes_.group,
                .group = sizes_.group,
                .block_bytes = weight.packed.size(1),
                .codes = nullptr,
                .scales = nullptr,
                .sums = nullptr};
    job.use_scratch(room_.codes.data() + (T == 1 ? thread * job.scratch_bytes() : 0));
    return job;
  }

  // The beginning of a thread's part of a weight.
  Ahead look_ahead(const Weight& weight, const Team& team, int64_t thread) const {
    const Span blocks = team.part(thread, weight.packed.size(0));
    return {weight.packed.const_data_ptr<uint8_t>() + blocks.first * weight.packed.size(1),
            kBytesAhead};
  }

  void multiply(const Product& job, const Weight* next, Team& team, int64_t thread) {
    const ProductKernels kernels = choose_product(sizes_.bits, false);
    if (job.num_rows == 1) {
      kernels.quantize(job, 0, 1);  // each thread for itself: that is faster than to wait
    } else {
      const Span rows = team.part(thread, job.num_rows);
      if (rows.first < rows.last) kernels.quantize(job, rows.first, rows.last);
      team.meet();
    }
    const int64_t piece = std::max<int64_t>(1, kPieceBytes / job.block_bytes);
    team.share(thread, job.num_blocks(), piece,
               [&](int64_t first, int64_t last) { kernels.multiply(job, first, last); });
    team.meet(next == nullptr ? Ahead{} : look_ahead(*next, team, thread));
  }

  void run_thread(const Step& step, const Shown& shown, Team& team, int64_t thread) {
    const int64_t T = step.batch, C = sizes_.hidden;
    float* x = room_.stream.data();
    ReadScratch scratch;
    for (size_t index = 0; index < layers_.size(); ++index) {
      const Layer& layer = layers_[index];
      decide(step, shown, layer, index, team, thread);
      multiply(product(T, x, &layer.input_norm, layer.qkv, C, sizes_.qkv(), false,
                       room_.qkv.data(), nullptr, thread),
               nullptr, team, thread);
      store(step, shown, layer, index, team, thread);
      read(step, shown, index, team, thread, scratch, look_ahead(layer.output, team, thread));
      multiply(product(T, room_.read.data(), nullptr, layer.output, sizes_.queries(), C, false, x,
                       x, thread),
               &layer.gate_up, team, thread);
      multiply(product(T, x, &layer.middle_norm, layer.gate_up, C, sizes_.inner, true,
                       room_.inner.data(), nullptr, thread),
               &layer.down, team, thread);
      multiply(product(T, room_.inner.data(), nullptr, layer.down, sizes_.inner, C, false, x, x,
                       thread),
               index + 1 < layers_.size() ? &layers_[index + 1].qkv : nullptr, team, thread);
    }
  }

  // What each row announces: read from the stream, or given by the memory's policy.
  void decide(const Step& step, const Shown& shown, const Layer& layer, int64_t index, Team& team,
              int64_t thread) {
    const int64_t K = sizes_.num_kv_heads;
    const Span rows = team.part(thread, step.batch);
    if (!shown.decides) {
      const bool* given = shown.marks ? shown.marks->const_data_ptr<bool>() : nullptr;
      for (int64_t i = rows.first * K; i < rows.last * K; ++i) {
        room_.marks[i] = given != nullptr && given[index * step.batch * K + i];
      }
      return;
    }
    const int64_t columns = layer.decision->size(0);
    const Deciding by = {floats_of(layer.decision_norm),
                         floats_of(layer.decision),
                         sizes_.hidden,
                         columns,
                         static_cast<float>(numbers_.eps),
                         static_cast<float>(numbers_.decision_scale),
                         static_cast<float>(numbers_.decision_offset)};
    const DecideRow decide_row = choose_decide();
    for (int64_t row = rows.first; row < rows.last; ++row) {
      float* logits = room_.logits.data() + row * K;
      decide_row(by, room_.stream.data() + row * sizes_.hidden,
                 room_.normed.data() + thread * sizes_.hidden, logits);
      for (int64_t head = 0; head < K; ++head) {
        room_.marks[row * K + head] = logits[columns == 1 ? 0 : head] > 0.0f;
      }
    }
  }

  // Norm and turn queries and keys, and store the new token of each head.
  void store(const Step& step, const Shown& shown, const Layer& layer, int64_t index, Team& team,
             int64_t thread) {
    const int64_t K = sizes_.num_kv_heads, D = sizes_.head_size, g = sizes_.num_heads / K;
    const PlaceHead place = choose_place();
    const Append append = describe_append(step, shown, index);
    const Span heads = team.part(thread, step.batch * K);
    for (int64_t i = heads.first; i < heads.last; ++i) {
      const int64_t b = i / K, head = i % K, row = step.rows[b];
      const float* from = room_.qkv.data() + row * sizes_.qkv();
      for (int64_t h = head * g; h < (head + 1) * g; ++h) {
        place(step.placing, from + h * D, floats_of(layer.query_norm), row,
              room_.queries.data() + row * sizes_.queries() + h * D);
      }
      place(step.placing, from + sizes_.queries() + head * D, floats_of(layer.key_norm), row,
            room_.keys.data() + row * sizes_.keys() + head * D);
      append.run(b, head);
    }
    team.meet();
  }

  Append describe_append(const Step& step, const Shown& shown, int64_t index) {
    const int64_t K = sizes_.num_kv_heads, D = sizes_.head_size;
    const int64_t per_layer = shown.num_held.stride(0);
    const auto of_layer = [&](const Optional& counts) {
      return counts ? counts->mutable_data_ptr<int64_t>() + index * per_layer
                    : room_.zeros.data();
    };
    const Slots& slots = reading_.slots;
    return {{shown.keys.mutable_data_ptr(), room_.keys.data(), slots.key_stride, D, K * D},
            {shown.values.mutable_data_ptr(),
             room_.qkv.data() + sizes_.queries() + sizes_.keys(), slots.value_stride, D,
             sizes_.qkv()},
            reinterpret_cast<const bool*>(room_.marks.data()),
            step.rows,
            step.positions,
            step.sequences,
            step.about,
            shown.positions.mutable_data_ptr<int32_t>(),
            shown.evict.mutable_data_ptr<bool>(),
            shown.pages.mutable_data_ptr<int64_t>() + index * shown.pages.stride(0),
            shown.num_held.mutable_data_ptr<int64_t>() + index * per_layer,
            of_layer(shown.num_survivors),
            of_layer(shown.spare),
            shown.pages.size(2),
            shown.pages.size(3),
            slots.page_tokens,
            slots.page_places,
            K,
            shown.ring_tokens[index],
            {0, shown.spans[index], shown.chunked[index] != 0},
            slots.is_bfloat16,
            shown.narrow(0, slots)};
  }

  void read(const Step& step, const Shown& shown, int64_t index, Team& team, int64_t thread,
            ReadScratch& scratch, Ahead next) {
    if (thread == 0) {
      reading_.lists = {shown.pages.const_data_ptr<int64_t>() + index * shown.pages.stride(0),
                        shown.num_held.const_data_ptr<int64_t>() +
                            index * shown.num_held.stride(0),
                        shown.pages.size(2), shown.pages.size(3)};
      reading_.rule = {0, shown.spans[index], shown.chunked[index] != 0};
      reading_.q = room_.queries.data();
      reading_.out = room_.read.data();
      const int64_t S = reading_.slots.page_tokens;
      reading_.narrow = shown.narrow((shown.ring_tokens[index] + S - 1) / S, reading_.slots);
      reading_.shape(sizes_.head_size, sizes_.head_size, sizes_.num_heads / sizes_.num_kv_heads,
                     false);
      reading_.prepare();
    }
    team.meet(next);
    reading_.work(scratch);
    team.meet(next);
    if (thread == 0) reading_.count(step.num_seen);
  }
};

}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.class_<snello::Stack>("Stack")
      .def(torch::init<std::vector<int64_t>, std::vector<double>, bool, at::Tensor>())
      .def("add_layer", &snello::Stack::add_layer)
      .def("run", &snello::Stack::run);
}
