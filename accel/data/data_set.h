// SPDX-License-Identifier: Apache-2.0
// What a data loader reads from: anything with size() and get(indices). TensorDataset is the data
// set of tables that fit in memory.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "pinion/runtime/tensor.h"

namespace pinion::accel {

// get(indices) makes one batch of the samples with these indices, each in [0, size()), in their
// order. Several threads may call it at once. A data set is a handle, cheap to copy: a loader keeps
// its own. A batch can be default-constructed and moved.
template <class D>
concept Dataset = std::copyable<D> && requires(const D& data, std::span<const int64_t> indices) {
  { data.size() } -> std::convertible_to<int64_t>;
  { data.get(indices) } -> std::default_initializable;
};

// A data set whose samples differ from one epoch to the next, by augmentation say, may have
// get(indices, epoch) besides, which a loader then calls instead. The batch must be a function of
// these two alone: threads make batches in any order, and a resumed run makes some again.
template <class D>
concept EpochDataset = Dataset<D> &&
    requires(const D& data, std::span<const int64_t> indices, int64_t epoch) {
  { data.get(indices, epoch) } -> std::same_as<decltype(data.get(indices))>;
};

template <Dataset D>
using BatchOf = decltype(std::declval<const D&>().get(std::span<const int64_t>()));

struct Batch {
  Tensor x;  // [batch, ..]
  Tensor y;  // [batch, ..]
  int64_t size() const { return x.size(0); }
};

// Rows of features with their labels, of any dtypes, in host memory.
class TensorDataset {
 public:
  TensorDataset(Tensor features, Tensor labels);  // [n, ..] and [n, ..]

  int64_t size() const { return size_; }
  Batch get(std::span<const int64_t> indices) const;
  const Tensor& features() const { return features_; }
  const Tensor& labels() const { return labels_; }

 private:
  Tensor features_, labels_;
  int64_t size_ = 0;
  int64_t feature_bytes_ = 0, label_bytes_ = 0;  // of a row
};

// The rows of x [n, ..] at `indices`, as a new tensor [indices, ..] in host memory.
Tensor gather_rows(const Tensor& x, std::span<const int64_t> indices);

}  // namespace pinion::accel
