// What the machine gives at most: bytes read, whole numbers multiplied. Knows nothing of what the
// bytes mean; benchmarks hold other kernels against it.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <immintrin.h>
#include <torch/library.h>

#include <atomic>

#include "simd.h"

namespace {

constexpr long kLine = 64;
constexpr long kFewLines = 1024;  // not worth another thread

SNELLO_BEGIN_AVX2
#define SNELLO_VECTOR_BITS 256
namespace avx2 {
#include "limits/kernel.inc"
}
#undef SNELLO_VECTOR_BITS
SNELLO_END
SNELLO_BEGIN_AVX512
#define SNELLO_VECTOR_BITS 512
namespace avx512 {
#include "limits/kernel.inc"
}
#undef SNELLO_VECTOR_BITS
SNELLO_END

bool is_wide() { return snello::best_isa() == snello::Isa::avx512; }

// Read every line of 64 bytes, with all threads; what comes back only keeps the reads alive.
int64_t read_all(const at::Tensor& bytes) {
  TORCH_CHECK(bytes.scalar_type() == at::kByte && bytes.is_contiguous(),
              "read_all: bytes must be contiguous uint8");
  const uint8_t* from = bytes.const_data_ptr<uint8_t>();
  const auto mix = is_wide() ? avx512::mix_lines : avx2::mix_lines;
  std::atomic<int64_t> mixed{0};
  at::parallel_for(0, bytes.numel() / kLine, kFewLines, [&](int64_t first, int64_t last) {
    mixed ^= mix(from + first * kLine, last - first);
  });
  return mixed;
}

// Multiply and add int8 in registers, on each of torch's threads; returns how many products.
int64_t multiply_in_registers(int64_t num_rounds) {
  const auto multiply = is_wide() ? avx512::multiply_rounds : avx2::multiply_rounds;
  const int64_t num_threads = at::get_num_threads();
  std::atomic<int64_t> num_products{0};
  at::parallel_for(0, num_threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) num_products += multiply(num_rounds);
  });
  return num_products;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def("read_all(Tensor bytes) -> int");
  m.def("multiply_in_registers(int num_rounds) -> int", &multiply_in_registers);
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("read_all", &read_all); }
