// Threads that go through phases together. Knows nothing of what they do.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

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
  explicit Team(int64_t size) : size_(size), taken_{std::vector<Count>(size), std::vector<Count>(size)} {}

  Span part(int64_t thread, int64_t count) const {
    return {count * thread / size_, count * (thread + 1) / size_};
  }

  // Do `work(first, last)` for all of [0, count): each thread its own part, piece by piece, then what
  // the slower ones have left. A `meet` must follow.
  template <typename Work>
  void share(int64_t thread, int64_t count, int64_t piece, const Work& work) {
    const int64_t turn = taken_[0][thread].num_shares++ % 2;
    taken_[1 - turn][thread].number.store(0, std::memory_order_relaxed);
    for (int64_t step = 0; step < size_; ++step) {
      const int64_t owner = (thread + step) % size_;
      const Span mine = part(owner, count);
      std::atomic<int64_t>& taken = taken_[turn][owner].number;
      for (int64_t first; (first = mine.first + taken.fetch_add(piece)) < mine.last;) {
        work(first, std::min(first + piece, mine.last));
      }
    }
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
  struct alignas(64) Count {
    std::atomic<int64_t> number{0};
    int64_t num_shares = 0;
    Count() = default;
    Count(const Count&) {}
  };
  static constexpr int64_t kPatience = 20000;
  const int64_t size_;
  std::vector<Count> taken_[2];  // of each thread's part; two take turns
  alignas(64) std::atomic<int64_t> num_here_{0};
  alignas(64) std::atomic<int64_t> phase_{0};
};

}  // namespace snello
