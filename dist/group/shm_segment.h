// SPDX-License-Identifier: Apache-2.0
// The shared memory of the ranks of one host: a board, and a heap for each rank's symmetric
// tensors. It has no name: the descriptor is inherited, or handed over
// (dist/group/shm_rendezvous.h), so that nothing is left behind whatever kills the ranks.
//
// A launcher creates one for each start of its ranks, lets them inherit fd() without FD_CLOEXEC
// under its number in PINION_SHM_FD, calls abort() as soon as a rank has died, and may read
// recent_calls() of the dead. After a failure the segment is used up; a restart makes a new one.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "pinion/dist/group/board.h"

namespace pinion::dist {

class ShmSegment {
 public:
  // `heap_bytes` is for each rank; 0 takes the memory of the machine. It is address space: pages
  // that nobody asks for cost nothing. Throws Error (out_of_memory).
  static std::shared_ptr<ShmSegment> create(int ranks, int64_t heap_bytes = 0);
  // From a descriptor, which it owns from now on. Throws Error (config) for anything that is not a
  // segment of this version.
  static std::shared_ptr<ShmSegment> open(int fd);
  // From PINION_SHM_FD; null where that is not set.
  static std::shared_ptr<ShmSegment> from_environment();
  ~ShmSegment();
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  int fd() const { return fd_; }  // closed when a program is started with exec
  int ranks() const { return board_->ranks(); }
  const Board& board() const { return *board_; }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  // Breaks the group: every rank that waits, or calls later, gets `reason`.
  void abort(std::string_view reason, ErrorKind kind = ErrorKind::peer_lost) const noexcept {
    board_->abort(kind, reason);
  }
  std::string recent_calls(int rank, uint64_t most = FlightRecord::kCalls) const {
    return board_->rank(rank).record.text(most);
  }

  // Zeroed memory in the heap of `rank`, and back. Any thread of the rank; a whole number of pages.
  // Throws Error (out_of_memory).
  std::byte* allocate(int rank, int64_t bytes);
  void release(std::byte* block, int64_t bytes);

 private:
  struct Head;
  class Heap;
  ShmSegment(int fd, int64_t bytes);

  int fd_;
  int64_t bytes_;
  std::byte* data_ = nullptr;
  std::unique_ptr<Board> board_;
  std::unique_ptr<Heap> heap_;
};

}  // namespace pinion::dist
