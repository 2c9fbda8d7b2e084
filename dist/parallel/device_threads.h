// SPDX-License-Identifier: Apache-2.0
// Threads that stay: one per device, each with a CPU pool of its own, for DataParallel.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace pinion::dist {

class DeviceThreads {
 public:
  DeviceThreads(int count, int cpu_threads_each);
  ~DeviceThreads();
  DeviceThreads(const DeviceThreads&) = delete;
  DeviceThreads& operator=(const DeviceThreads&) = delete;

  int count() const { return static_cast<int>(threads_.size()); }
  // Calls f(0) … f(count - 1), each on its thread, with the caller's gradient recording and
  // autocast, and returns when all have. Rethrows the exception of the lowest one that threw.
  void run(const std::function<void(int)>& f);

 private:
  void serve(int index, int cpu_threads);

  std::atomic<uint32_t> round_{0};
  std::atomic<int> busy_{0};
  const std::function<void(int)>* work_ = nullptr;  // of this round; null: the end
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

}  // namespace pinion::dist
