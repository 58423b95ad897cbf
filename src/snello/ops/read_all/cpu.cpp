// Reading all bytes of a tensor and nothing else: what the machine's memory gives. Knows nothing of
// what the bytes mean.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>

#include "simd.h"

namespace {

constexpr long kLine = 64;

SNELLO_BEGIN_AVX2
namespace avx2 {
#include "read_all/kernel.inc"
}
SNELLO_END
SNELLO_BEGIN_AVX512
namespace avx512 {
#include "read_all/kernel.inc"
}
SNELLO_END

int64_t read_all(const at::Tensor& bytes) {
  TORCH_CHECK(bytes.scalar_type() == at::kByte && bytes.is_contiguous(),
              "read_all: bytes must be contiguous uint8");
  const uint8_t* from = bytes.const_data_ptr<uint8_t>();
  const auto mix = snello::best_isa() == snello::Isa::avx512 ? avx512::mix_lines : avx2::mix_lines;
  std::atomic<int64_t> mixed{0};
  at::parallel_for(0, bytes.numel() / kLine, 1024, [&](int64_t first, int64_t last) {
    mixed ^= mix(from + first * kLine, last - first);
  });
  return mixed;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) { m.def("read_all(Tensor bytes) -> int"); }

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("read_all", &read_all); }
