// Which instructions this processor has. Knows nothing of any kernel.
//
// A kernel is written once, in `kernel.inc` beside its `cpu.cpp`, and included once for each
// instruction set, inside a namespace and a `#pragma GCC target`. `best_isa()` then chooses.
#pragma once

namespace snello {

enum class Isa { none, avx2, avx512 };

#define SNELLO_TARGET_AVX2 "avx2,fma,f16c"
#define SNELLO_TARGET_AVX512 \
  "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512"

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
  return isa;
}

}  // namespace snello
