// SPDX-License-Identifier: Apache-2.0
// Runs a body once per rank: as threads on `local`, or as forked processes on `shm`.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/group/shm_group.h"
#include "pinion/kernels/context.h"

namespace pinion::dist {

using Body = std::function<void(ProcessGroup&)>;

// The statuses of waitpid, by rank. A process ends with the code of the error its body throws, with
// 1 when an expectation failed, and else with 0.
inline std::vector<int> run_processes(
    const std::shared_ptr<ShmSegment>& segment, const Body& body,
    const std::function<void(const std::vector<pid_t>&)>& meanwhile =
        [](const std::vector<pid_t>&) {}) {
  std::vector<pid_t> children;
  std::fflush(nullptr);
  for (int r = 0; r < segment->ranks(); ++r) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(120);
      int code = 0;
      try {
        const CpuContextGuard one_thread(1);
        body(*make_shm_group(segment, r));
      } catch (const Error& e) {
        std::fprintf(stderr, "rank %d: %s\n", r, e.what());
        code = e.exit_code();
      }
      std::fflush(nullptr);
      _exit(::testing::Test::HasFailure() ? 1 : code);
    }
    children.push_back(child);
  }
  meanwhile(children);
  std::vector<int> statuses(children.size());
  for (size_t r = 0; r < children.size(); ++r) waitpid(children[r], &statuses[r], 0);
  return statuses;
}

// Expectations of the body count as the test's.
inline void run_ranks(const std::string& backend, int ranks, const Body& body) {
  if (backend == "local") return run_local(ranks, body);
  const auto statuses = run_processes(ShmSegment::create(ranks), body);
  for (size_t r = 0; r < statuses.size(); ++r)
    EXPECT_EQ(statuses[r], 0) << "rank " << r << " ended with status " << statuses[r];
}

// Its kind, and its text in `text`; success when nothing was thrown.
inline int kind_of_error(const std::function<void()>& body, std::string* text = nullptr) {
  try {
    body();
  } catch (const Error& e) {
    if (text) *text = e.what();
    return e.exit_code();
  }
  return 0;
}

}  // namespace pinion::dist
