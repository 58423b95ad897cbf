// Root-mean-square norm of the rows of a tensor. Knows nothing of layers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>

#include "norm/norming.h"
#include "simd.h"

namespace {

SNELLO_BEGIN_AVX2
namespace avx2 {
#include "norm/kernel.inc"
}
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#include "norm/kernel.inc"
}
SNELLO_END

constexpr int64_t kRowsAlone = 8;  // fewer rows are not worth waking another thread

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat,
              "rms_norm: x and weight must be float32");
  const at::Tensor rows = x.contiguous();
  const int64_t size = weight.numel();
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == size, "rms_norm: weight must be as long as a row");
  at::Tensor out = at::empty_like(rows);
  const snello::NormRow norm_row = snello::choose_norm();
  const float* in = rows.const_data_ptr<float>();
  const float* scale = weight.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows.numel() / size, kRowsAlone, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      norm_row(in + row * size, scale, static_cast<float>(eps), size, to + row * size);
    }
  });
  return out;
}

void limit_isa(bool to_avx2) { snello::is_limited_to_avx2 = to_avx2; }

bool runs_here() { return snello::best_isa() != snello::Isa::none; }

}  // namespace

snello::NormRow snello::choose_norm() {
  return best_isa() == Isa::avx512 ? avx512::rms_norm_row : avx2::rms_norm_row;
}

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def("runs_here() -> bool", &runs_here);
  m.def("limit_isa(bool to_avx2) -> ()", &limit_isa);
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("rms_norm", &rms_norm); }
