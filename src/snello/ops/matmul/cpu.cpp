// Products of float rows with weights in int8 or int4. Knows nothing of layers or of rounding rules
// for weights: it reads what packing.py wrote.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "matmul/product.h"
#include "simd.h"

namespace {

constexpr float kSmallest = 1e-30f;          // a group with nothing larger counts as zero
constexpr long kChunkBytes = 512 * 1024;     // of quantized rows that are worked on together
constexpr long kPieceBytes = 64 * 1024;      // less weight than this is not worth a thread
constexpr long kHugePage = 2 * 1024 * 1024;  // of x86-64

using Job = snello::Product;
using Kernels = snello::ProductKernels;

SNELLO_BEGIN_AVX2
#define SNELLO_VECTOR_BITS 256
namespace avx2 {
#include "matmul/kernel.inc"
}
#undef SNELLO_VECTOR_BITS
SNELLO_END
SNELLO_BEGIN_AVX512
#define SNELLO_VECTOR_BITS 512
namespace avx512 {
#include "matmul/kernel.inc"
}
#undef SNELLO_VECTOR_BITS
SNELLO_END

const float* floats_of(const std::optional<at::Tensor>& tensor) {
  if (!tensor) return nullptr;
  TORCH_CHECK(tensor->scalar_type() == at::kFloat && tensor->is_contiguous(),
              "matmul: every float tensor must be contiguous float32");
  return tensor->const_data_ptr<float>();
}

void check_size(const std::optional<at::Tensor>& tensor, int64_t size, const char* name) {
  TORCH_CHECK(!tensor || tensor->numel() == size, "matmul: ", name, " has ",
              tensor ? tensor->numel() : 0, " numbers; it must have ", size);
}

// Quantize the rows, then multiply; both are shared out among torch's threads.
void run(Job& job, const Kernels& kernels, int64_t num_blocks) {
  const at::Tensor scratch = at::empty({job.scratch_bytes()}, at::kByte);
  job.use_scratch(scratch.mutable_data_ptr<uint8_t>());
  at::parallel_for(0, job.num_rows, std::max(1L, kPieceBytes / job.num_inputs),
                   [&](int64_t first, int64_t last) { kernels.quantize(job, first, last); });
  at::parallel_for(0, num_blocks, std::max(1L, kPieceBytes / (job.block_bytes * job.num_rows)),
                   [&](int64_t first, int64_t last) { kernels.multiply(job, first, last); });
}

at::Tensor matmul(const at::Tensor& x, const at::Tensor& packed, int64_t num_outputs, int64_t bits,
                  int64_t group, bool gated, const std::optional<at::Tensor>& bias,
                  const std::optional<at::Tensor>& residual,
                  const std::optional<at::Tensor>& norm, double eps, bool narrow) {
  TORCH_CHECK(x.dim() == 2 && packed.dim() == 2, "matmul: x and packed must have two dimensions");
  TORCH_CHECK(bits == 8 || bits == 4, "matmul: bits is ", bits, "; it must be 8 or 4");
  const int64_t num_rows = x.size(0), num_inputs = x.size(1), num_blocks = packed.size(0);
  TORCH_CHECK(group > 0 && group % 32 == 0 && num_inputs % group == 0, "matmul: ", num_inputs,
              " inputs do not make groups of ", group);
  const int64_t num_groups = num_inputs / group, width = gated ? 16 : 32;
  const int64_t block_bytes = num_groups * 64 + num_inputs * bits * 4;
  TORCH_CHECK(packed.scalar_type() == at::kByte && packed.is_contiguous() &&
                  packed.size(1) == block_bytes && num_blocks == (num_outputs + width - 1) / width,
              "matmul: packed is not what packing makes of this shape");
  check_size(bias, num_outputs, "bias");
  check_size(residual, num_rows * num_outputs, "residual");
  check_size(norm, num_inputs, "norm");
  at::Tensor out = at::empty({num_rows, num_outputs}, x.options());
  if (num_rows == 0) return out;
  Job job{.x = floats_of(x),
          .norm = floats_of(norm),
          .bias = floats_of(bias),
          .residual = floats_of(residual),
          .out = out.mutable_data_ptr<float>(),
          .packed = packed.const_data_ptr<uint8_t>(),
          .eps = static_cast<float>(eps),
          .gated = gated,
          .num_rows = num_rows,
          .num_inputs = num_inputs,
          .num_outputs = num_outputs,
          .num_groups = num_groups,
          .group = group,
          .block_bytes = block_bytes,
          .codes = nullptr,
          .scales = nullptr,
          .sums = nullptr};
  run(job, snello::choose_product(bits, narrow), num_blocks);
  return out;
}

// Memory that starts on a huge page, and asks for huge pages where the system gives them.
at::Tensor empty_huge(int64_t num_bytes) {
  const int64_t mapped = num_bytes + kHugePage;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(base != MAP_FAILED, "no memory for ", num_bytes, " bytes of packed weights");
  const auto address = reinterpret_cast<uintptr_t>(base);
  void* start = reinterpret_cast<void*>((address + kHugePage - 1) / kHugePage * kHugePage);
  madvise(start, num_bytes, MADV_HUGEPAGE);  // advice: without it all works, more slowly
  return at::from_blob(start, {num_bytes}, [base, mapped](void*) { munmap(base, mapped); },
                       at::kByte);
}

}  // namespace

namespace snello {

ProductKernels choose_product(int64_t bits, bool narrow) {
  if (narrow || best_isa() != Isa::avx512) {
    return {avx2::quantize_rows, bits == 8 ? avx2::multiply_blocks<8> : avx2::multiply_blocks<4>};
  }
  return {avx512::quantize_rows,
          bits == 8 ? avx512::multiply_blocks<8> : avx512::multiply_blocks<4>};
}

}  // namespace snello

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def("empty_huge(int num_bytes) -> Tensor", &empty_huge);
  m.def(
      "matmul(Tensor x, Tensor packed, int num_outputs, int bits, int group, bool gated, "
      "Tensor? bias, Tensor? residual, Tensor? norm, float eps, bool narrow) -> Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) { m.impl("matmul", &matmul); }
