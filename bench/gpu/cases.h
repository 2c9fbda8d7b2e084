// SPDX-License-Identifier: Apache-2.0
// What is timed on a GPU: one list, with the bytes and flops that a run needs at least, under the
// names that bench/gpu/goals.json and bench/peers/gpu_peer.py know.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pinion::bench {

struct GpuCase {
  std::string id;    // "softmax_forward/f32/32768x512": what, type, shape
  double bytes = 0;  // moved at least by one run: every input once, every result once
  double flops = 0;  // of one run, 0 where bytes are what counts
  int64_t cold = 0;  // bytes of one set of operands; 0: a run goes on where the last one ended
  // Makes a set of operands on device 0 and returns the function to time.
  std::function<std::function<void()>()> make;

  std::string dtype() const;  // the second part of the id
  std::string shape() const;  // the third
};

// With no extent above `most`: every case in miniature, for tests.
std::vector<GpuCase> gpu_cases(int64_t most = INT64_MAX);

}  // namespace pinion::bench
