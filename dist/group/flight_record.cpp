// SPDX-License-Identifier: Apache-2.0
// Calls as text, and the ring that remembers them.
#include "pinion/dist/group/flight_record.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "pinion/kernels/check.h"

namespace pinion::dist {

CallHeader header_of(const Call& call) {
  return {call.operation, call.reduce, call.dtype, call.peer, call.count, call.sequence};
}

std::string describe(const CallHeader& call) {
  std::string name = name_of(call.operation);
  switch (call.operation) {
    case Operation::barrier:
      return call.count == 0 ? name + "()" : cat({name, "(", call.count, ")"});
    case Operation::all_reduce:
    case Operation::reduce_scatter:
      return cat({name, "(", name_of(call.reduce), ", ", call.dtype, ", ", call.count, ")"});
    case Operation::all_gather:
    case Operation::all_to_all: return cat({name, "(", call.dtype, ", ", call.count, ")"});
    case Operation::broadcast:
      return cat({name, "(", call.dtype, ", ", call.count, ", root ", call.peer, ")"});
    case Operation::send:
      return cat({name, "(", call.dtype, ", ", call.count, ", to ", call.peer, ")"});
    case Operation::receive:
      return cat({name, "(", call.dtype, ", ", call.count, ", from ", call.peer, ")"});
  }
  return name;
}

std::string who_called(int rank, const CallHeader& call) {
  return cat({"rank ", rank, " called ", describe(call), " as its call ", call.sequence});
}

void fail_desync(int rank_a, const CallHeader& a, int rank_b, const CallHeader& b) {
  const bool ordered = rank_a < rank_b;
  fail(ErrorKind::desync, {"process group: expected the same call on all ranks, got: ",
                           who_called(ordered ? rank_a : rank_b, ordered ? a : b), ", ",
                           who_called(ordered ? rank_b : rank_a, ordered ? b : a)});
}

namespace {

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

constexpr auto kRelaxed = std::memory_order_relaxed;

std::string milliseconds(uint64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f ms", static_cast<double>(ns) * 1e-6);
  return text;
}

}  // namespace

void FlightRecord::begin(const CallHeader& call) {
  Entry& entry = entries_[call.sequence % kCalls];
  const auto peer = static_cast<uint32_t>(call.peer);
  entry.sequence.store(call.sequence, kRelaxed);
  entry.what.store(static_cast<uint64_t>(call.operation) | static_cast<uint64_t>(call.reduce) << 8 |
                       static_cast<uint64_t>(call.dtype) << 16 | static_cast<uint64_t>(peer) << 32,
                   kRelaxed);
  entry.count.store(static_cast<uint64_t>(call.count), kRelaxed);
  entry.ended.store(0, kRelaxed);
  entry.begun.store(now_ns(), kRelaxed);
  newest_.store(call.sequence, std::memory_order_release);
}

void FlightRecord::end(uint64_t sequence) {
  Entry& entry = entries_[sequence % kCalls];
  if (entry.sequence.load(kRelaxed) == sequence) entry.ended.store(now_ns(), kRelaxed);
}

std::string FlightRecord::text(uint64_t most) const {
  const uint64_t newest = newest_.load(std::memory_order_acquire);
  const uint64_t lines = std::min({newest, most, kCalls}), now = now_ns();
  std::string out;
  for (uint64_t sequence = newest - lines + 1; sequence <= newest; ++sequence) {
    const Entry& entry = entries_[sequence % kCalls];
    const uint64_t what = entry.what.load(kRelaxed);
    const CallHeader call{static_cast<Operation>(what & 7),
                          static_cast<ReduceOp>(what >> 8 & 3),
                          static_cast<DType>(what >> 16 & 7),
                          static_cast<int32_t>(what >> 32),
                          static_cast<int64_t>(entry.count.load(kRelaxed)),
                          sequence};
    const uint64_t begun = entry.begun.load(kRelaxed), ended = entry.ended.load(kRelaxed);
    out += cat({"#", sequence, " ", describe(call), ended ? " took " : " has waited for ",
                milliseconds((ended ? ended : now) - begun)});
    if (ended) out += cat({", ended ", milliseconds(now - ended), " ago"});
    out += '\n';
  }
  return out;
}

}  // namespace pinion::dist
