// SPDX-License-Identifier: Apache-2.0
// Computed permutations: each is one, all are equally likely as far as counting can tell, and the
// formula of docs/numerics.md stays what it is.
#include "pinion/kernels/permutation.h"

#include <algorithm>
#include <map>

#include "kernels_testing.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/device.h"

namespace pinion::kernels {
namespace {

std::vector<int64_t> order(int64_t n, const PhiloxKey& key, int64_t first, int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(count), -1);
  permute(cpu_context(), n, key, first, {out.data(), {count}, DType::i64});
  return out;
}
std::vector<int64_t> order(int64_t n, const PhiloxKey& key) { return order(n, key, 0, n); }

bool is_permutation(const std::vector<int64_t>& order) {
  std::vector<char> seen(order.size());
  char* const at = seen.data();
  const auto n = static_cast<int64_t>(order.size());
  for (const int64_t* i = order.data(); i != order.data() + n; ++i) {
    if (*i < 0 || *i >= n || at[*i]) return false;
    at[*i] = 1;
  }
  return true;
}

TEST(Permutation, IsOneForEverySize) {
  for (int64_t n = 1; n <= 5000; ++n)
    ASSERT_TRUE(is_permutation(order(n, {static_cast<uint64_t>(n), 1, 2}))) << n;
  for (const int64_t n : {65536, 65537, 1000003}) EXPECT_TRUE(is_permutation(order(n, {9, 1, 0})));
}

TEST(Permutation, OfLargeSizesStaysInsideAndRepeatsNothing) {
  for (const int64_t n : {(int64_t{1} << 30) + 1, int64_t{1999999973}, Permutation::kMost}) {
    std::vector<int64_t> part = order(n, {3, 1, 0}, n - 200000, 200000);
    std::sort(part.begin(), part.end());
    EXPECT_GE(part.front(), 0);
    EXPECT_LT(part.back(), n);
    EXPECT_EQ(std::adjacent_find(part.begin(), part.end()), part.end()) << n;
  }
}

TEST(Permutation, AnyPartIsThatPartOnEveryRung) {
  const std::vector<int64_t> all = order(5000, {5, 6, 7});
  const std::vector<int64_t> part = order(5000, {5, 6, 7}, 1234, 2222);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 1234));
  for (int isa = 0; isa <= int(best_isa()); ++isa)
    for (const int threads : {1, 4}) {
      const CpuContextGuard guard(threads, Isa(isa));
      EXPECT_EQ(order(5000, {5, 6, 7}), all) << "rung " << isa << ", " << threads << " threads";
    }
  const Permutation permutation(5000, {5, 6, 7});
  for (int64_t i = 0; i < 5000; ++i) ASSERT_EQ(permutation(i), all[static_cast<size_t>(i)]);
}

TEST(Permutation, KeepsItsNumbers) {
  EXPECT_EQ(order(10, {1, 2, 3}), (std::vector<int64_t>{4, 3, 9, 7, 6, 1, 8, 5, 0, 2}));
  EXPECT_EQ(order(1000, {1, 2, 3}, 0, 6), (std::vector<int64_t>{622, 780, 487, 831, 754, 162}));
  EXPECT_EQ(order(Permutation::kMost, {1, 2, 3}, 5, 3),
            (std::vector<int64_t>{618687491, 859756244, 493932098}));
}

TEST(Permutation, EveryPartOfTheKeyMatters) {
  const std::vector<int64_t> base = order(100, {1, 2, 3});
  for (const PhiloxKey& key :
       {PhiloxKey{2, 2, 3}, PhiloxKey{1, 3, 3}, PhiloxKey{1, 2, 4},
        PhiloxKey{1 + (uint64_t{1} << 40), 2, 3}, PhiloxKey{1, 2, 3 + (uint64_t{1} << 40)}})
    EXPECT_NE(order(100, key), base);
}

// (chi^2 - cells + 1) / sqrt(2 (cells - 1)) of counts that should all be equal: about normal.
double deviation(const std::vector<int64_t>& counts) {
  const auto cells = static_cast<double>(counts.size());
  double draws = 0, squares = 0;
  for (const int64_t c : counts) draws += static_cast<double>(c);
  for (const int64_t c : counts) squares += std::pow(static_cast<double>(c) - draws / cells, 2);
  return (squares * cells / draws - (cells - 1)) / std::sqrt(2 * (cells - 1));
}

constexpr double kUnlikely = 4.5;  // of the deviation; the keys are fixed

TEST(Permutation, EveryElementIsEquallyLikelyToComeFirst) {
  for (const int64_t n : {2, 3, 7, 33, 100, 1000}) {
    std::vector<int64_t> first(static_cast<size_t>(n)), middle = first;
    for (int64_t s = 0; s < 50 * n; ++s) {
      const PhiloxKey key{77, 5, static_cast<uint64_t>(s)};
      ++first[static_cast<size_t>(order(n, key, 0, 1)[0])];
      ++middle[static_cast<size_t>(order(n, key, n / 2, 1)[0])];
    }
    EXPECT_LT(deviation(first), kUnlikely) << n;
    EXPECT_LT(deviation(middle), kUnlikely) << n;
  }
}

TEST(Permutation, EveryOrderOfFewElementsIsEquallyLikely) {
  int64_t orders = 1;
  for (int64_t n = 2; n <= 5; ++n) {
    orders *= n;
    std::map<std::vector<int64_t>, int64_t> seen;
    for (int64_t s = 0; s < 300 * orders; ++s) ++seen[order(n, {static_cast<uint64_t>(s), 5, 1})];
    std::vector<int64_t> counts(static_cast<size_t>(orders));
    ASSERT_EQ(static_cast<int64_t>(seen.size()), orders);
    size_t k = 0;
    for (const auto& entry : seen) counts[k++] = entry.second;
    EXPECT_LT(deviation(counts), kUnlikely) << n;
  }
}

// What neighbours have to do with each other is the first thing to go wrong with too few rounds.
TEST(Permutation, NeighboursLieAnyDistanceApart) {
  for (const int64_t n : {32, 100, 1000}) {
    std::vector<int64_t> distance(static_cast<size_t>(n - 1));
    for (int64_t s = 0; s < 60000; ++s) {
      const auto pair =
          order(n, {static_cast<uint64_t>(s % 13), 5, static_cast<uint64_t>(s)}, n / 2, 2);
      ++distance[static_cast<size_t>((pair[1] - pair[0] + n) % n - 1)];
    }
    EXPECT_LT(deviation(distance), kUnlikely) << n;
  }
}

// --- batches ---

TEST(GatherCast, GathersConvertsAndPads) {
  for (const DType from : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32,
                           DType::u8, DType::boolean})
    for (const DType to : kFloats) {
      Block x(from, {5, 3}), y(to, {6, 4}, 7);
      for (int64_t i = 0; i < x.numel(); ++i) x.set(i, from == DType::boolean ? i % 2 : i);
      std::vector<int64_t> index = {4, 0, 4, 2};
      gather_cast(cpu_context(), x.view(), {index.data(), {4}, DType::i64}, y.view());
      for (int64_t r = 0; r < 6; ++r)
        for (int64_t c = 0; c < 4; ++c)
          EXPECT_EQ(y[r * 4 + c], r < 4 && c < 3 ? x[index[static_cast<size_t>(r)] * 3 + c] : 0)
              << name_of(from) << " to " << name_of(to) << " at " << r << ", " << c;
    }
}

TEST(GatherCast, RoundsOnce) {
  Block x(DType::f64, {1, 2}), y(DType::bf16, {1, 2});
  x.set(0, 1 + 0x1p-8 + 0x1p-40), x.set(1, 1 + 0x1p-8);  // above a tie, and a tie
  std::vector<int64_t> index = {0};
  gather_cast(cpu_context(), x.view(), {index.data(), {1}, DType::i64}, y.view());
  EXPECT_EQ(y[0], 1 + 0x1p-7);
  EXPECT_EQ(y[1], 1);
}

TEST(GatherCast, RefusesAnIndexOutside) {
  Block x(DType::f32, {5, 3}), y(DType::f32, {1, 3});
  for (int64_t wrong : {int64_t{-1}, int64_t{5}})
    EXPECT_THROW(gather_cast(cpu_context(), x.view(), {&wrong, {1}, DType::i64}, y.view()), Error);
}

}  // namespace
}  // namespace pinion::kernels
