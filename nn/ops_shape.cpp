// SPDX-License-Identifier: Apache-2.0
// Operations that move elements: reshape, transpose, concat, slice, gather and embedding.
#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

// concat() of the parts in one type, where autocast has left them in several.
Tensor concat_cast(const amp::Casts& to, const Tensors& parts, int dim) {
  Tensors same;
  for (size_t i = 0; i < parts.size(); ++i) same.push_back(to(parts[i]));
  return concat(same, dim);
}

// The shape of parts joined along `dim`, all of them equal but for it.
Shape joined_shape(const Tensors& parts, int dim) {
  const Tensor& first = parts[0];
  int64_t extent = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor& part = parts[i];
    check_like("concat", "every part", part, first);
    PINION_CHECK(
        part.rank() == first.rank() && part.shape().with(dim, 0) == first.shape().with(dim, 0),
        "concat: expected parts equal but for dimension ", dim, ", got ", first.shape(), " and ",
        part.shape());
    extent += part.size(dim);
  }
  return first.shape().with(dim, extent);
}

Tensor swapped(const Tensor& x, int a, int b) {
  const Shape& s = x.shape();
  const int64_t m = s[a], n = s[b], between = s.numel(a + 1, b);
  const int64_t outer = s.numel(0, a), inner = s.numel(b + 1, s.rank());
  Tensor y(s.with(a, n).with(b, m), x.dtype(), x.device());
  on(x.device(), [&](auto& ctx) {
    kernels::swap_axes(ctx, with_shape(x.view(), {outer, m, between, n, inner}),
                       with_shape(y.mut(), {outer, n, between, m, inner}));
  });
  return y;
}

// Elements [begin, end) of dimension `dim`, in the same memory where they lie side by side.
Tensor part_of(const Tensor& x, int dim, int64_t begin, int64_t end) {
  if (dim == 0) return x.rows(begin, end);
  Tensor y(x.shape().with(dim, end - begin), x.dtype(), x.device());
  on(x.device(),
     [&](auto& ctx) { kernels::copy_from(ctx, fold(x.view(), dim), begin, fold(y.mut(), dim)); });
  return y;
}

// What has been gathered so far of a gradient, with dy added to its rows from `begin` on: many
// slices of one tensor fill one block between them. Undefined where nothing has come.
Tensor with_rows_added(Tensor so_far, const Tensor& dy, int64_t begin) {
  if (!so_far.defined()) return so_far;
  if (!detail::TensorImpl::unique(so_far)) so_far = so_far.clone();
  Tensor rows = so_far.rows(begin, begin + dy.size(0));
  on(dy.device(), [&](auto& ctx) { kernels::add(ctx, rows, dy, rows.mut()); });
  return so_far;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  check_defined("reshape", "x", x);
  PINION_CHECK(x.numel() == shape.numel(), "reshape: expected a shape of ", x.numel(),
               " elements for x ", x.shape(), ", got ", shape);
  return record("reshape", x.alias(shape), {&x},
                [shape = x.shape()](const Tensor& dy) -> Tensors { return {dy.alias(shape)}; });
}

Tensor transpose(const Tensor& x, int dim0, int dim1) {
  check_defined("transpose", "x", x);
  const int a = checked_dim("transpose", x, dim0), b = checked_dim("transpose", x, dim1);
  if (a == b) return x;
  const int low = a < b ? a : b, high = a < b ? b : a;
  return record("transpose", swapped(x, low, high), {&x},
                [low, high](const Tensor& dy) -> Tensors { return {swapped(dy, low, high)}; });
}

Tensor concat(const Tensors& parts, int dim) {
  PINION_CHECK(!parts.empty(), "concat: expected at least one part, got none");
  check_defined("concat", "every part", parts[0]);
  for (size_t i = 1; i < parts.size(); ++i)
    if (const amp::Casts to{amp::Op::concat, parts[0], parts[i]})
      return concat_cast(to, parts, dim);
  dim = checked_dim("concat", parts[0], dim);
  Tensor y(joined_shape(parts, dim), parts[0].dtype(), parts[0].device());
  on(y.device(), [&](auto& ctx) {
    int64_t at = 0;
    for (size_t i = 0; i < parts.size(); at += parts[i].size(dim), ++i)
      kernels::copy_into(ctx, fold(parts[i].view(), dim), at, fold(y.mut(), dim));
  });
  std::vector<std::pair<Input, int64_t>> inputs;  // with their extents of `dim`
  inputs.reserve(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) inputs.emplace_back(parts[i], parts[i].size(dim));
  return record("concat", std::move(y), parts,
                [inputs = std::move(inputs), dim](const Tensor& dy) -> Tensors {
                  Tensors gradients;
                  int64_t at = 0;
                  for (const auto& [input, extent] : inputs) {
                    Tensor dx;
                    if (input.wanted()) {
                      dx = input.gradient(dy.shape().with(dim, extent), dy);
                      on(dy.device(), [&](auto& ctx) {
                        kernels::copy_from(ctx, fold(dy.view(), dim), at, fold(dx.mut(), dim));
                      });
                    }
                    gradients.push_back(std::move(dx));
                    at += extent;
                  }
                  return gradients;
                });
}

Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end) {
  check_defined("slice", "x", x);
  dim = checked_dim("slice", x, dim);
  PINION_CHECK(0 <= begin && begin <= end && end <= x.size(dim),
               "slice: expected a range within [0, ", x.size(dim), "] of dimension ", dim,
               ", got [", begin, ", ", end, ")");
  return record("slice", part_of(x, dim, begin, end), {&x},
                [to_x = Input(x), shape = x.shape(), dim, begin](const Tensor& dy) -> Tensors {
                  if (dim == 0) {
                    Tensor gathered = with_rows_added(take_gradient_so_far(0), dy, begin);
                    if (gathered.defined()) return {std::move(gathered)};
                  }
                  Tensor dx = to_x.gradient(shape, dy);
                  on(dy.device(), [&](auto& ctx) {
                    kernels::fill(ctx, dx.mut(), 0);
                    kernels::copy_into(ctx, fold(dy.view(), dim), begin, fold(dx.mut(), dim));
                  });
                  return {std::move(dx)};
                });
}

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  check_floating("gather", "x", x);
  check_like("gather", "index", index, DType::i64, x);
  dim = checked_dim("gather", x, dim);
  PINION_CHECK(index.rank() == x.rank() && index.shape().with(dim, 0) == x.shape().with(dim, 0),
               "gather: expected an index equal to x ", x.shape(), " but for dimension ", dim,
               ", got ", index.shape());
  Tensor y(index.shape(), x.dtype(), x.device());
  on(x.device(), [&](auto& ctx) {
    kernels::gather(ctx, fold(x.view(), dim), fold(index.view(), dim), fold(y.mut(), dim));
  });
  return record("gather", std::move(y), {&x},
                [to_x = Input(x), shape = x.shape(), dim, index](const Tensor& dy) -> Tensors {
                  Tensor dx = to_x.gradient(shape, dy);
                  on(dy.device(), [&](auto& ctx) {
                    kernels::gather_backward(ctx, fold(index.view(), dim), fold(dy.view(), dim),
                                             fold(dx.mut(), dim));
                  });
                  return {std::move(dx)};
                });
}

Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding) {
  check_floating("embedding", "weight", weight);
  check_rank("embedding", "weight", weight, 2);
  check_like("embedding", "ids", ids, DType::i64, weight);
  PINION_CHECK(ids.rank() < Shape::kMaxRank, "embedding: expected ids of at most ",
               Shape::kMaxRank - 1, " dimensions, got ", ids.shape());
  PINION_CHECK(padding >= -1 && padding < weight.size(0), "embedding: expected padding in [-1, ",
               weight.size(0), "), got ", padding);
  int64_t dims[Shape::kMaxRank];
  for (int i = 0; i < ids.rank(); ++i) dims[i] = ids.size(i);
  dims[ids.rank()] = weight.size(1);
  Tensor y(Shape(dims, ids.rank() + 1), weight.dtype(), weight.device());
  const Shape flat{ids.numel()};
  on(weight.device(), [&](auto& ctx) {
    kernels::embedding_forward(ctx, weight, with_shape(ids.view(), flat), fold_rows(y.mut()));
  });
  return record("embedding", std::move(y), {&weight},
                [to_weight = Input(weight), shape = weight.shape(), ids,
                 padding](const Tensor& dy) -> Tensors {
                  Tensor dw = to_weight.gradient(shape, dy);
                  on(dy.device(), [&](auto& ctx) {
                    kernels::embedding_backward(ctx, with_shape(ids.view(), {ids.numel()}),
                                                fold_rows(dy.view()), padding, dw.mut());
                  });
                  return {std::move(dw)};
                });
}

}  // namespace pinion::nn
