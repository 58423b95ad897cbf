// Threads that go through phases together. Knows nothing of what they do.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <cstdint>

namespace snello {

// A part of [0, count) for each thread; parts differ by at most one.
struct Span {
  int64_t first, last;
};

// Bytes that a thread will read next.
struct Ahead {
  const uint8_t* from = nullptr;
  int64_t num_bytes = 0;
};

class Team {
 public:
  explicit Team(int64_t size) : size_(size) {}

  Span part(int64_t thread, int64_t count) const {
    return {count * thread / size_, count * (thread + 1) / size_};
  }

  // Wait for the others: spin, as phases are short, but yield where a thread has lost its processor.
  // Who waits fetches the beginning of what it will read next, as far as there is time.
  void meet(Ahead ahead = {}) {
    if (size_ == 1) return;
    const int64_t phase = phase_.load(std::memory_order_acquire);
    if (num_here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      num_here_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int64_t turn = 0; phase_.load(std::memory_order_acquire) == phase; ++turn) {
      if (64 * turn < ahead.num_bytes) {
        __builtin_prefetch(ahead.from + 64 * turn, 0, 2);
      } else {
        turn < kPatience ? _mm_pause() : static_cast<void>(sched_yield());
      }
    }
  }

 private:
  static constexpr int64_t kPatience = 20000;
  const int64_t size_;
  alignas(64) std::atomic<int64_t> num_here_{0};
  alignas(64) std::atomic<int64_t> phase_{0};
};

}  // namespace snello
