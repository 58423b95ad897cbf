// Queries and keys of new tokens: normed head by head, then turned. Knows nothing of layers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "place/placing.h"
#include "simd.h"

namespace snello {
namespace {

SNELLO_BEGIN_AVX2
namespace avx2 {
#include "place/kernel.inc"
}
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#include "place/kernel.inc"
}
SNELLO_END

constexpr int64_t kHeadsAlone = 64;  // fewer heads are not worth waking another thread

at::Tensor place(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                 const at::Tensor& cos, const at::Tensor& sin, double eps, bool interleaved) {
  TORCH_CHECK(x.dim() == 3 && x.scalar_type() == at::kFloat && x.stride(2) == 1,
              "place: x must be float32, (rows, heads, numbers)");
  const int64_t N = x.size(1), D = x.size(2), R = cos.size(1);
  TORCH_CHECK(D <= kMostNumbers && 2 * R <= D, "place: heads of ", D, " numbers and ", R,
              " pairs; at most ", kMostNumbers, " numbers, half as many pairs");
  TORCH_CHECK(!weight || (weight->numel() == D && weight->is_contiguous()),
              "place: weight must be as long as a head");
  TORCH_CHECK(cos.is_contiguous() && sin.is_contiguous() && cos.size(0) == x.size(0) &&
                  sin.sizes() == cos.sizes() && cos.scalar_type() == at::kFloat,
              "place: cos and sin must be contiguous float32, (rows, pairs)");
  const at::Tensor out = at::empty(x.sizes(), x.options());
  const Placing by = {cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), R, D,
                      static_cast<float>(eps), interleaved};
  const float* from = x.const_data_ptr<float>();
  const float* scale = weight ? weight->const_data_ptr<float>() : nullptr;
  float* to = out.mutable_data_ptr<float>();
  const PlaceHead place_head = choose_place();
  at::parallel_for(0, x.size(0) * N, kHeadsAlone, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      place_head(by, from + i / N * x.stride(0) + i % N * x.stride(1), scale, i / N, to + i * D);
    }
  });
  return out;
}

}  // namespace

PlaceHead choose_place() {
  return best_isa() == Isa::avx512 ? &avx512::place_head : &avx2::place_head;
}

}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def(
      "place(Tensor x, Tensor? weight, Tensor cos, Tensor sin, float eps, bool interleaved) -> "
      "Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("place", &snello::place); }
