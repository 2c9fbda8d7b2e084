// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/graph.h"

#include <algorithm>
#include <utility>

#ifdef PINION_WITH_CUDA
#include "pinion/kernels/cuda/backend.h"
#endif

namespace pinion {
namespace {

// What a recording does on the host.
struct HostWork {
  std::vector<std::function<void()>> after;
  std::vector<std::pair<const void*, std::function<void()>>> before;
};
thread_local HostWork* of_thread = nullptr;  // of this thread's recording

}  // namespace

#ifdef PINION_WITH_CUDA
struct Graph::Recording {
  explicit Recording(int device) : steps(cuda_backend::begin_recording(device)) {}
  ~Recording() { cuda_backend::destroy(steps); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  cuda_backend::Recording* steps;
  HostWork on_host;
  bool host_is_ahead = true;  // recording did on the host what the first replay does on the device
};
#else
struct Graph::Recording {};
#endif

bool recording() { return of_thread != nullptr; }

void on_replay(std::function<void()> f) {
  if (of_thread) of_thread->after.push_back(std::move(f));
}

void before_replay(const void* owner, std::function<void()> f) {
  if (!of_thread) return;
  for (const auto& known : of_thread->before)
    if (known.first == owner) return;
  of_thread->before.emplace_back(owner, std::move(f));
}

Graph::Graph(Device device) : device_(device) {
  PINION_CHECK(device.kind == Device::Kind::cuda, "Graph: expected a CUDA device, got ",
               device.name());
}
Graph::~Graph() = default;

#ifdef PINION_WITH_CUDA
void Graph::record(const std::function<void()>& step) {
  PINION_CHECK(!of_thread, "record: expected one recording at a time in a thread");
  recording_.reset();
  auto fresh = std::make_unique<Recording>(device_.index);
  of_thread = &fresh->on_host;
  try {
    step();
    of_thread = nullptr;
    cuda_backend::end_recording(fresh->steps);
  } catch (...) {
    of_thread = nullptr;
    cuda_backend::abandon(std::exchange(fresh->steps, nullptr));
    throw;
  }
  recording_ = std::move(fresh);
}

void Graph::replay() {
  PINION_CHECK(recording_ != nullptr, "replay: expected record() before");
  for (const auto& [owner, f] : recording_->on_host.before) f();
  cuda_backend::replay(recording_->steps);
  if (std::exchange(recording_->host_is_ahead, false)) return;
  for (const std::function<void()>& f : recording_->on_host.after) f();
}
#else
void Graph::record(const std::function<void()>&) { fail_no_cuda(); }
void Graph::replay() { fail_no_cuda(); }
#endif

StepGraphs::StepGraphs(Device device, size_t most) : device_(device), most_(most) {
  PINION_CHECK(most > 0, "StepGraphs: expected room for at least one step");
}

void StepGraphs::run(const std::string& key, const std::function<void()>& step) {
  if (device_.kind == Device::Kind::cpu) return step();
  const auto at =
      std::find_if(steps_.begin(), steps_.end(), [&](const Step& s) { return s.key == key; });
  if (at == steps_.end()) {
    step();
    if (steps_.size() == most_) steps_.pop_back();
    steps_.push_front({key, nullptr});
    return;
  }
  steps_.splice(steps_.begin(), steps_, at);
  Step& known = steps_.front();
  if (!known.graph) {
    auto graph = std::make_unique<Graph>(device_);
    graph->record(step);
    known.graph = std::move(graph);
  }
  known.graph->replay();
}

}  // namespace pinion
