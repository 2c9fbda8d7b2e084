// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/track/profile.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>
#include <tuple>
#include <vector>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/op_watch.h"

namespace pinion::accel {
namespace {

constexpr size_t kMaxEvents = 4'000'000;  // 160 MB; what comes after is counted only

int64_t now_ns() {
  using std::chrono::nanoseconds;
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<nanoseconds>(time).count();
}

thread_local int64_t last_mark = 0;  // ns: the end of the last event, or begin of a span
thread_local std::vector<int64_t> backward_begins_at;

}  // namespace

struct Profile::Recorder final : OpWatch {
  struct Event {
    const char* name;
    const char* kind;
    int64_t begin, end;  // ns
    int64_t thread;
  };

  void add(const char* name, const char* kind, int64_t begin, int64_t end) {
    static thread_local const int64_t thread = syscall(SYS_gettid);
    const std::lock_guard lock(mutex);
    if (all.size() < kMaxEvents)
      all.push_back({name, kind, begin, end, thread});
    else
      ++dropped;
  }
  void forward_done(const char* op) override {
    const int64_t end = now_ns();
    add(op, "forward", std::max(last_mark, started), end);
    last_mark = now_ns();
  }
  void backward_begins(const char*) override { backward_begins_at.push_back(now_ns()); }
  void backward_ends(const char* op) override {
    add(op, "backward", backward_begins_at.back(), now_ns());
    backward_begins_at.pop_back();
    last_mark = now_ns();
  }

  std::string text() const {
    std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    fmt::format_to(std::back_inserter(out),
                   R"({{"name":"process_name","ph":"M","pid":{0},"args":{{"name":"rank {0}"}}}})",
                   rank);
    for (const Event& e : all)
      fmt::format_to(
          std::back_inserter(out),
          ",\n{{\"name\":{},\"cat\":\"{}\",\"ph\":\"X\",\"ts\":{:.3f},\"dur\":{:.3f},\"pid\":{},"
          "\"tid\":{}}}",
          json_quote(e.name), e.kind, static_cast<double>(e.begin - started) / 1e3,
          static_cast<double>(e.end - e.begin) / 1e3, rank, e.thread);
    return out + "\n]}\n";
  }

  // Events of one thread nest: an event's time goes to it, and not to the one around it.
  std::vector<ProfileShare> shares() const {
    std::vector<const Event*> in_order, around;
    for (const Event& e : all) in_order.push_back(&e);
    std::sort(in_order.begin(), in_order.end(), [](const Event* a, const Event* b) {
      return std::tie(a->thread, a->begin, b->end) < std::tie(b->thread, b->begin, a->end);
    });
    std::map<std::string, ProfileShare> by_name;
    const auto share_of = [&](const Event& e) -> ProfileShare& {
      const bool backward = e.kind == std::string_view("backward");
      const std::string name = backward ? cat({e.name, ", backward"}) : e.name;
      return by_name.try_emplace(name, ProfileShare{name, 0, 0}).first->second;
    };
    for (const Event* e : in_order) {
      while (!around.empty() &&
             (around.back()->thread != e->thread || around.back()->end <= e->begin))
        around.pop_back();
      const double seconds = static_cast<double>(e->end - e->begin) / 1e9;
      if (!around.empty()) share_of(*around.back()).seconds -= seconds;
      ProfileShare& share = share_of(*e);
      ++share.count, share.seconds += seconds;
      around.push_back(e);
    }
    std::vector<ProfileShare> out;
    for (auto& [name, share] : by_name) out.push_back(std::move(share));
    std::sort(out.begin(), out.end(),
              [](const ProfileShare& a, const ProfileShare& b) { return a.seconds > b.seconds; });
    return out;
  }

  std::string path;
  int rank = 0;
  int64_t started = 0;
  mutable std::mutex mutex;  // guards what follows
  std::vector<Event> all;
  int64_t dropped = 0;
};

namespace {
std::atomic<Profile::Recorder*> current{nullptr};
}

Profile::Profile(std::string path, int rank) : recorder_(std::make_unique<Recorder>()) {
  recorder_->path = std::move(path);
  recorder_->rank = rank;
  recorder_->started = now_ns();
  Recorder* none = nullptr;
  PINION_CHECK(current.compare_exchange_strong(none, recorder_.get()),
               "Profile: expected one at a time");
  op_watch.store(recorder_.get(), std::memory_order_release);
}

Profile::~Profile() {
  try {
    stop();
  } catch (const Error& e) {
    log_warn({"the profile is lost: ", e.what()});
  }
}

void Profile::stop() {
  Recorder* mine = recorder_.get();
  if (!current.compare_exchange_strong(mine, nullptr)) return;  // stopped already
  op_watch.store(nullptr, std::memory_order_release);
  const std::lock_guard lock(recorder_->mutex);
  if (recorder_->dropped > 0)
    log_warn({"the profile holds the first ", kMaxEvents, " events, and not ", recorder_->dropped,
              " that followed"});
  write_file_atomic(recorder_->path, recorder_->text());
}

int64_t Profile::events() const {
  const std::lock_guard lock(recorder_->mutex);
  return static_cast<int64_t>(recorder_->all.size());
}

std::vector<ProfileShare> Profile::shares() const {
  const std::lock_guard lock(recorder_->mutex);
  return recorder_->shares();
}

ProfileSpan::ProfileSpan(const char* name)
    : name_(name), begin_(current.load(std::memory_order_acquire) ? now_ns() : -1) {
  if (begin_ >= 0) last_mark = begin_;
}

ProfileSpan::~ProfileSpan() {
  if (begin_ < 0) return;
  Profile::Recorder* const recorder = current.load(std::memory_order_acquire);
  if (!recorder) return;
  const int64_t end = now_ns();
  recorder->add(name_, "span", std::max(begin_, recorder->started), end);
  last_mark = end;
}

}  // namespace pinion::accel
