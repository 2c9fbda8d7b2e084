// SPDX-License-Identifier: Apache-2.0
// A process group over a Board. A collective runs in rounds: a rank posts its part of the data, and
// when all have posted reads what it needs from the others. What every rank can reach is read where
// it lies, in one round; other tensors go through the staging memory, a chunk a round, four rounds
// under way at a time. Small tensors are always staged, so that nobody waits for their readers.
//
// Nothing runs behind the user's back: calls of the group, and of its Work, make the progress.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "pinion/dist/group/board.h"
#include "pinion/dist/process_group.h"

namespace pinion::dist {

class BoardGroup : public ProcessGroup {
 public:
  ~BoardGroup() override;

  void abort(std::string_view reason) noexcept override;
  std::string recent_calls() const override;
  std::vector<std::byte*> reach(const Tensor& x) override;
  // Waits for all that is under way.
  void finish();
  // Throws what wait() would when the group is broken or a rank has died: for those who wait for
  // something else.
  void check_peers();

 protected:
  // `base` and `extent` are the memory that all ranks see: base + offset on each. `owner` keeps the
  // board's memory.
  BoardGroup(int rank, const Board& board, std::byte* base, int64_t extent,
             std::shared_ptr<const void> owner);
  // Why this rank cannot answer any more; empty while it can.
  virtual std::string lost(int rank);

  Board board_;
  uint32_t generation_ = 1;  // of the groups that used this board one after the other

 private:
  struct Pending;     // one call under way
  struct Collective;  // board_collectives.cpp
  struct Message;     // board_messages.cpp

  Work start(Call call) override;
  void complete(Pending& pending);

  void progress();  // whatever can be done without waiting; throws when broken
  void wait_for(Pending& pending);
  bool nap(std::chrono::steady_clock::time_point deadline, const Pending& pending);
  bool late(int r, const Pending& pending) const;
  void look_around(Pending& pending);
  void check_lives(const Pending& pending);
  void check_partner(const Pending& pending);
  [[noreturn]] void fail_hang(const Pending& pending);
  [[noreturn]] void break_with(const Error& error);

  bool advance(Collective& c);  // true when complete
  void show(Collective& c);
  void post(Collective& c);
  void meet(Collective& c);
  void work(Collective& c);
  void collect(Collective& c);
  std::byte* piece(const Collective& c, int rank, int block, uint64_t round) const;
  void reduce_pieces(Collective& c, uint64_t round);
  void copy_pieces(Collective& c, uint64_t round);
  bool all_posted(uint64_t rounds) const;
  bool all_finished(uint64_t rounds) const;

  bool advance(Message& m);
  bool advance_send(Message& m);
  bool advance_receive(Message& m);

  int64_t where(const void* data) const;

  std::shared_ptr<const void> owner_;
  std::byte* base_;
  int64_t extent_;
  bool spins_;
  uint32_t vain_spins_ = 0;  // in a row
  uint64_t next_round_;
  bool rang_ = true;  // false: others have not been told of our counters
  std::deque<std::shared_ptr<Collective>> collectives_;
  std::list<std::shared_ptr<Message>> messages_;
  std::optional<Error> broken_;
};

}  // namespace pinion::dist
