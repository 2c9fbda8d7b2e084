// SPDX-License-Identifier: Apache-2.0
// What the files nn/ops_*.cpp share: argument checks whose texts read alike, folded views, and what
// a closure keeps of an input.
#pragma once

#include "pinion/runtime/autograd.h"
#include "pinion/runtime/tensor.h"

namespace pinion::nn {

PINION_INLINE void check_defined(const char* op, const char* name, const Tensor& x) {
  PINION_CHECK(x.defined(), op, ": expected a tensor for ", name, ", got an undefined one");
}

PINION_INLINE void check_floating(const char* op, const char* name, const Tensor& x) {
  check_defined(op, name, x);
  PINION_CHECK(is_floating(x.dtype()), op, ": expected ", name, " of a floating type, got ",
               x.dtype());
}

PINION_INLINE void check_device(const char* op, const char* name, const Tensor& x,
                                const Tensor& like) {
  PINION_CHECK(x.device() == like.device(), op, ": expected ", name, " on ", like.device().name(),
               ", got ", x.device().name());
}

// x is defined, of that dtype, and on the device of `like`.
PINION_INLINE void check_like(const char* op, const char* name, const Tensor& x, DType dtype,
                              const Tensor& like) {
  check_defined(op, name, x);
  PINION_CHECK(x.dtype() == dtype, op, ": expected ", name, " of type ", dtype, ", got ",
               x.dtype());
  check_device(op, name, x, like);
}

PINION_INLINE void check_like(const char* op, const char* name, const Tensor& x,
                              const Tensor& like) {
  check_like(op, name, x, like.dtype(), like);
}

PINION_INLINE void check_shape(const char* op, const char* name, const Tensor& x,
                               const Shape& shape) {
  PINION_CHECK(x.shape() == shape, op, ": expected ", name, " ", shape, ", got ", x.shape());
}

PINION_INLINE void check_rank(const char* op, const char* name, const Tensor& x, int rank) {
  PINION_CHECK(x.rank() == rank, op, ": expected ", name, " of ", rank, " dimensions, got ",
               x.shape());
}

// The dimension that `dim` names, -1 being the last.
PINION_INLINE int checked_dim(const char* op, const Tensor& x, int dim) {
  PINION_CHECK(dim >= -x.rank() && dim < x.rank(), op, ": expected a dimension of ", x.shape(),
               ", got ", dim);
  return dim < 0 ? dim + x.rank() : dim;
}

// The block of v as [outer, n, inner], where n is dimension `dim`.
template <class Void>
PINION_INLINE BasicView<Void> fold(const BasicView<Void>& v, int dim) {
  const Shape& s = v.shape;
  return {v.data, {s.numel(0, dim), s[dim], s.numel(dim + 1, s.rank())}, v.dtype};
}

// The block of v as [rows, cols], cols being the last dimension.
template <class Void>
PINION_INLINE BasicView<Void> fold_rows(const BasicView<Void>& v) {
  return {v.data, {v.rows(), v.cols()}, v.dtype};
}

template <class Void>
PINION_INLINE BasicView<Void> with_shape(const BasicView<Void>& v, const Shape& shape) {
  return {v.data, shape, v.dtype};
}

// What a closure keeps of an input in order to make its gradient: whether one is wanted, and the
// handle of a leaf, whose slot may take it. Of an input that an op made it keeps nothing, so that
// the contents are freed as soon as no forward or backward computation needs them.
class Input {
 public:
  PINION_INLINE explicit Input(const Tensor& x) : wanted_(x.requires_grad()) {
    if (wanted_ && !x.node()) leaf_ = x;
  }
  PINION_INLINE bool wanted() const { return wanted_; }
  // Memory for the gradient, given what the input looks like.
  PINION_INLINE Tensor gradient(const Shape& shape, DType dtype, Device device) const {
    return leaf_.defined() ? gradient_for(leaf_) : Tensor(shape, dtype, device);
  }
  PINION_INLINE Tensor gradient(const Shape& shape, const Tensor& like) const {
    return gradient(shape, like.dtype(), like.device());
  }
  PINION_INLINE Tensor gradient(const Tensor& like) const { return gradient(like.shape(), like); }

 private:
  Tensor leaf_;
  bool wanted_;
};

// x where the backward pass will read it, nothing otherwise.
PINION_INLINE Tensor saved(const Tensor& x, bool needed) { return needed ? x : Tensor(); }

}  // namespace pinion::nn
