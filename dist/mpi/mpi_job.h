// SPDX-License-Identifier: Apache-2.0
// One call on its way through MPI, and what the group's thread shares with those who wait for it.
// Internal to the mpi_*.cpp files.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "pinion/dist/group/flight_record.h"
#include "pinion/dist/mpi/mpi_shim.h"

namespace pinion::dist {

enum MpiTag { kMpiHeaderTag = 1, kMpiDataTag, kMpiAbortTag };

struct MpiShared {
  // What a rank that gives up tells the others.
  struct Farewell {
    uint32_t kind;
    char reason[1020];
  };

  std::mutex mutex;
  std::condition_variable changed;
  bool stopping = false;
  std::optional<Error> broken;
  FlightRecord record{};

  void break_with(const Error& error) noexcept;  // the first one stays
  bool is_broken();
  std::shared_ptr<Farewell> farewell();
};

struct MpiJob : Work::State {
  MpiJob(std::shared_ptr<MpiShared> s, Call c, int rank, int size,
         std::chrono::milliseconds timeout);

  bool done() override;
  void wait() override;

  bool is_message() const;
  // What can be done without waiting; true when complete. On the group's thread.
  bool step(const PinionMpi& mpi);
  // Sends or receives some bytes for an abort; waits up to a second.
  static void move_now(const PinionMpi& mpi, PinionMpiKind kind, int peer, void* data,
                       size_t bytes);

  CallHeader header;
  bool ended = false;  // under the mutex

 private:
  enum class Stage : uint8_t { fresh, greeted, moving };
  void greet(const PinionMpi& mpi);
  void compare() const;
  void move(const PinionMpi& mpi);
  void finish();
  void begin(const PinionMpi& mpi, PinionMpiCall call);

  std::shared_ptr<MpiShared> shared_;
  Call call_;
  int rank_, size_;
  std::chrono::milliseconds timeout_;
  Stage stage_ = Stage::fresh;
  std::vector<CallHeader> headers_;  // of all ranks, or of the sender
  Tensor input_, output_;            // what MPI reads and writes
  std::vector<void*> requests_;
};

}  // namespace pinion::dist
