// SPDX-License-Identifier: Apache-2.0
// A round begins when round_ moves and ends when busy_ is zero; both are waited for by futex.
#include "pinion/dist/parallel/device_threads.h"

#include "pinion/kernels/check.h"
#include "pinion/nn/amp.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {

DeviceThreads::DeviceThreads(int count, int cpu_threads_each) {
  PINION_CHECK(count >= 1, "DataParallel: expected at least one device, got ", count);
  errors_.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) threads_.emplace_back([=, this] { serve(i, cpu_threads_each); });
}

DeviceThreads::~DeviceThreads() {
  work_ = nullptr;
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DeviceThreads::serve(int index, int cpu_threads) {
  const CpuContextGuard pool(cpu_threads);
  for (uint32_t seen = 0;;) {
    round_.wait(seen);
    seen = round_.load();
    if (!work_) return;
    try {
      (*work_)(index);
    } catch (...) {
      errors_[static_cast<size_t>(index)] = std::current_exception();
    }
    if (busy_.fetch_sub(1) == 1) busy_.notify_one();
  }
}

void DeviceThreads::run(const std::function<void(int)>& f) {
  const bool recording = grad_enabled();
  const nn::Precision precision = nn::Autocast::current();
  const std::function<void(int)> work = [&](int i) {
    const nn::Autocast autocast(precision);
    if (recording) return f(i);
    const NoGrad no_grad;
    f(i);
  };
  work_ = &work;
  busy_.store(count());
  round_.fetch_add(1);
  round_.notify_all();
  for (int left = busy_.load(); left > 0; left = busy_.load()) busy_.wait(left);
  std::exception_ptr first;
  for (std::exception_ptr& e : errors_) {
    if (!first) first = e;
    e = nullptr;
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace pinion::dist
