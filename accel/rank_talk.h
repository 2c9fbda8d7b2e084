// SPDX-License-Identifier: Apache-2.0
// RankTalk: ranks tell each other short texts, and fail together.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "pinion/dist/process_group.h"

namespace pinion::accel {

class RankTalk {
 public:
  // `group` null: a world of one, in which nothing is sent. `device`: where the group's tensors
  // live.
  explicit RankTalk(dist::ProcessGroup* group, Device device = {})
      : group_(group), device_(device) {}
  int rank() const { return group_ ? group_->rank() : 0; }
  int size() const { return group_ ? group_->size() : 1; }

  // Every rank runs f; the results of all, by rank, when none threw. Else every rank throws: its
  // own error, or that of the lowest rank that failed, which it names.
  std::vector<std::string> each(const std::function<std::string()>& f) const;
  // The same for what only rank 0 does; others wait. Gives everybody its result.
  std::string first(const std::function<std::string()>& f) const;

 private:
  dist::ProcessGroup* group_;
  Device device_;
};

}  // namespace pinion::accel
