// SPDX-License-Identifier: Apache-2.0
// Orders, data sets and loaders: what is drawn, in which order it arrives, where it stands.
#include "pinion/accel/data/data_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <set>

#include "pinion/accel/data/sampler.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using Ids = std::vector<int64_t>;

Ids all_of(Order& order) {
  const auto span = order.take(0, order.samples());
  return {span.begin(), span.end()};
}

Ids iota(int64_t n) {
  Ids ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), int64_t{0});
  return ids;
}

// A batch is the indices themselves; sample `poison` cannot be read.
struct IndexSet {
  int64_t count = 0;
  int64_t poison = -1;
  std::shared_ptr<std::atomic<int>> calls = std::make_shared<std::atomic<int>>(0);

  int64_t size() const { return count; }
  Ids get(std::span<const int64_t> indices) const {
    ++*calls;
    for (const int64_t i : indices)
      PINION_REQUIRE(data, i != poison, "sample ", i, ": expected an image, got noise");
    return {indices.begin(), indices.end()};
  }
};

std::vector<Ids> rest_of_epoch(DataLoader<IndexSet>& loader) {
  std::vector<Ids> batches;
  for (const Ids& batch : loader) batches.push_back(batch);
  return batches;
}

TEST(Order, IsAPermutationThatDependsOnSeedAndEpochOnly) {
  for (const int64_t n : {int64_t{1}, int64_t{2}, int64_t{1003}, int64_t{70001}}) {
    Order order(n, true, 7);
    order.start(3);
    const Ids third = all_of(order);
    Ids sorted = third;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, iota(n));
    order.start(4);
    const Ids fourth = all_of(order);
    order.start(3);
    EXPECT_EQ(all_of(order), third);
    Order again(n, true, 7), other(n, true, 8), split(n, true, 7, OrderUse::split);
    again.start(3), other.start(3), split.start(3);
    EXPECT_EQ(all_of(again), third);
    if (n < 100) continue;
    EXPECT_NE(fourth, third);
    EXPECT_NE(all_of(other), third);
    EXPECT_NE(all_of(split), third);
  }
}

TEST(Order, DrawsTheSameInPiecesOfAnySize) {
  Order whole(1003, true, 1);
  const Ids expected = all_of(whole);
  for (const int64_t piece : {1, 3, 32, 1000}) {
    Order order(1003, true, 1);
    Ids got;
    for (int64_t at = 0; at < 1003; at += piece)
      for (const int64_t i : order.take(at, std::min<int64_t>(piece, 1003 - at))) got.push_back(i);
    EXPECT_EQ(got, expected);
  }
}

// A change of these numbers changes every run that anyone has made: they are part of the format of
// a saved position.
TEST(Order, GivesTheNumbersItAlwaysGave) {
  Order order(10, true, 42);
  EXPECT_EQ(all_of(order), (Ids{4, 8, 6, 2, 3, 1, 0, 9, 5, 7}));
}

TEST(Order, WithoutShuffleIsTheNaturalOne) {
  Order order(100, false, 5);
  order.start(9);
  EXPECT_EQ(all_of(order), iota(100));
}

// All 24 orders of four samples come up equally often: chi-squared with 23 degrees of freedom
// exceeds 60 with a probability below 1e-4; the draws are fixed.
TEST(Order, FavoursNoPermutation) {
  constexpr int kEpochs = 24000;
  std::map<Ids, int> count;
  Order order(4, true, 11);
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    order.start(epoch);
    ++count[all_of(order)];
  }
  ASSERT_EQ(count.size(), 24u);
  double chi = 0;
  for (const auto& [permutation, n] : count) chi += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi, 60);
}

TEST(TensorDataset, GathersRowsOfEveryWidth) {
  for (const int64_t width : {1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 31, 32, 40, 511, 512, 513, 2000}) {
    SCOPED_TRACE(width);
    constexpr int64_t kRows = 50;
    std::vector<uint8_t> bytes(static_cast<size_t>(kRows * width));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 + i / 256);
    const Tensor x = Tensor::of(bytes, {kRows, width});
    const Ids wanted = {49, 0, 7, 7, 31};
    const std::vector<uint8_t> got = gather_rows(x, wanted).values<uint8_t>();
    for (size_t r = 0; r < wanted.size(); ++r)
      for (int64_t c = 0; c < width; ++c)
        ASSERT_EQ(got[r * static_cast<size_t>(width) + static_cast<size_t>(c)],
                  bytes[static_cast<size_t>(wanted[r] * width + c)]);
  }
}

TEST(TensorDataset, KeepsFeaturesAndLabelsTogether) {
  std::vector<float> x(1000 * 10);
  Ids y(1000);
  for (size_t i = 0; i < 1000; ++i) {
    y[i] = static_cast<int64_t>(i);
    for (size_t c = 0; c < 10; ++c) x[i * 10 + c] = static_cast<float>(i * 10 + c);
  }
  DataLoader loader(TensorDataset(Tensor::of(x, {1000, 10}), Tensor::of(y, {1000})),
                    {.batch_size = 32, .shuffle = true, .seed = 3});
  std::set<int64_t> seen;
  for (auto& [features, labels] : loader) {
    const auto xs = features.values<float>();
    const auto ys = labels.values<int64_t>();
    ASSERT_EQ(features.shape(), (Shape{static_cast<int64_t>(ys.size()), 10}));
    for (size_t r = 0; r < ys.size(); ++r) {
      EXPECT_TRUE(seen.insert(ys[r]).second);
      for (size_t c = 0; c < 10; ++c)
        ASSERT_EQ(xs[r * 10 + c], static_cast<float>(ys[r] * 10 + static_cast<int64_t>(c)));
    }
  }
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(TensorDataset, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros({3, 2});
  EXPECT_THAT(error_of([&] { TensorDataset(x, Tensor::zeros({4})); }).what(),
              testing::HasSubstr("as many rows, got [3,2] and [4]"));
  EXPECT_THAT(error_of([&] { TensorDataset(Tensor(), x); }).what(), testing::HasSubstr("features"));
  EXPECT_THAT(error_of([&] { TensorDataset(x, Tensor::zeros({})); }).what(),
              testing::HasSubstr("labels"));
  EXPECT_THAT(error_of([&] { gather_rows(x, Ids{3}); }).what(),
              testing::HasSubstr("[0, 3), got 3"));
}

TEST(DataLoader, CutsBatchesAndDropsTheLastWhenAsked) {
  DataLoader all(IndexSet{10}, {.batch_size = 4});
  EXPECT_EQ(all.batches(), 3);
  EXPECT_EQ(rest_of_epoch(all), (std::vector<Ids>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}}));
  DataLoader full(IndexSet{10}, {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(full.batches(), 2);
  EXPECT_EQ(rest_of_epoch(full), (std::vector<Ids>{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(full.state(), (LoaderState{1, 0, 0, 10}));
  DataLoader even(IndexSet{8}, {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(even.batches(), 2);
  EXPECT_EQ(rest_of_epoch(even).size(), 2u);
  DataLoader none(IndexSet{0}, {.batch_size = 4});
  EXPECT_TRUE(rest_of_epoch(none).empty());
}

TEST(DataLoader, WorkersDeliverWhatTheCallerWouldHaveMade) {
  const LoaderOptions inline_options{.batch_size = 7, .shuffle = true, .seed = 5};
  DataLoader reference(IndexSet{1000}, inline_options);
  std::vector<std::vector<Ids>> epochs;
  for (int e = 0; e < 3; ++e) epochs.push_back(rest_of_epoch(reference));
  for (const int workers : {1, 2, 4}) {
    for (const int prefetch : {1, 3}) {
      LoaderOptions options = inline_options;
      options.workers = workers, options.prefetch = prefetch;
      DataLoader loader(IndexSet{1000}, options);
      for (const auto& expected : epochs) EXPECT_EQ(rest_of_epoch(loader), expected);
    }
  }
}

TEST(DataLoader, WorkersStayWithinTheirBound) {
  const IndexSet data{10000};
  DataLoader loader(data, {.batch_size = 1, .workers = 2, .prefetch = 3});
  int delivered = 0;
  for (auto it = loader.begin(); delivered < 500; ++it) {
    ++delivered;
    ASSERT_LE(*data.calls, delivered + 2 * 3);
  }
}

TEST(DataLoader, ContinuesFromASavedPosition) {
  for (const int workers : {0, 2}) {
    const LoaderOptions options{.batch_size = 8, .shuffle = true, .workers = workers, .seed = 9};
    DataLoader first(IndexSet{100}, options);
    rest_of_epoch(first);
    LoaderState saved;
    std::vector<Ids> expected;
    int seen = 0;
    for (const Ids& batch : first) {
      if (++seen <= 5) saved = first.state();
      if (seen > 5) expected.push_back(batch);
    }
    const std::vector<Ids> next_epoch = rest_of_epoch(first);
    EXPECT_EQ(saved, (LoaderState{1, 40, 9, 100}));
    for (const int other_workers : {0, 3}) {
      LoaderOptions other = options;
      other.workers = other_workers;
      DataLoader second(IndexSet{100}, other);
      for (const Ids& batch : second) {  // it may have been elsewhere
        if (batch.size() < 8) break;
      }
      second.restore(saved);
      EXPECT_EQ(rest_of_epoch(second), expected);
      EXPECT_EQ(rest_of_epoch(second), next_epoch);
    }
  }
}

// Its batches say which epoch they were made for.
struct EpochData {
  int64_t size() const { return 10; }
  Ids get(std::span<const int64_t> indices, int64_t epoch = -1) const {
    Ids out(indices.begin(), indices.end());
    for (int64_t& sample : out) sample += 100 * epoch;
    return out;
  }
};

TEST(DataLoader, TellsTheDataTheEpochOfABatchMadeAhead) {
  for (const int workers : {0, 1, 3}) {
    DataLoader loader(EpochData(), {.batch_size = 3, .workers = workers, .prefetch = 4});
    const auto expect_epoch = [&](int64_t epoch, int64_t next) {
      for (const Ids& batch : loader)
        for (const int64_t sample : batch) EXPECT_EQ(sample, 100 * epoch + next++) << workers;
      EXPECT_EQ(next, 10);
    };
    expect_epoch(0, 0);
    expect_epoch(1, 0);
    for (const Ids& batch : loader) {
      EXPECT_EQ(batch[0], 200);
      break;
    }
    loader.seek(7, 6);  // with batches of epoch 2 made already
    expect_epoch(7, 6);
    expect_epoch(8, 0);
  }
}

TEST(DataLoader, GoesOnAfterBreakAndStartsOverAfterSeek) {
  for (const int workers : {0, 2}) {
    DataLoader loader(IndexSet{10}, {.batch_size = 4, .workers = workers});
    for (const Ids& batch : loader) {
      EXPECT_EQ(batch, (Ids{0, 1, 2, 3}));
      break;
    }
    EXPECT_EQ(rest_of_epoch(loader), (std::vector<Ids>{{4, 5, 6, 7}, {8, 9}}));
    for ([[maybe_unused]] const Ids& batch : loader) break;
    loader.seek(0, 6);
    EXPECT_EQ(rest_of_epoch(loader), (std::vector<Ids>{{6, 7, 8, 9}}));
    loader.seek(0);
    EXPECT_EQ(rest_of_epoch(loader).size(), 3u);
  }
}

TEST(DataLoader, RefusesPositionsThatCannotBeItsOwn) {
  DataLoader loader(IndexSet{10}, {.seed = 1});
  const auto refused = [&](const LoaderState& state, const char* why) {
    const Error e = error_of([&] { loader.restore(state); });
    EXPECT_EQ(e.kind(), ErrorKind::checkpoint);
    EXPECT_THAT(e.what(), testing::HasSubstr(why));
  };
  refused({0, 0, 1, 11}, "10 samples, got one of 11");
  refused({0, 0, 2, 10}, "seed 1, got 2");
  refused({0, 11, 1, 10}, "sample 11");
  refused({-1, 0, 1, 10}, "epoch -1");
  EXPECT_EQ(loader.state(), (LoaderState{0, 0, 1, 10}));
}

TEST(DataLoader, ErrorsReachTheCallerAndLeaveThePositionBeforeThem) {
  for (const int workers : {0, 1, 3}) {
    DataLoader loader(IndexSet{100, 41}, {.batch_size = 10, .workers = workers});
    for (int attempt = 0; attempt < 2; ++attempt) {
      std::vector<Ids> got;
      const Error e = error_of([&] {
        for (const Ids& batch : loader) got.push_back(batch);
      });
      EXPECT_EQ(e.kind(), ErrorKind::data);
      EXPECT_STREQ(e.what(), "sample 41: expected an image, got noise");
      EXPECT_EQ(got.size(), attempt == 0 ? 4u : 0u);
      EXPECT_EQ(loader.state().consumed, 40);
    }
    loader.seek(0, 50);
    EXPECT_EQ(rest_of_epoch(loader).size(), 5u);
  }
}

TEST(DataLoader, MayBeDestroyedInTheMiddle) {
  for (int round = 0; round < 20; ++round) {
    DataLoader loader(IndexSet{1000}, {.batch_size = 1, .workers = 1 + round % 3, .prefetch = 4});
    int left = round;
    for ([[maybe_unused]] const Ids& batch : loader)
      if (left-- == 0) break;
  }
  DataLoader unused(IndexSet{1000}, {.workers = 4});
}

TEST(DataLoader, RefusesImpossibleOptions) {
  const auto refused = [](const LoaderOptions& options, const char* why) {
    EXPECT_THAT(error_of([&] { DataLoader loader(IndexSet{10}, options); }).what(),
                testing::HasSubstr(why));
  };
  refused({.batch_size = 0}, "batch_size must be at least 1, got 0");
  refused({.workers = -1}, "workers");
  refused({.workers = 1, .prefetch = 0}, "prefetch");
}

TEST(DataLoader, ASteadyEpochAsksTheSystemForNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the allocator keeps nothing under AddressSanitizer";
#endif
  DataLoader loader(TensorDataset(Tensor::zeros({1000, 10}), Tensor::zeros({1000}, DType::i64)),
                    {.batch_size = 32, .shuffle = true});
  const auto epoch = [&] {
    for ([[maybe_unused]] auto& batch : loader) ASSERT_LE(batch.size(), 32);
  };
  epoch();
  const int64_t before = memory_stats({}).system_calls;
  epoch();
  EXPECT_EQ(memory_stats({}).system_calls, before);
}

}  // namespace
}  // namespace pinion::accel
