// SPDX-License-Identifier: Apache-2.0
// Calls under way on a BoardGroup. Internal to the board_*.cpp files.
#pragma once

#include "pinion/dist/group/board_group.h"

namespace pinion::dist {

struct BoardGroup::Pending : Work::State {
  Pending(BoardGroup* g, Call c) : group(g), header(header_of(c)), call(std::move(c)) {}

  bool done() override;
  void wait() override;
  int64_t bytes() const { return call.count * size_of(call.dtype); }

  BoardGroup* group;  // null when the group has ended before this
  CallHeader header;
  Call call;
  bool completed = false;
  std::chrono::steady_clock::time_point asked_since, next_look{};  // of done()
};

struct BoardGroup::Collective : Pending {
  using Pending::Pending;

  bool begun = false, met = false;
  bool direct = false;  // the others read this rank's input where it lies
  bool shared = false;  // all_reduce: each rank reduces its slice and writes it for all
  uint64_t index = 0;   // among this rank's collectives, from 0
  uint64_t first = 0;   // the first of its rounds in the counters of the board
  uint64_t rounds = 0;  // 0: not known before the ranks have met
  uint64_t posted = 0, worked = 0, collected = 0;  // rounds
  int blocks = 1;                                  // parts of the input that go to different ranks
  int64_t block = 0;                               // elements of one
  int64_t step = 0;                                // elements of each block in a round
  std::vector<int64_t> where;                      // the ranks' inputs
};

struct BoardGroup::Message : Pending {
  using Pending::Pending;

  bool sending() const { return call.operation == Operation::send; }

  uint64_t chunks = 0, moved = 0;
  uint64_t complete_at = 0;  // of what was sent directly: the count of received chunks
};

}  // namespace pinion::dist
