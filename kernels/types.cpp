// SPDX-License-Identifier: Apache-2.0
// The parts of the vocabulary that need no inlining: names, edits and failures.
#include "pinion/kernels/types.h"

namespace pinion {

const char* name_of(DType t) {
  constexpr const char* names[] = {"f32", "f64", "bf16", "f16", "i64", "i32", "u8", "bool"};
  return static_cast<size_t>(t) < std::size(names) ? names[static_cast<size_t>(t)] : "?";
}

Shape Shape::with(int dim, int64_t extent) const {
  (void)(*this)[dim];  // checks the index
  Shape out = *this;
  out.dims_[dim < 0 ? dim + rank_ : dim] = extent;
  return Shape(out.dims_, rank_);
}

Shape Shape::without(int dim) const {
  (void)(*this)[dim];
  int64_t dims[kMaxRank];
  int rank = 0;
  for (int i = 0; i < rank_; ++i)
    if (i != (dim < 0 ? dim + rank_ : dim)) dims[rank++] = dims_[i];
  return {dims, rank};
}

void Shape::fail_shape(const int64_t* dims, int64_t rank) {
  std::string text;
  for (int64_t i = 0; i < rank && i < 16; ++i) text += (i ? "," : "") + std::to_string(dims[i]);
  fail(ErrorKind::internal,
       {"shape: expected at most ", kMaxRank,
        " extents >= 0 whose product is at most 2^59 elements, got [", text, "] of rank ", rank});
}

void Shape::fail_index(int i) const {
  fail(ErrorKind::internal, {"shape: dimension index must lie in [", -rank_, ", ", rank_,
                             ") for shape ", *this, ", got ", i});
}

void fail_dtype(const char* who, DType got, const char* expected) {
  fail(ErrorKind::internal, {who, ": expected ", expected, ", got ", got});
}

}  // namespace pinion
