// SPDX-License-Identifier: Apache-2.0
// What the ranks called, for error texts: a call without its tensors, and the ring of a rank's last
// 1024 calls, which may lie in memory that other processes read.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

struct CallHeader {
  Operation operation = Operation::barrier;
  ReduceOp reduce = ReduceOp::sum;
  DType dtype = DType::u8;
  int32_t peer = -1;
  int64_t count = 0;
  uint64_t sequence = 0;

  // Whether two ranks that meet in a collective asked for the same.
  bool matches(const CallHeader& other) const {
    return operation == other.operation && reduce == other.reduce && dtype == other.dtype &&
           peer == other.peer && count == other.count;
  }
};
CallHeader header_of(const Call& call);
std::string describe(const CallHeader& call);              // all_reduce(sum, f32, 5)
std::string who_called(int rank, const CallHeader& call);  // rank 1 called … as its call 7
// Throws Error (desync) that names both calls; the text is the same on every rank.
[[noreturn]] void fail_desync(int rank_a, const CallHeader& a, int rank_b, const CallHeader& b);

// Zeroed memory is an empty record. One rank writes; anyone may read at any time, and then may see
// an entry that is just being replaced.
class FlightRecord {
 public:
  static constexpr uint64_t kCalls = 1024;

  void begin(const CallHeader& call);
  void end(uint64_t sequence);
  // The last `most` calls, one a line, oldest first: "#7 all_reduce(sum, f32, 5) took 0.1 ms".
  std::string text(uint64_t most = kCalls) const;

 private:
  struct Entry {
    std::atomic<uint64_t> sequence, what, count, begun, ended;  // times in ns, 0: not yet
  };
  Entry entries_[kCalls];
  std::atomic<uint64_t> newest_;
};

}  // namespace pinion::dist
