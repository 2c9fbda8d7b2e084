// SPDX-License-Identifier: Apache-2.0
// A place to hang one watcher of differentiable ops, for profiles. While none hangs there, an op
// pays a load and a branch.
#pragma once

#include <atomic>

namespace pinion {

class OpWatch {
 public:
  virtual ~OpWatch() = default;
  virtual void forward_done(const char* op) = 0;  // the op has computed its result
  virtual void backward_begins(const char* op) = 0;
  virtual void backward_ends(const char* op) = 0;
};

// Null when nobody watches. Whoever hangs a watcher there takes it away before destroying it, while
// no thread trains.
inline std::atomic<OpWatch*> op_watch{nullptr};

}  // namespace pinion
