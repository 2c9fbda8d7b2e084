// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/signals.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>

namespace pinion::accel {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGUSR1, SIGINT, SIGUSR2};

// All that a handler touches.
std::atomic<uint8_t> requested{0};
static_assert(std::atomic<uint8_t>::is_always_lock_free);

struct sigaction before[kSignals.size()];
std::atomic<bool> installed{false};

void raise_request(SaveRequest request) {
  const auto to = static_cast<uint8_t>(request);
  uint8_t now = requested.load(std::memory_order_relaxed);
  while (now < to && !requested.compare_exchange_weak(now, to)) {
  }
}

extern "C" void pinion_note_signal(int signal) {
  raise_request(signal == SIGUSR2 ? SaveRequest::save : SaveRequest::save_and_exit);
}

}  // namespace

SignalGuard::SignalGuard() {
  PINION_CHECK(!installed.exchange(true), "SignalGuard: expected one at a time");
  requested.store(0);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action {};
    action.sa_handler = pinion_note_signal;
    // Calls under way go on; a second SIGINT finds the default action.
    action.sa_flags = SA_RESTART | (kSignals[i] == SIGINT ? SA_RESETHAND : 0);
    sigaction(kSignals[i], &action, &before[i]);
  }
}

SignalGuard::~SignalGuard() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
  installed.store(false);
}

SaveRequest SignalGuard::pending() { return static_cast<SaveRequest>(requested.load()); }

SaveRequest SignalGuard::take() {
  auto save = static_cast<uint8_t>(SaveRequest::save);
  if (requested.compare_exchange_strong(save, 0)) return SaveRequest::save;
  return static_cast<SaveRequest>(save);
}

SaveRequest SignalGuard::take_agreed(dist::ProcessGroup& group, Device device) {
  const auto mine = static_cast<int32_t>(take());
  if (group.size() == 1) return static_cast<SaveRequest>(mine);
  Tensor strongest = Tensor::of<int32_t>({mine}, {1}).to(device);
  group.all_reduce(strongest, dist::ReduceOp::max).wait();
  return static_cast<SaveRequest>(static_cast<uint8_t>(strongest.values<int32_t>()[0]));
}

void end_preempted(int64_t step) {
  fail(ErrorKind::preempted,
       {"asked to stop: step ", step, " is saved, and the same command goes on from there"});
}

}  // namespace pinion::accel
