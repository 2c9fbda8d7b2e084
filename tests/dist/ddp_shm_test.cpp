// SPDX-License-Identifier: Apache-2.0
// The laws of ddp_test.cpp once more with ranks as processes, whose gradients lie in shared memory.
#include "ddp_testing.h"
#include "dist_testing.h"

namespace pinion::testing {
namespace {

TEST(DdpOnShm, RanksWithPartsEqualOneWithAll) {
  const auto loss = [](DdpNet& net, int step) {
    const Batch b = batch_of(step * 24, 24);
    return nn::cross_entropy(net(b.x), b.y);
  };
  const Weights expected = run_alone(5, loss);
  for (const int ranks : {2, 3}) {
    manual_seed(3);
    dist::run_ranks("shm", ranks, [&](dist::ProcessGroup& group) {
      DdpNet net;
      optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
      dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, small_buckets());
      for (int s = 0; s < 5; ++s) {
        const Batch b = batch_of(s * 24 + group.rank() * 24 / ranks, 24 / ranks);
        ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
        sgd.step();
        sgd.zero_grad();
      }
      const Weights mine = weights_of(net);
      EXPECT_LE(distance(expected, mine), 1e-6);
      const auto n = static_cast<int64_t>(mine.size());
      Tensor all({ranks * n});
      group.all_gather(all, Tensor::of(mine, {n})).wait();
      for (int r = 0; r < ranks; ++r) EXPECT_EQ(all.rows(r * n, (r + 1) * n).values<float>(), mine);
    });
  }
}

}  // namespace
}  // namespace pinion::testing
