// SPDX-License-Identifier: Apache-2.0
// The thread that speaks to MPI: it starts calls in order, tests those under way, and listens for
// ranks that give up.
#include "pinion/dist/mpi/mpi_group.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <future>
#include <list>
#include <thread>

#include "pinion/dist/mpi/mpi_job.h"
#include "pinion/dist/mpi/mpi_library.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;

class MpiGroup final : public ProcessGroup {
 public:
  MpiGroup() : ProcessGroup(0, 1), mpi_(mpi_library()), shared_(std::make_shared<MpiShared>()) {
    std::promise<void> started;
    auto ready = started.get_future();
    thread_ = std::thread([this, &started] {
      try {
        char text[kPinionMpiError] = "";
        PINION_REQUIRE(config, mpi_.init(&rank_, &size_, text) == 0, "mpi: ", text);
      } catch (...) {
        return started.set_exception(std::current_exception());
      }
      started.set_value();
      serve();
    });
    try {
      ready.get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }

  ~MpiGroup() override {
    {
      const std::lock_guard lock(shared_->mutex);
      shared_->stopping = true;
      shared_->changed.notify_all();
    }
    thread_.join();
  }

  const char* backend() const override { return "mpi"; }

  void abort(std::string_view reason) noexcept override {
    shared_->break_with(Error(ErrorKind::peer_lost, "mpi group: " + std::string(reason)));
  }
  std::string recent_calls() const override { return shared_->record.text(); }

 private:
  Work start(Call call) override {
    if (call.output.defined() && call.output.device() != Device{})
      return start_on_host(std::move(call));
    const auto job = std::make_shared<MpiJob>(shared_, std::move(call), rank_, size_, timeout_);
    const std::lock_guard lock(shared_->mutex);
    if (shared_->broken) throw Error(*shared_->broken);
    shared_->record.begin(job->header);
    inbox_.push_back(job);
    shared_->changed.notify_all();
    return Work(job);
  }

  // The thread, until the group ends or breaks.
  void serve() {
    try {
      while (take_jobs()) {
        bool moved = false;
        // Collectives one after the other, messages beside each other.
        if (!collectives_.empty() && step(*collectives_.front()))
          collectives_.pop_front(), moved = true;
        for (auto m = messages_.begin(); m != messages_.end();)
          if (step(**m))
            m = messages_.erase(m), moved = true;
          else
            ++m;
        hear_aborts();
        rest(moved);
      }
      char text[kPinionMpiError] = "";
      if (!shared_->is_broken()) mpi_.finalize(text);
    } catch (const Error& e) {
      shared_->break_with(e);
    }
    if (shared_->is_broken() && !heard_) tell_others();
  }

  // False when the thread shall end.
  bool take_jobs() {
    std::unique_lock lock(shared_->mutex);
    const auto idle = [&] { return collectives_.empty() && messages_.empty() && inbox_.empty(); };
    shared_->changed.wait(lock, [&] { return shared_->broken || shared_->stopping || !idle(); });
    for (; !inbox_.empty(); inbox_.pop_front())
      (inbox_.front()->is_message() ? messages_ : collectives_).push_back(inbox_.front());
    return !shared_->broken && !(shared_->stopping && idle());
  }

  bool step(MpiJob& job) {
    if (!job.step(mpi_)) return false;
    const std::lock_guard lock(shared_->mutex);
    shared_->record.end(job.header.sequence);
    job.ended = true;
    shared_->changed.notify_all();
    return true;
  }

  // Looks often at first, and leaves the core to those who compute when it takes longer.
  void rest(bool moved) {
    if (moved) last_move_ = Clock::now();
    const auto since = Clock::now() - last_move_;
    if (since < std::chrono::microseconds(50)) return;
    std::this_thread::sleep_for(
        std::min<Clock::duration>(since / 8, std::chrono::microseconds(200)));
  }

  void hear_aborts() {
    char text[kPinionMpiError] = "", reason[sizeof MpiShared::Farewell::reason] = "";
    int peer = 0;
    int64_t size = 0;
    if (mpi_.probe(kMpiAbortTag, &peer, &size, text) != 0 || size == 0) return;
    MpiShared::Farewell farewell{};
    PINION_REQUIRE(peer_lost, size == sizeof farewell, "mpi group: rank ", peer, " gave up");
    MpiJob::move_now(mpi_, kPinionMpiReceive, peer, &farewell, sizeof farewell);
    std::copy(std::begin(farewell.reason), std::end(farewell.reason) - 1, reason);
    heard_ = true;
    fail(static_cast<ErrorKind>(farewell.kind), {reason});
  }

  void tell_others() {
    const auto farewell = shared_->farewell();
    try {
      for (int r = 0; r < size_; ++r)
        if (r != rank_) MpiJob::move_now(mpi_, kPinionMpiSend, r, &*farewell, sizeof *farewell);
    } catch (const Error&) {  // they will find out
    }
  }

  const PinionMpi& mpi_;
  std::shared_ptr<MpiShared> shared_;
  std::deque<std::shared_ptr<MpiJob>> inbox_;                  // under the mutex
  std::list<std::shared_ptr<MpiJob>> collectives_, messages_;  // of the thread
  bool heard_ = false;  // another rank gave up, and told everyone
  Clock::time_point last_move_ = Clock::now();
  std::thread thread_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_mpi_group() {
  static std::atomic<bool> used{false};
  mpi_library();
  PINION_REQUIRE(config, !used.exchange(true), "mpi: expected one group in a process, got two");
  return std::make_shared<MpiGroup>();
}

bool has_mpi(std::string* why) {
  try {
    mpi_library();
    return true;
  } catch (const Error& e) {
    if (why) *why = e.what();
    return false;
  }
}

}  // namespace pinion::dist
