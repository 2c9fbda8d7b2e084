// SPDX-License-Identifier: Apache-2.0
// Steps of work on a CUDA device that are recorded once and replayed as one launch, which saves the
// host's time for every kernel. A replay does the same work on the same memory: what differs from
// step to step must stand in tensors that live longer than the recording, and the host's own
// bookkeeping is repeated by on_replay().
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "pinion/runtime/device.h"

namespace pinion {

class Graph {
 public:
  explicit Graph(Device device);  // a CUDA device
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Calls step(): its work on the device is recorded and not done. The step must not read tensors
  // on the host or fill them from there, which throws Error (internal); other threads must leave
  // the device alone meanwhile. Tensors made in the step, results included, keep their place in
  // memory and get new contents with every replay. If step() throws, nothing was recorded.
  void record(const std::function<void()>& step);
  void replay();  // throws Error (internal) before record()

 private:
  struct Recording;
  const Device device_;
  std::unique_ptr<Recording> recording_;
};

bool recording();  // whether this thread is in Graph::record()
// In a recording: f, which must not touch the device, is called by every replay but the first, in
// the order in which such functions were given. It repeats what the step did on the host, counting
// mostly; for the first replay the recording has done it. Outside of recordings nothing happens.
void on_replay(std::function<void()> f);
// In a recording: f is called before every replay and may use the device, to bring up to date what
// the recording reads. A second function of the same `owner` is not taken.
void before_replay(const void* owner, std::function<void()> f);

// Recorded steps by key, the least recently used leaving for new ones beyond `most`. A step of a
// new key runs as it is once (libraries are loaded, caches filled), is recorded the second time,
// and replayed from then on. On the CPU it always runs as it is.
class StepGraphs {
 public:
  explicit StepGraphs(Device device, size_t most = 16);
  // The key says all that makes a step another one: shapes, phase, precision.
  void run(const std::string& key, const std::function<void()>& step);
  size_t size() const { return steps_.size(); }

 private:
  struct Step {
    std::string key;
    std::unique_ptr<Graph> graph;  // null until recorded
  };
  const Device device_;
  const size_t most_;
  std::list<Step> steps_;  // the most recently used first
};

}  // namespace pinion
