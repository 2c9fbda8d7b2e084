// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/event.h"

#include <chrono>

#ifdef PINION_WITH_CUDA
#include "pinion/kernels/cuda/backend.h"
#endif

namespace pinion {
namespace {

#ifdef PINION_WITH_CUDA
using cuda_backend::Mark;
#else
struct Mark;  // nobody has one
namespace cuda_backend {
Mark* make_mark(int) { fail_no_cuda(); }
void destroy(Mark*) {}
void place(Mark*) {}
bool reached(Mark*) { return true; }
void wait(Mark*) {}
double milliseconds_between(Mark*, Mark*) { return 0; }
}  // namespace cuda_backend
#endif

Mark* mark_of(void* mark) { return static_cast<Mark*>(mark); }

}  // namespace

Event::Event(Device device) : device_(device) {
  if (device.kind == Device::Kind::cuda) mark_ = cuda_backend::make_mark(device.index);
}
Event::~Event() {
  if (mark_) cuda_backend::destroy(mark_of(mark_));
}

void Event::record() {
  if (mark_) return cuda_backend::place(mark_of(mark_));
  at_ = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

bool Event::reached() { return !mark_ || cuda_backend::reached(mark_of(mark_)); }

void Event::synchronize() {
  if (mark_) cuda_backend::wait(mark_of(mark_));
}

double Event::milliseconds_since(Event& earlier) {
  PINION_CHECK(device_ == earlier.device_,
               "milliseconds_since: expected events of one device, got ", earlier.device_.name(),
               " and ", device_.name());
  if (mark_) return cuda_backend::milliseconds_between(mark_of(earlier.mark_), mark_of(mark_));
  return static_cast<double>(at_ - earlier.at_) * 1e-6;
}

}  // namespace pinion
