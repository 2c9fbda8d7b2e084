// SPDX-License-Identifier: Apache-2.0
// The memory through which ranks of one host meet: counters of what each rank has posted and
// finished, its present call, staging memory, mail boxes, bells to sleep on, and the reason why the
// group is broken. The memory is zeroed by whoever makes it and belongs to no rank; threads and
// processes use it alike. dist/group/board_group.h says how.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "pinion/dist/group/flight_record.h"

namespace pinion::dist {

class Board {
 public:
  static constexpr int64_t kChunk = 256 << 10;  // bytes that are staged at a time
  static constexpr uint64_t kDepth = 4;         // chunks of a collective that are under way
  static constexpr uint64_t kMailDepth = 2;     // chunks of a message that are under way

  // A call as others see it, and where its tensor lies: an offset that all ranks can reach, or
  // kPrivate for one whose contents go through the staging memory.
  static constexpr int64_t kPrivate = INT64_MIN;
  struct Posted {
    CallHeader header;
    int64_t where;
  };
  struct alignas(64) Rank {
    std::atomic<uint64_t> posted;                // rounds that its data are there for
    alignas(64) std::atomic<uint64_t> finished;  // rounds in which it read all it needs
    alignas(64) std::atomic<uint32_t> sleeping;  // whether somebody must ring
    std::atomic<uint32_t> bell;                  // what it sleeps on
    std::atomic<int32_t> pid;
    std::atomic<uint32_t> joined, left;  // how often it joined, and left in order
    std::atomic<uint64_t> blocked;       // dist/group/board_group.cpp
    std::atomic<uint64_t> collectives;   // how many it began
    alignas(64) Posted present[2];       // the present collective, and the one before
    alignas(64) FlightRecord record;
  };
  // Messages from one rank to another.
  struct alignas(64) Channel {
    std::atomic<uint64_t> sent;
    alignas(64) std::atomic<uint64_t> received;
    alignas(64) Posted parcels[kMailDepth];
  };

  static int64_t bytes(int ranks);
  Board(void* memory, int ranks);

  int ranks() const { return ranks_; }
  Rank& rank(int r) const { return rank_lines_[r]; }
  Channel& channel(int from, int to) const { return channels_[from * ranks_ + to]; }
  std::byte* slot(int r, uint64_t round) const {
    return slots_ + (static_cast<uint64_t>(r) * kDepth + round % kDepth) * kChunk;
  }
  std::byte* mail_slot(int from, int to, uint64_t index) const {
    return mail_slots_ +
           (static_cast<uint64_t>(from * ranks_ + to) * kMailDepth + index % kMailDepth) * kChunk;
  }

  // Wakes the ranks that sleep, but for `me`. After a change of counters.
  void ring(int me) const;
  // Sleeps until somebody rings, unless that has happened since `bell` was read.
  void sleep(int me, uint32_t bell, std::chrono::nanoseconds most) const;

  // The first reason stays. May be called by anyone, at any time.
  void abort(ErrorKind kind, std::string_view reason) const noexcept;
  bool broken() const;
  Error error() const;  // of a broken board

 private:
  struct Head;

  int ranks_;
  Head* head_;
  Rank* rank_lines_;
  Channel* channels_;
  std::byte *slots_, *mail_slots_;
};

}  // namespace pinion::dist
