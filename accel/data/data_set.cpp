// SPDX-License-Identifier: Apache-2.0
// Gathers rows of tensors into batches, without a heap block or a call per row.
#include "pinion/accel/data/data_set.h"

#include <cstring>

namespace pinion::accel {

namespace {

template <size_t bytes>
PINION_INLINE void copy_fixed(char* to, const char* from) {
  std::memcpy(to, from, bytes);
}

// Rows of a fixed size known to the compiler: labels and scalars.
template <size_t bytes>
void gather_fixed(const char* from, std::span<const int64_t> indices, char* to) {
  for (const int64_t i : indices) {
    copy_fixed<bytes>(to, from + i * static_cast<int64_t>(bytes));
    to += bytes;
  }
}

// Short rows of at least 16 bytes: blocks of 16, the last one overlapping the one before it. A call
// of memcpy per row would cost more than the copy.
void gather_short(const char* from, std::span<const int64_t> indices, int64_t bytes, char* to) {
  for (const int64_t i : indices) {
    const char* row = from + i * bytes;
    for (int64_t at = 0; at + 16 <= bytes; at += 16) copy_fixed<16>(to + at, row + at);
    copy_fixed<16>(to + bytes - 16, row + bytes - 16);
    to += bytes;
  }
}

void gather_bytes(const char* from, std::span<const int64_t> indices, int64_t bytes, char* to) {
  constexpr int64_t kShortRow = 512;  // bytes; above it memcpy is at its full speed
  if (bytes == 4) return gather_fixed<4>(from, indices, to);
  if (bytes == 8) return gather_fixed<8>(from, indices, to);
  if (bytes >= 16 && bytes <= kShortRow) return gather_short(from, indices, bytes, to);
  for (const int64_t i : indices) {
    std::memcpy(to, from + i * bytes, static_cast<size_t>(bytes));
    to += bytes;
  }
}

// [n, ..] with `rows` rows instead of n.
Tensor rows_like(const Tensor& x, size_t rows) {
  return Tensor(x.shape().with(0, static_cast<int64_t>(rows)), x.dtype());
}

void gather_into(const Tensor& x, std::span<const int64_t> indices, int64_t row_bytes, Tensor& y) {
  gather_bytes(static_cast<const char*>(x.view().data), indices, row_bytes,
               static_cast<char*>(y.mut().data));
}

int64_t row_bytes_of(const Tensor& x) { return x.shape().numel(1, x.rank()) * size_of(x.dtype()); }

void check_host_rows(const char* op, const char* name, const Tensor& x) {
  PINION_CHECK(x.defined() && x.rank() >= 1, op, ": ", name, " must be a tensor [n, ..]");
  PINION_CHECK(x.device() == Device{}, op, ": ", name, " must be in host memory, got ",
               x.device().name());
}

}  // namespace

TensorDataset::TensorDataset(Tensor features, Tensor labels)
    : features_(std::move(features)), labels_(std::move(labels)) {
  check_host_rows("TensorDataset", "features", features_);
  check_host_rows("TensorDataset", "labels", labels_);
  PINION_CHECK(features_.size(0) == labels_.size(0),
               "TensorDataset: features and labels must have as many rows, got ", features_.shape(),
               " and ", labels_.shape());
  size_ = features_.size(0);
  feature_bytes_ = row_bytes_of(features_);
  label_bytes_ = row_bytes_of(labels_);
}

Batch TensorDataset::get(std::span<const int64_t> indices) const {
  Batch batch{rows_like(features_, indices.size()), rows_like(labels_, indices.size())};
  gather_into(features_, indices, feature_bytes_, batch.x);
  gather_into(labels_, indices, label_bytes_, batch.y);
  return batch;
}

Tensor gather_rows(const Tensor& x, std::span<const int64_t> indices) {
  check_host_rows("gather_rows", "x", x);
  const int64_t n = x.size(0);
  for (const int64_t i : indices)
    PINION_CHECK(i >= 0 && i < n, "gather_rows: index must lie in [0, ", n, "), got ", i);
  Tensor y = rows_like(x, indices.size());
  gather_into(x, indices, row_bytes_of(x), y);
  return y;
}

}  // namespace pinion::accel
