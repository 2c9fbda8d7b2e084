// SPDX-License-Identifier: Apache-2.0
// The checks of pinion test, on ranks that are threads.
#include "pinion/accel/launch/self_check.h"

#include <gtest/gtest.h>

#include "pinion/dist/group/local_group.h"

namespace pinion::accel {
namespace {

TEST(SelfCheck, PassesOnAnyNumberOfRanks) {
  for (const int ranks : {1, 2, 3, 4}) {
    int passed = 0;
    dist::run_local(ranks, [&](dist::ProcessGroup& group) {
      self_check(group, Device{}, [&](std::string_view) { ++passed; });
    });
    EXPECT_EQ(passed, 3) << ranks;
  }
}

}  // namespace
}  // namespace pinion::accel
