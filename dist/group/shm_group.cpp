// SPDX-License-Identifier: Apache-2.0
// Ranks as processes: joining, the deaths of others, and tensors in the shared memory.
#include "pinion/dist/group/shm_group.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "pinion/dist/group/board_group.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;

class ShmGroup final : public BoardGroup {
 public:
  ShmGroup(const std::shared_ptr<ShmSegment>& segment, int rank)
      : BoardGroup(rank, segment->board(), segment->data(), segment->bytes(), segment),
        segment_(segment),
        processes_(static_cast<size_t>(size_), -1) {}

  ~ShmGroup() override {
    try {
      finish();
    } catch (const Error&) {  // whoever waits has it too
    }
    board_.rank(rank_).left.store(generation_);
    board_.rank(rank_).pid.store(0);
    for (const int fd : processes_)
      if (fd >= 0) close(fd);
  }

  void join(std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    int32_t nobody = 0;
    PINION_REQUIRE(config, board_.rank(rank_).pid.compare_exchange_strong(nobody, getpid()),
                   "shm group: rank ", rank_, " is taken by process ", nobody);
    generation_ = board_.rank(rank_).joined.fetch_add(1) + 1;
    board_.rank(rank_).sleeping.store(1);
    board_.ring(rank_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      while (!watch(r)) {
        if (board_.broken()) throw Error(board_.error());
        if (Clock::now() >= deadline) fail_missing(timeout);
        for (int other = 0; other < r; ++other) check_alive(other);
        const uint32_t bell = board_.rank(rank_).bell.load();
        if (board_.rank(r).pid.load() == 0) board_.sleep(rank_, bell, std::chrono::milliseconds(4));
      }
    }
    board_.rank(rank_).sleeping.store(0);
  }

  const char* backend() const override { return "shm"; }

  Tensor symmetric(const Shape& shape, DType dtype, Device device) override {
    const int64_t bytes = shape.numel() * size_of(dtype);
    if (device != Device{} || bytes == 0) return ProcessGroup::symmetric(shape, dtype, device);
    std::byte* block = segment_->allocate(rank_, bytes);
    return Tensor::foreign(block, shape, dtype, device,
                           std::shared_ptr<void>(block, [segment = segment_, bytes](void* data) {
                             segment->release(static_cast<std::byte*>(data), bytes);
                           }));
  }

 private:
  int& process_of(int rank) { return processes_[static_cast<size_t>(rank)]; }

  bool joined(int r) const { return board_.rank(r).joined.load() >= generation_; }

  // False while rank r has not come.
  bool watch(int r) {
    if (!joined(r)) return false;
    const int32_t pid = board_.rank(r).pid.load();
    if (pid == 0) return true;  // it has left already
    process_of(r) = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (process_of(r) < 0 && errno == ESRCH) process_of(r) = kGone;
    return true;
  }

  void check_alive(int r) {
    if (r == rank_) return;
    const std::string why = lost(r);
    if (why.empty()) return;
    abort(cat({"rank ", r, " ", why, " while rank ", rank_, " waited for all to join"}));
    throw Error(board_.error());
  }

  std::string lost(int r) override {
    const int fd = process_of(r);
    pollfd event{fd, POLLIN, 0};
    // A descriptor of a process can be read when that has ended, also while its parent lets it lie.
    const bool dead = fd == kGone || (fd >= 0 && poll(&event, 1, 0) > 0);
    const int32_t pid = board_.rank(r).pid.load();
    if (dead && pid != 0) return cat({"(process ", pid, ") has died"});
    return BoardGroup::lost(r);
  }

  void fail_missing(std::chrono::milliseconds timeout) {
    std::string missing;
    for (int r = 0; r < size_; ++r)
      if (!joined(r)) missing += cat({missing.empty() ? "" : ", ", r});
    board_.abort(ErrorKind::hang, cat({"shm group: waited ", timeout.count(), " ms for rank ",
                                       missing, " to join"}));
    throw Error(board_.error());
  }

  static constexpr int kGone = -2;  // in place of a descriptor
  std::shared_ptr<ShmSegment> segment_;
  std::vector<int> processes_;  // descriptors of the others' processes; -1: cannot be watched
};

}  // namespace

std::shared_ptr<ProcessGroup> make_shm_group(const std::shared_ptr<ShmSegment>& segment, int rank,
                                             std::chrono::milliseconds timeout) {
  PINION_CHECK(rank >= 0 && rank < segment->ranks(), "shm group: expected a rank below ",
               segment->ranks(), ", got ", rank);
  const auto group = std::make_shared<ShmGroup>(segment, rank);
  group->join(timeout);
  return group;
}

}  // namespace pinion::dist
