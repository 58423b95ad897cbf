// One product of float rows with a packed weight, in two parts that threads share. Knows nothing of
// who calls: packing.py says how a weight lies in memory.
#pragma once

#include <cstdint>

namespace snello {

// Where everything lies. Blocks are of 32 outputs.
struct Product {
  const float* x;
  const float* norm;  // null: none
  const float* bias;
  const float* residual;
  float* out;
  const uint8_t* packed;
  float eps;
  bool gated;
  long num_rows, num_inputs, num_outputs, num_groups, group, block_bytes;
  int8_t* codes;  // of the rows: (rows, inputs)
  float* scales;  // (rows, groups)
  int32_t* sums;  // of a group's codes: (rows, groups)

  long num_blocks() const { return (num_outputs + (gated ? 15 : 31)) / (gated ? 16 : 32); }

  // Room for the quantized rows, aligned like a float.
  long scratch_bytes() const { return num_rows * (num_inputs + 8 * num_groups); }
  void use_scratch(uint8_t* room) {
    codes = reinterpret_cast<int8_t*>(room);
    scales = reinterpret_cast<float*>(room + num_rows * num_inputs);
    sums = reinterpret_cast<int32_t*>(scales + num_rows * num_groups);
  }
};

// First all rows are quantized, normed before if that is asked for; then blocks are multiplied. Both
// take a range [first, last), of rows or of blocks, so that threads can share them.
struct ProductKernels {
  void (*quantize)(const Product&, long first, long last);
  void (*multiply)(const Product&, long first, long last);
};

// `narrow` takes the AVX2 path wherever it runs.
ProductKernels choose_product(int64_t bits, bool narrow);

}  // namespace snello
