// Products of float rows with weights in int8 or int4. Knows nothing of layers or of rounding rules
// for weights: it reads what packing.py wrote.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
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

// Rows of a weight as floats; `packed` may be any weight that is not gated.
at::Tensor look_up(const at::Tensor& packed, const at::Tensor& rows, int64_t num_inputs,
                   int64_t bits, int64_t group) {
  TORCH_CHECK(rows.dim() == 1 && rows.scalar_type() == at::kLong && rows.is_contiguous(),
              "look_up: rows must be contiguous int64");
  TORCH_CHECK(packed.is_contiguous() &&
                  packed.size(1) == num_inputs / group * 64 + num_inputs * bits * 4,
              "look_up: packed is not what packing makes of this shape");
  const at::Tensor out = at::empty({rows.numel(), num_inputs}, packed.options().dtype(at::kFloat));
  const long group_bytes = 64 + group * bits * 4;
  for (int64_t r = 0; r < rows.numel(); ++r) {
    const int64_t row = rows.const_data_ptr<int64_t>()[r], lane = row % 32;
    TORCH_CHECK(row >= 0 && row < packed.size(0) * 32, "look_up: there is no row ", row);
    const uint8_t* from = packed.const_data_ptr<uint8_t>() + row / 32 * packed.size(1);
    float* to = out.mutable_data_ptr<float>() + r * num_inputs;
    for (long first = 0; first < num_inputs; first += group, from += group_bytes) {
      const auto* scales = reinterpret_cast<const uint16_t*>(from);
      const float scale = std::bit_cast<float>(static_cast<uint32_t>(scales[lane]) << 16);
      for (long i = 0; i < group; ++i) {
        const long vector = bits == 8 ? i / 4 : i / 8;
        const uint8_t byte = from[64 + vector * 128 + lane * 4 + i % 4];
        const int code = bits == 8 ? byte : i % 8 < 4 ? byte & 15 : byte >> 4;
        to[first + i] = static_cast<float>(code - (1 << (bits - 1))) * scale;
      }
    }
  }
  return out;
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
  m.def(
      "matmul(Tensor x, Tensor packed, int num_outputs, int bits, int group, bool gated, "
      "Tensor? bias, Tensor? residual, Tensor? norm, float eps, bool narrow) -> Tensor");
  m.def("look_up(Tensor packed, Tensor rows, int num_inputs, int bits, int group) -> Tensor");
}

TORCH_LIBRARY_IMPL(snello, CPU, m) {
  m.impl("matmul", &matmul);
  m.impl("look_up", &look_up);
}
