// SPDX-License-Identifier: Apache-2.0
// The claiming pool. One 64-bit word holds (epoch, chunks not yet claimed): a claim is one
// compare-and-swap on it, and the task is read only after a claim has succeeded, when the region
// cannot end before that chunk is done. A worker late from an older region fails its CAS.
#include "pinion/kernels/cpu/parallel.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pinion::kernels {
namespace {

constexpr int kSpins = 2000;  // pauses before a worker sleeps, about 20 to 80 us
constexpr int64_t kMaxChunks = UINT32_MAX;
thread_local bool inside_task = false;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

long futex(std::atomic<uint32_t>& word, int op, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), op | FUTEX_PRIVATE_FLAG, value,
                 nullptr, nullptr, 0);
}

int available_cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

struct ThreadPool::State {
  // Written by workers and the caller; each on a cache line of its own.
  alignas(64) std::atomic<uint64_t> word{0};      // epoch << 32 | unclaimed chunks
  alignas(64) std::atomic<int64_t> done{0};       // chunks finished in this region
  alignas(64) std::atomic<uint32_t> sequence{0};  // region counter, what sleepers wait on
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  // The region: published by the release store of `word`.
  void (*task)(void*, int64_t) = nullptr;
  void* arg = nullptr;
  int64_t n = 0;

  std::mutex region;  // held by the thread whose region is under way
  std::mutex failure_mutex;
  std::exception_ptr failure;
  int spins = kSpins;
  std::vector<std::thread> workers;

  void execute(int64_t chunk) {
    inside_task = true;
    try {
      task(arg, chunk);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
    inside_task = false;
  }

  // Runs one chunk if there is one to claim.
  bool claim_and_execute() {
    uint64_t w = word.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(w) != 0)
      if (word.compare_exchange_weak(w, w - 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
        execute(n - static_cast<int64_t>(static_cast<uint32_t>(w)));
        done.fetch_add(1, std::memory_order_acq_rel);
        return true;
      }
    return false;
  }

  void work() {
    for (;;) {
      // `stop` is looked at after `sequence`, which is raised after it: who has seen the last
      // announcement stops, who has not is woken by it.
      const uint32_t seen = sequence.load(std::memory_order_seq_cst);
      if (stop.load(std::memory_order_seq_cst)) return;
      while (claim_and_execute()) {
      }
      for (int i = 0; i < spins && sequence.load(std::memory_order_relaxed) == seen; ++i) pause();
      if (sequence.load(std::memory_order_relaxed) != seen) continue;
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      if (sequence.load(std::memory_order_seq_cst) == seen) futex(sequence, FUTEX_WAIT, seen);
      sleepers.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  void publish(int64_t chunks) {
    n = chunks;
    done.store(0, std::memory_order_relaxed);
    const uint64_t epoch = (word.load(std::memory_order_relaxed) >> 32) + 1;
    word.store(epoch << 32 | static_cast<uint64_t>(chunks), std::memory_order_release);
    announce(static_cast<int>(std::min<int64_t>(chunks - 1, INT_MAX)));
  }

  void announce(int wanted) {
    sequence.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers.load(std::memory_order_seq_cst) > 0)
      futex(sequence, FUTEX_WAKE, static_cast<uint32_t>(wanted));
  }

  void wait() {
    for (int i = 1; done.load(std::memory_order_acquire) != n; ++i) {
      if (i % kSpins == 0)
        sched_yield();
      else
        pause();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  PINION_CHECK(threads >= 1 && threads <= 4096, "thread pool: threads must lie in [1, 4096], got ",
               threads);
  if (threads > available_cpus()) state_->spins = 0;  // spinning would take a core from a worker
  for (int i = 1; i < threads; ++i) state_->workers.emplace_back([s = state_.get()] { s->work(); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->announce(INT_MAX);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t n, void (*task)(void*, int64_t), void* arg) {
  State& s = *state_;
  const bool alone = n <= 1 || s.workers.empty() || inside_task || !s.region.try_lock();
  if (alone) {
    for (int64_t i = 0; i < n; ++i) task(arg, i);
    return;
  }
  const std::lock_guard lock(s.region, std::adopt_lock);
  PINION_CHECK(n <= kMaxChunks, "thread pool: at most 2^32 - 1 chunks a call, got ", n);
  s.task = task, s.arg = arg;
  s.publish(n);
  while (s.claim_and_execute()) {
  }
  s.wait();
  if (s.failure) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace pinion::kernels
