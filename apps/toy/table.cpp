// SPDX-License-Identifier: Apache-2.0
// From rows of numbers to tensors: split, standardisation.
#include "pinion/apps/toy/table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pinion/accel/data/sampler.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

Split stratified_split(const std::vector<int64_t>& labels, double fraction, uint64_t seed) {
  PINION_CHECK(fraction >= 0 && fraction < 1, "stratified_split: fraction must lie in [0, 1), got ",
               fraction);
  std::vector<std::vector<int64_t>> of_class;
  for (size_t row = 0; row < labels.size(); ++row) {
    const auto c = static_cast<size_t>(labels[row]);
    if (of_class.size() <= c) of_class.resize(c + 1);
    of_class[c].push_back(static_cast<int64_t>(row));
  }
  Split split;
  for (size_t c = 0; c < of_class.size(); ++c) {
    const auto n = static_cast<int64_t>(of_class[c].size());
    if (n == 0) continue;
    accel::Order order(n, true, seed, accel::OrderUse::split);
    order.start(static_cast<int64_t>(c));
    const int64_t held_out =
        std::min<int64_t>(n - 1, std::llround(fraction * static_cast<double>(n)));
    const auto drawn = order.take(0, n);
    for (int64_t i = 0; i < n; ++i)
      (i < held_out ? split.test : split.train)
          .push_back(of_class[c][static_cast<size_t>(drawn[static_cast<size_t>(i)])]);
  }
  std::sort(split.train.begin(), split.train.end());
  std::sort(split.test.begin(), split.test.end());
  return split;
}

Preprocessing fit_preprocessing(const Table& table, const std::vector<int64_t>& rows) {
  PINION_CHECK(!rows.empty(), "fit_preprocessing: there must be at least one row");
  const size_t columns = table.columns.size();
  Preprocessing facts{table.columns,
                      table.named,
                      table.label_name,
                      table.classes,
                      std::vector<double>(columns),
                      std::vector<double>(columns)};
  const auto count = static_cast<double>(rows.size());
  // Dividing before adding keeps sums of very large numbers finite.
  for (const int64_t row : rows) {
    const double* v = table.values.data() + static_cast<size_t>(row) * columns;
    for (size_t c = 0; c < columns; ++c) facts.mean[c] += v[c] / count;
  }
  for (const int64_t row : rows) {
    const double* v = table.values.data() + static_cast<size_t>(row) * columns;
    for (size_t c = 0; c < columns; ++c)
      facts.std[c] += (v[c] - facts.mean[c]) * ((v[c] - facts.mean[c]) / count);
  }
  for (size_t c = 0; c < columns; ++c) {
    PINION_REQUIRE(data, std::isfinite(facts.mean[c]) && std::isfinite(facts.std[c]), table.path,
                   ": column ", quoted(table.columns[c]),
                   ": expected numbers whose variance is finite, got larger ones");
    facts.std[c] = std::sqrt(facts.std[c]);
    // A constant column, within the rounding of its mean, stays at zero.
    if (facts.std[c] <= 1e-12 * std::fabs(facts.mean[c]) || facts.std[c] == 0) facts.std[c] = 1;
  }
  return facts;
}

Tensor features_of(const Table& table, const Preprocessing& facts,
                   const std::vector<int64_t>& rows) {
  const size_t columns = table.columns.size();
  Tensor x({static_cast<int64_t>(rows.size()), static_cast<int64_t>(columns)});
  float* out = x.mut().as<float>();
  for (const int64_t row : rows) {
    const double* v = table.values.data() + static_cast<size_t>(row) * columns;
    // A row far outside what training saw is kept within what f32 can hold.
    for (size_t c = 0; c < columns; ++c)
      *out++ = static_cast<float>(std::clamp((v[c] - facts.mean[c]) / facts.std[c], -1e30, 1e30));
  }
  return x;
}

Tensor labels_of(const Table& table, const std::vector<int64_t>& rows) {
  Tensor y({static_cast<int64_t>(rows.size())}, DType::i64);
  int64_t* out = y.mut().as<int64_t>();
  for (const int64_t row : rows) *out++ = table.labels[static_cast<size_t>(row)];
  return y;
}

std::vector<int64_t> all_rows(const Table& table) {
  std::vector<int64_t> rows(static_cast<size_t>(table.rows));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

}  // namespace pinion::toy
