// Memory on huge pages. Knows nothing of what is kept there.
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <cstdint>

namespace {

constexpr int64_t kHugePage = 2 * 1024 * 1024;  // of x86-64

// Zeros that start on a huge page, and ask for huge pages where the system gives them.
at::Tensor zeros_huge(int64_t num_bytes) {
  const int64_t mapped = num_bytes + kHugePage;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(base != MAP_FAILED, "no memory for ", num_bytes, " bytes");
  const auto address = reinterpret_cast<uintptr_t>(base);
  void* start = reinterpret_cast<void*>((address + kHugePage - 1) / kHugePage * kHugePage);
  madvise(start, num_bytes, MADV_HUGEPAGE);  // advice: without it all works, more slowly
  return at::from_blob(start, {num_bytes}, [base, mapped](void*) { munmap(base, mapped); },
                       at::kByte);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(snello, m) {
  m.def("zeros_huge(int num_bytes) -> Tensor", &zeros_huge);
}
