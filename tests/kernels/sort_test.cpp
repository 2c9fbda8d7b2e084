// SPDX-License-Identifier: Apache-2.0
// Sorting, running sums and the largest elements against the standard library.
#include <algorithm>
#include <numeric>

#include "kernels_testing.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/device.h"

namespace pinion::kernels {
namespace {

template <class Key>
void expect_sorted(std::vector<Key> keys) {
  const auto n = static_cast<int64_t>(keys.size());
  std::vector<int64_t> want(keys.size()), index(keys.size(), -1);
  std::iota(want.begin(), want.end(), 0);
  std::stable_sort(want.begin(), want.end(), [&](int64_t a, int64_t b) {
    return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
  });
  std::vector<Key> sorted(keys.size());
  const DType t = dtype_of<Key>;
  sort_pairs(cpu_context(), {keys.data(), {n}, t}, {sorted.data(), {n}, t},
             {index.data(), {n}, DType::i64});
  EXPECT_EQ(index, want);
  std::stable_sort(keys.begin(), keys.end());
  EXPECT_EQ(sorted, keys);
}

template <class Key>
std::vector<Key> random_keys(size_t n, uint64_t seed, uint64_t range) {
  std::mt19937_64 engine(seed);
  std::vector<Key> keys(n);
  for (Key& k : keys) k = static_cast<Key>(range ? engine() % range : engine());
  return keys;
}

TEST(Sort, IsStableAndSignedForAnyRange) {
  for (const size_t n : {0, 1, 2, 7, 255, 1000, 70000})
    for (const uint64_t range : {1, 2, 200, 70000, 0}) {
      SCOPED_TRACE(::testing::Message() << n << " keys below " << range);
      expect_sorted(random_keys<int64_t>(n, n, range));
      expect_sorted(random_keys<int32_t>(n, n, range));
    }
  expect_sorted<int64_t>({5, INT64_MIN, -1, INT64_MAX, 0, -1, 5, INT64_MIN});
  expect_sorted<int32_t>({5, INT32_MIN, -1, INT32_MAX, 0, -1, 5, INT32_MIN});
}

TEST(ExclusiveScan, SumsWhatComesBefore) {
  std::vector<int64_t> x = {3, -1, 4, int64_t{1} << 60, 5}, y(5, 7);
  exclusive_scan(cpu_context(), {x.data(), {5}, DType::i64}, {y.data(), {5}, DType::i64});
  EXPECT_EQ(y, (std::vector<int64_t>{0, 3, 2, 6, (int64_t{1} << 60) + 6}));
  exclusive_scan(cpu_context(), {x.data(), {5}, DType::i64}, {x.data(), {5}, DType::i64});
  EXPECT_EQ(x, y);
}

TEST(TopK, IsThatOfAStableSort) {
  for (const DType t : kFloats)
    for (const int64_t n : {1, 3, 40, 700})
      for (const int64_t k : {int64_t{1}, int64_t{3}, n}) {
        if (k > n) continue;
        SCOPED_TRACE(label("top_k", best_isa(), t, n));
        Block x = Block::random(t, {5, n}, 3, 4), y(t, {5, k}), index(DType::i64, {5, k});
        for (int64_t i = 0; i < x.numel(); ++i) x.set(i, std::round(x[i]));  // ties
        top_k(cpu_context(), x.view(), y.view(), index.view());
        for (int64_t r = 0; r < 5; ++r) {
          std::vector<int64_t> want(static_cast<size_t>(n));
          std::iota(want.begin(), want.end(), 0);
          std::stable_sort(want.begin(), want.end(),
                           [&](int64_t a, int64_t b) { return x[r * n + a] > x[r * n + b]; });
          for (int64_t j = 0; j < k; ++j) {
            const int64_t at = want[static_cast<size_t>(j)];
            ASSERT_EQ(index[r * k + j], at) << "row " << r << " place " << j;
            ASSERT_EQ(y[r * k + j], x[r * n + at]);
          }
        }
      }
}

TEST(TopK, PutsNanFirstAndKnowsInfinity) {
  Block x(DType::f32, {1, 7}), y(DType::f32, {1, 7}), index(DType::i64, {1, 7});
  const double values[] = {-kInf, 2, kNan, kInf, -0.0, 0.0, kNan};
  for (int64_t i = 0; i < 7; ++i) x.set(i, values[i]);
  top_k(cpu_context(), x.view(), y.view(), index.view());
  const int64_t want[] = {2, 6, 3, 1, 4, 5, 0};
  for (int64_t i = 0; i < 7; ++i) EXPECT_EQ(index[i], want[i]) << i;
}

}  // namespace
}  // namespace pinion::kernels
