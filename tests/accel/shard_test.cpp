// SPDX-License-Identifier: Apache-2.0
// Which samples each rank sees: the tables of Accelerate's BatchSamplerShard, through a DataLoader.
#include "pinion/accel/data/shard.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "pinion/accel/data/data_loader.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using Ids = std::vector<int64_t>;
using Batches = std::vector<Ids>;

// A batch is its indices.
struct IndexSet {
  int64_t count = 0;
  int64_t size() const { return count; }
  Ids get(std::span<const int64_t> indices) const { return {indices.begin(), indices.end()}; }
};

Batches epoch_of(DataLoader<IndexSet>& loader) {
  Batches out;
  for (const Ids& batch : loader) {
    out.push_back(batch);
    const auto indices = loader.indices();
    EXPECT_EQ(Ids(indices.begin(), indices.end()), batch);
  }
  return out;
}

Batches batches_of(int64_t samples, LoaderOptions options, const Shard& shard) {
  Batches first;
  for (const int workers : {0, 2}) {
    options.workers = workers;
    DataLoader loader(IndexSet{samples}, options);
    loader.feed().shard(shard);
    const Batches got = epoch_of(loader);
    EXPECT_EQ(static_cast<int64_t>(got.size()), loader.batches());
    if (workers == 0) first = got;
    EXPECT_EQ(got, first);
  }
  return first;
}

struct Case {
  int64_t samples, batch;
  bool drop_last, split, even;
  Batches rank0, rank1;
};

TEST(Shard, GivesTwoRanksWhatAccelerateGives) {
  const Case cases[] = {
      {10, 4, false, false, true, {{0, 1, 2, 3}, {8, 9, 0, 1}}, {{4, 5, 6, 7}, {2, 3, 4, 5}}},
      {10, 4, false, true, true, {{0, 1}, {4, 5}, {8, 9}}, {{2, 3}, {6, 7}, {0, 1}}},
      {10, 4, true, false, true, {{0, 1, 2, 3}}, {{4, 5, 6, 7}}},
      {10, 4, true, true, true, {{0, 1}, {4, 5}}, {{2, 3}, {6, 7}}},
      {3, 4, false, false, true, {{0, 1, 2, 0}}, {{1, 2, 0, 1}}},
      {3, 1, false, false, true, {{0}, {2}}, {{1}, {0}}},
      {7, 2, false, false, true, {{0, 1}, {4, 5}}, {{2, 3}, {6, 0}}},
      {2, 3, false, false, true, {{0, 1, 0}}, {{1, 0, 1}}},
      {22,
       3,
       true,
       false,
       true,
       {{0, 1, 2}, {6, 7, 8}, {12, 13, 14}},
       {{3, 4, 5}, {9, 10, 11}, {15, 16, 17}}},
      // Not even: a rank with nothing left gets one sample of no weight, here 0 and 2.
      {3, 1, false, false, false, {{0}, {2}}, {{1}, {0}}},
      {7, 2, false, false, false, {{0, 1}, {4, 5}}, {{2, 3}, {6}}},
      {10, 4, false, false, false, {{0, 1, 2, 3}, {8, 9}}, {{4, 5, 6, 7}, {2}}},
      {6, 4, false, true, false, {{0, 1}, {4, 5}}, {{2, 3}, {0}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.samples << " samples, batch " << c.batch << ", even "
                                    << c.even << ", split " << c.split);
    const LoaderOptions options{.batch_size = c.batch, .drop_last = c.drop_last};
    Shard shard{0, 2, c.split, c.even};
    EXPECT_EQ(batches_of(c.samples, options, shard), c.rank0);
    shard.rank = 1;
    EXPECT_EQ(batches_of(c.samples, options, shard), c.rank1);
  }
}

// Over many sizes: ranks see equally many batches, their real rows are the data set once and in
// order, and the weights of a round add up to what all ranks say they do.
TEST(Shard, CoversTheDataSetOnce) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (int64_t samples = 0; samples < 40; ++samples) {
      for (const bool even : {false, true}) {
        for (const int64_t batch : {1, 2, 5, 12}) {
          Ids seen;
          ShardPlan plan(samples, batch, false, {0, ranks, false, even});
          for (int64_t at = 0; plan.has(at); at = plan.after(at)) {
            int64_t weight = 0;
            for (int r = 0; r < ranks; ++r) {
              const ShardBatch b = plan.of(at, r);
              ASSERT_GE(b.rows, 1);
              for (int64_t i = 0; i < b.real; ++i) seen.push_back(b.begin + i);
              weight += plan.weight(at, r);
              ASSERT_EQ(plan.weight(at, r), even ? b.rows : b.real);
            }
            ASSERT_EQ(weight, plan.total_weight(at));
            ASSERT_EQ(plan.is_last(at), plan.after(at) == samples);
          }
          Ids all(static_cast<size_t>(samples));
          std::iota(all.begin(), all.end(), int64_t{0});
          ASSERT_EQ(seen, all);
        }
      }
    }
  }
}

TEST(Shard, ShufflesTheSameOrderForAll) {
  const LoaderOptions options{.batch_size = 5, .shuffle = true, .seed = 3};
  const Batches whole = batches_of(40, options, {});
  for (int r = 0; r < 4; ++r) {
    const Batches mine = batches_of(40, options, {r, 4});
    for (size_t i = 0; i < mine.size(); ++i)
      EXPECT_EQ(mine[i], whole[4 * i + static_cast<size_t>(r)]);
  }
}

// 22 samples in batches of 4, read by 4 workers, resumed in the middle by other numbers of ranks.
TEST(Shard, ResumesOnAnotherNumberOfRanks) {
  const LoaderOptions options{.batch_size = 4, .shuffle = true, .workers = 4, .seed = 9};
  Ids seen;
  LoaderState middle;
  for (int r = 0; r < 2; ++r) {
    DataLoader loader(IndexSet{22}, options);
    loader.feed().shard({r, 2, false, false});
    auto it = loader.begin();
    seen.insert(seen.end(), it->begin(), it->end());
    middle = loader.state();
    EXPECT_EQ(middle.consumed, 8);
  }
  for (int r = 0; r < 3; ++r) {
    DataLoader loader(IndexSet{22}, options);
    loader.feed().shard({r, 3, false, false});
    loader.restore(middle);
    for (const Ids& batch : loader) {
      const auto real = loader.feed().plan().of(loader.feed().round_begin(), r).real;
      seen.insert(seen.end(), batch.begin(), batch.begin() + real);
    }
  }
  std::sort(seen.begin(), seen.end());
  Ids all(22);
  std::iota(all.begin(), all.end(), int64_t{0});
  EXPECT_EQ(seen, all);
}

TEST(Shard, RefusesABatchThatDoesNotSplit) {
  DataLoader loader(IndexSet{10}, {.batch_size = 5});
  const Error e = error_of([&] { loader.feed().shard({0, 2, true}); });
  EXPECT_EQ(e.kind(), ErrorKind::config);
  EXPECT_THAT(e.what(), testing::HasSubstr("a multiple of 2 ranks, got 5"));
  EXPECT_EQ(loader.batches(), 2);
}

}  // namespace
}  // namespace pinion::accel
