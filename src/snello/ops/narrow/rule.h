// Rows of numbers in a byte or half a byte each, under a scale: reference.py step by step, so that
// bytes are equal. Knows nothing of pages. Not for a region with FMA: a product must be rounded
// before it is added to.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace snello {

enum class Format { same, int8, float8, int4 };

constexpr float kNegligible = 1e-30f;
constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: what is added to it becomes an integer

// Bytes of a row of `size` numbers, without its scale.
inline int64_t count_bytes(int64_t size, Format format) {
  return format == Format::int4 ? (size + 1) / 2 : size;
}

// How many neighbours are mixed in a row: the largest power of two that divides it.
inline int64_t count_mixed(int64_t size) { return size == 0 ? 1 : size & -size; }

// Transform blocks of `mixed` numbers (Walsh-Hadamard, not normalized), in stages of pairs.
inline void rotate_row(float* row, int64_t size, int64_t mixed) {
  for (int64_t half = 1; half < mixed; half *= 2) {
    for (int64_t first = 0; first < size; first += 2 * half) {
      for (int64_t i = first; i < first + half; ++i) {
        const float left = row[i], right = row[i + half];
        row[i] = left + right;
        row[i + half] = left - right;
      }
    }
  }
}

// Rotate a row and round it to nibbles, the number that is farthest from 0 to -8.
template <typename Stored>
float narrow_to_nibbles(const Stored* row, int64_t size, uint8_t* to) {
  std::vector<float> rotated(size + 1, 0.0f);  // an odd last number stands beside a 0
  for (int64_t i = 0; i < size; ++i) rotated[i] = static_cast<float>(row[i]);
  rotate_row(rotated.data(), size, count_mixed(size));
  float most = 0.0f, least = 0.0f;
  for (int64_t i = 0; i < size; ++i) {
    most = std::max(most, rotated[i]);
    least = std::min(least, rotated[i]);
  }
  const float extreme = most > -least ? most : least;
  const float step = static_cast<float>(c10::BFloat16(extreme * -0.125f));
  const float shrink = std::abs(extreme) > kNegligible ? 1.0f / step : 0.0f;
  const auto code = [&](int64_t i) {
    const float whole = (rotated[i] * shrink + kToInteger) - kToInteger;
    return static_cast<uint8_t>(static_cast<int32_t>(std::clamp(whole, -8.0f, 7.0f))) & 15;
  };
  for (int64_t i = 0; i < size; i += 2) to[i / 2] = code(i) | code(i + 1) << 4;
  return step * (1.0f / static_cast<float>(count_mixed(size)));
}

// Round `size` numbers of a row to bytes; return what to multiply those by.
template <typename Stored>
float narrow_row(const Stored* row, int64_t size, Format format, uint8_t* to) {
  if (format == Format::int4) return narrow_to_nibbles(row, size, to);
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

inline void widen_row(const uint8_t* row, int64_t size, Format format,
                      const std::array<float, 256>& meanings, float scale, float* to) {
  if (format == Format::int4) {
    for (int64_t i = 0; i < size; ++i) {
      const int code = row[i / 2] >> (i % 2 * 4) & 15;
      to[i] = static_cast<float>((code ^ 8) - 8);
    }
    rotate_row(to, size, count_mixed(size));
    for (int64_t i = 0; i < size; ++i) to[i] *= scale;
    return;
  }
  for (int64_t i = 0; i < size; ++i) to[i] = meanings[row[i]] * scale;
}

}  // namespace snello
