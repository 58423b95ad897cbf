// Rows of numbers in one byte each, under a scale: reference.py step by step, so that bytes are equal.
// Knows nothing of pages. Not for a region with FMA: a product must be rounded before it is added to.
#pragma once

#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace snello {

enum class Format { same, int8, float8 };

constexpr float kNegligible = 1e-30f;
constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes an integer

// Round `size` numbers of a row to bytes; return what to multiply those by.
template <typename Stored>
float narrow_row(const Stored* row, int64_t size, Format format, uint8_t* to) {
  const float largest = format == Format::int8 ? 127.0f : 448.0f;
  float most = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < size; ++i) {
    most = std::max(most, std::abs(static_cast<float>(row[i])));
  }
  const float shrink = most > kNegligible ? (1.0f / most) * largest : 0.0f;
  if (format == Format::int8) {
    for (int64_t i = 0; i < size; ++i) {
      const float shrunk = static_cast<float>(row[i]) * shrink;
      to[i] = static_cast<uint8_t>(static_cast<int32_t>((shrunk + kToInteger) - kToInteger));
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      to[i] = c10::detail::fp8e4m3fn_from_fp32_value(static_cast<float>(row[i]) * shrink);
    }
  }
  return most * (1.0f / largest);
}

// What each byte stands for, before its row's scale.
inline std::array<float, 256> list_meanings(Format format) {
  std::array<float, 256> meanings;
  for (int byte = 0; byte < 256; ++byte) {
    meanings[byte] = format == Format::int8
                         ? static_cast<float>(static_cast<int8_t>(byte))
                         : c10::detail::fp8e4m3fn_to_fp32_value(static_cast<uint8_t>(byte));
  }
  return meanings;
}

inline void widen_row(const uint8_t* row, int64_t size, const std::array<float, 256>& meanings,
                      float scale, float* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = meanings[row[i]] * scale;
}

}  // namespace snello
