// SPDX-License-Identifier: Apache-2.0
// Ranks as threads: results by rank, and an exception of one that frees the others.
#include "pinion/dist/group/local_group.h"

#include <gmock/gmock.h>

namespace pinion::dist {
namespace {

using testing::ElementsAre;

TEST(LocalGroup, SumsInRankOrder) {
  run_local(3, [](ProcessGroup& group) {
    Tensor x = Tensor::full({2}, group.rank() + 1);
    group.all_reduce(x).wait();
    EXPECT_THAT(x.values<float>(), ElementsAre(6, 6));
  });
}

TEST(LocalGroup, FreesTheOthersWhenARankThrows) {
  try {
    run_local(2, [](ProcessGroup& group) {
      if (group.rank() == 1) fail(ErrorKind::data, {"rank 1 has no data"});
      group.barrier().wait();
    });
    FAIL() << "expected the error of rank 1";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::data);
  }
}

}  // namespace
}  // namespace pinion::dist
