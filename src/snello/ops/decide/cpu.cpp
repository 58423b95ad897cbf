// Eviction logits of the rows of a stream. Knows nothing of layers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "decide/deciding.h"
#include "simd.h"

namespace snello {
namespace {

SNELLO_BEGIN_AVX2
namespace avx2 {
#include "decide/kernel.inc"
}
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#include "decide/kernel.inc"
}
SNELLO_END

constexpr int64_t kRowsAlone = 8;  // fewer rows are not worth waking another thread

at::Tensor decide(const at::Tensor& x, const at::Tensor& norm, const at::Tensor& weight, double eps,
                  double scale, double offset) {
  TORCH_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat && x.is_contiguous(),
              "decide: x must be contiguous float32, (rows, numbers)");
  const int64_t C = x.size(1);
  TORCH_CHECK(norm.numel() == C && weight.dim() == 2 && weight.size(1) == C &&
                  norm.is_contiguous() && weight.is_contiguous(),
              "decide: norm and weight must be contiguous, and as wide as a row");
  const Deciding by = {norm.const_data_ptr<float>(), weight.const_data_ptr<float>(), C,
                       weight.size(0),               static_cast<float>(eps),
                       static_cast<float>(scale),    static_cast<float>(offset)};
  const at::Tensor out = at::empty({x.size(0), by.num_columns}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const DecideRow decide_row = choose_decide();
  at::parallel_for(0, x.size(0), kRowsAlone, [&](int64_t first, int64_t last) {
    std::vector<float> normed(C);
    for (; first < last; ++first) {
      decide_row(by, from + first * C, normed.data(), to + first * by.num_columns);
    }
  });
  return out;
}

}  // namespace

DecideRow choose_decide() {
  return best_isa() == Isa::avx512 ? &avx512::decide_row : &avx2::decide_row;
}

}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "decide(Tensor x, Tensor norm, Tensor weight, float eps, float scale, float offset) -> "
      "Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("decide", &snello::decide); }
