// SPDX-License-Identifier: Apache-2.0
// Ranks as threads: each posts its call, all meet, each reads what it needs from the others'
// tensors, all meet again. An operation is complete when the call returns.
#include "pinion/dist/local_group.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "pinion/dist/reduce.h"
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
  std::map<std::pair<int, int>, std::deque<Tensor>> mail;  // by sender and receiver

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
    if (call.operation == Operation::send) return put(call);
    if (call.operation == Operation::receive) return take(call);
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
      case Operation::all_gather:
        return pieces(
            call, [](int) { return int64_t{0}; }, call.count);
      case Operation::all_to_all: {
        const int64_t part = call.count / size_;
        return pieces(
            call, [&](int) { return rank_ * part; }, part);
      }
      case Operation::broadcast: return call_of(call.peer).input.clone();
      default: return {};
    }
  }

  static Tensor flat(const Tensor& x) { return x.alias(Shape{x.numel()}); }

  // The reduction of elements [begin, begin + count) of all inputs.
  Tensor reduced(const Call& call, int64_t begin, int64_t count) {
    std::vector<Tensor> inputs;
    std::vector<const void*> in;
    for (int r = 0; r < size_; ++r) {
      inputs.push_back(flat(call_of(r).input).rows(begin, begin + count).to(Device{}));
      in.push_back(inputs.back().view().data);
    }
    Tensor sum({count}, call.dtype);
    void* out = sum.mut().data;
    reduce(call.reduce, call.dtype, in, {&out, 1}, count);
    return sum.to(call.output.device());
  }

  Work put(const Call& call) {
    Tensor copy = call.input.clone();
    const std::lock_guard lock(meeting_->mutex);
    meeting_->check();
    meeting_->mail[{rank_, call.peer}].push_back(std::move(copy));
    meeting_->changed.notify_all();
    return {};
  }
  Work take(Call call) {
    std::unique_lock lock(meeting_->mutex);
    auto& box = meeting_->mail[{call.peer, rank_}];
    meeting_->changed.wait_for(lock, timeout_,
                               [&] { return !box.empty() || meeting_->broken.has_value(); });
    if (box.empty()) meeting_->check();
    PINION_REQUIRE(hang, !box.empty(), "receive: waited ", timeout_.count(), " ms for rank ",
                   call.peer);
    const Tensor from = std::move(box.front());
    box.pop_front();
    PINION_REQUIRE(desync, from.numel() == call.count && from.dtype() == call.dtype,
                   "receive: expected ", call.dtype, " ", call.count, ", got ", from.dtype(), " ",
                   from.numel());
    call.output.copy_(from.alias(call.output.shape()));
    return {};
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
