// SPDX-License-Identifier: Apache-2.0
// Ranks as threads: each posts its call, all meet, each reads what it needs from the others' tensors,
// all meet again. An operation is complete when the call returns.
#include "pinion/dist/local_group.h"

#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "pinion/kernels/kernels.h"

namespace pinion::dist {

namespace {

struct Meeting {
  explicit Meeting(int size) : calls(static_cast<size_t>(size)) {}

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Call> calls;  // of this round, by rank
  size_t present = 0;
  uint64_t round = 0;
  std::optional<std::string> broken;

  // Until all have come.
  void meet(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex);
    check();
    if (++present == calls.size()) {
      present = 0;
      ++round;
      changed.notify_all();
      return;
    }
    const uint64_t mine = round;
    const bool came =
        changed.wait_for(lock, timeout, [&] { return round != mine || broken.has_value(); });
    if (round == mine) check();
    PINION_REQUIRE(hang, came, "local group: waited ", timeout.count(), " ms for ",
                   calls.size() - present, " of ", calls.size(), " ranks");
  }
  void check() const {
    if (broken) fail(ErrorKind::peer_lost, {"local group: ", *broken});
  }
};

class LocalGroup final : public ProcessGroup {
 public:
  LocalGroup(int rank, std::shared_ptr<Meeting> meeting)
      : ProcessGroup(rank, static_cast<int>(meeting->calls.size())), meeting_(std::move(meeting)) {}

  const char* backend() const override { return "local"; }

  void abort(std::string_view reason) noexcept override {
    const std::lock_guard lock(meeting_->mutex);
    if (!meeting_->broken) meeting_->broken = std::string(reason);
    meeting_->changed.notify_all();
  }

 private:
  Call& call_of(int rank) { return meeting_->calls[static_cast<size_t>(rank)]; }

  Work start(Call call) override {
    call_of(rank_) = call;
    meeting_->meet(timeout_);
    const Tensor result = compute(call);
    meeting_->meet(timeout_);
    if (result.defined()) call.output.copy_(result.alias(call.output.shape()));
    return {};
  }

  Tensor compute(const Call& call) {
    switch (call.operation) {
      case Operation::all_reduce: return reduced(call, 0, call.count);
      case Operation::reduce_scatter: {
        const int64_t part = call.count / size_;
        return reduced(call, rank_ * part, part);
      }
      case Operation::all_gather: return pieces(call, [](int) { return int64_t{0}; }, call.count);
      case Operation::all_to_all: {
        const int64_t part = call.count / size_;
        return pieces(call, [&](int) { return rank_ * part; }, part);
      }
      case Operation::broadcast: return call_of(call.peer).input.clone();
      default: fail(ErrorKind::internal, {"local group: no ", name_of(call.operation), " yet"});
      case Operation::barrier: return {};
    }
  }

  static Tensor flat(const Tensor& x) { return x.alias(Shape{x.numel()}); }

  // The reduction of elements [begin, begin + count) of all inputs.
  Tensor reduced(const Call& call, int64_t begin, int64_t count) {
    PINION_CHECK(call.dtype == DType::f32 && call.reduce <= ReduceOp::mean,
                 "local group: f32 sums only for now, got ", call.dtype);
    std::vector<float> sum(static_cast<size_t>(count));
    for (int r = 0; r < size_; ++r) {
      const auto values = flat(call_of(r).input).rows(begin, begin + count).values<float>();
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    }
    if (call.reduce == ReduceOp::mean)
      for (float& x : sum) x /= static_cast<float>(size_);
    return Tensor::of(sum, {count}).to(call.output.device());
  }

  template <class F>
  Tensor pieces(const Call& call, F begin_of, int64_t count) {
    Tensor all({size_ * count}, call.dtype, call.output.device());
    for (int r = 0; r < size_; ++r)
      all.rows(r * count, (r + 1) * count)
          .copy_(flat(call_of(r).input).rows(begin_of(r), begin_of(r) + count));
    return all;
  }

  std::shared_ptr<Meeting> meeting_;
};

}  // namespace

std::vector<std::shared_ptr<ProcessGroup>> make_local_groups(int size) {
  PINION_CHECK(size >= 1, "local groups: expected at least 1 rank, got ", size);
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::shared_ptr<ProcessGroup>> groups;
  for (int r = 0; r < size; ++r) groups.push_back(std::make_shared<LocalGroup>(r, meeting));
  return groups;
}

void run_local(int size, const std::function<void(ProcessGroup&)>& body) {
  const auto groups = make_local_groups(size);
  std::mutex mutex;
  std::exception_ptr first, first_lost;
  std::vector<std::thread> threads;
  for (const auto& group : groups)
    threads.emplace_back([&] {
      try {
        const CpuContextGuard one_thread(1);
        body(*group);
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
