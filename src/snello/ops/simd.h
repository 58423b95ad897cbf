// Which instructions this processor has. Knows nothing of any kernel.
//
// A kernel is written once, in `kernel.inc` beside its `cpu.cpp`, and included once for each
// instruction set, inside a namespace and SNELLO_BEGIN_... SNELLO_END. `best_isa()` then chooses.
#pragma once

#include <atomic>

namespace snello {

enum class Isa { none, avx2, avx512 };

// `#pragma GCC target` takes a string and expands no macro, hence `_Pragma`. Macros such as
// `__AVX512F__` do not follow it: a kernel that must know asks for SNELLO_VECTOR_BITS, which its
// cpu.cpp defines before each inclusion.
#define SNELLO_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c\")")
#define SNELLO_BEGIN_AVX512                                                    \
  SNELLO_BEGIN_AVX2                                                            \
  _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx512vnni\")")     \
  _Pragma("GCC target(\"prefer-vector-width=512\")")
#define SNELLO_END _Pragma("GCC pop_options")

// Set by tests, which run the kernels for AVX2 on processors that have more.
inline std::atomic<bool> is_limited_to_avx2{false};

inline Isa best_isa() {
  static const Isa isa = [] {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::none;
    const bool has_avx512 = __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512vnni");
    return has_avx512 ? Isa::avx512 : Isa::avx2;
  }();
  return isa == Isa::avx512 && is_limited_to_avx2 ? Isa::avx2 : isa;
}

}  // namespace snello
