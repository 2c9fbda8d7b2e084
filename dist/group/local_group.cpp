// SPDX-License-Identifier: Apache-2.0
// Ranks as threads: a board in this process's memory, where every tensor is in everyone's reach.
#include "pinion/dist/group/local_group.h"

#include <sys/mman.h>

#include <exception>
#include <mutex>
#include <thread>

#include "pinion/dist/group/board_group.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

// Pages that nobody touches cost nothing.
class Memory {
 public:
  explicit Memory(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes)),
        data_(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    PINION_REQUIRE(out_of_memory, data_ != MAP_FAILED, "local groups: no memory of ", bytes,
                   " bytes");
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

class LocalGroup final : public BoardGroup {
 public:
  LocalGroup(int rank, int size, const std::shared_ptr<Memory>& memory)
      : BoardGroup(rank, Board(memory->data(), size), nullptr, INT64_MAX, memory) {}

  const char* backend() const override { return "local"; }
};

}  // namespace

std::vector<std::shared_ptr<ProcessGroup>> make_local_groups(int size) {
  PINION_CHECK(size >= 1, "local groups: expected at least 1 rank, got ", size);
  const auto memory = std::make_shared<Memory>(Board::bytes(size));
  std::vector<std::shared_ptr<ProcessGroup>> groups;
  groups.reserve(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r) groups.push_back(std::make_shared<LocalGroup>(r, size, memory));
  return groups;
}

void run_local(int size, const std::function<void(ProcessGroup&)>& body) {
  const auto groups = make_local_groups(size);
  std::mutex mutex;
  std::exception_ptr first, first_lost;
  std::vector<std::thread> threads;
  threads.reserve(groups.size());
  for (const auto& group : groups)
    threads.emplace_back([&] {
      try {
        const CpuContextGuard one_thread(1);
        body(*group);
        dynamic_cast<BoardGroup&>(*group).finish();
      } catch (const Error& e) {
        group->abort(e.what());
        const std::lock_guard lock(mutex);
        auto& slot = e.kind() == ErrorKind::peer_lost ? first_lost : first;
        if (!slot) slot = std::current_exception();
      } catch (...) {
        group->abort("a rank threw");
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
  if (first_lost) std::rethrow_exception(first_lost);
}

}  // namespace pinion::dist
