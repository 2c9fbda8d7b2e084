// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/gather.h"

#include <algorithm>
#include <cstring>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

namespace {

// x continued to `size` along dim.
Tensor padded_to(const Tensor& x, int64_t size, const PadOptions& options) {
  if (x.size(options.dim) == size) return x;
  const NoGrad no_grad;
  const Tensor padding = Tensor::full(x.shape().with(options.dim, size - x.size(options.dim)),
                                      options.value, x.dtype(), x.device());
  return options.first ? nn::concat({padding, x.detach()}, options.dim)
                       : nn::concat({x.detach(), padding}, options.dim);
}

}  // namespace

Tensor gather(dist::ProcessGroup& group, const Tensor& x) {
  PINION_CHECK(x.defined(), "gather: expected a tensor, got an undefined one");
  const Shape one = x.rank() == 0 ? Shape{1} : x.shape();
  if (group.size() == 1) return x.alias(one);
  Tensor all(one.with(0, one[0] * group.size()), x.dtype(), x.device());
  group.all_gather(all, x.alias(one)).wait();
  return all;
}

Tensor gather_rows(dist::ProcessGroup& group, const Tensor& x, std::span<const int64_t> rows,
                   std::span<const int64_t> keep) {
  const int64_t most = *std::max_element(rows.begin(), rows.end());
  const Tensor all = gather(group, padded_to(x, most, {}));
  Tensors parts;
  int64_t kept = 0;
  for (size_t r = 0; r < keep.size(); ++r) {
    const int64_t begin = static_cast<int64_t>(r) * most;
    if (keep[r] > 0) parts.push_back(all.rows(begin, begin + keep[r]));
    kept += keep[r];
  }
  if (kept == all.size(0)) return all;
  const NoGrad no_grad;
  return parts.empty() ? all.rows(0, 0) : nn::concat(parts, 0);
}

Tensor reduce(dist::ProcessGroup& group, const Tensor& x, dist::ReduceOp op, double scale) {
  PINION_CHECK(x.defined(), "reduce: expected a tensor, got an undefined one");
  PINION_CHECK(scale == 1 || is_floating(x.dtype()),
               "reduce: expected a floating tensor to scale, got ", x.dtype());
  Tensor y = x.clone();
  if (group.size() > 1) group.all_reduce(y, op).wait();
  if (scale != 1) on(y.device(), [&](auto& ctx) { kernels::affine(ctx, y, scale, 0, y.mut()); });
  return y;
}

Tensor pad_across_processes(dist::ProcessGroup& group, const Tensor& x, const PadOptions& options) {
  PINION_CHECK(x.defined() && options.dim >= 0 && options.dim < x.rank(),
               "pad_across_processes: expected a tensor with a dimension ", options.dim);
  int64_t longest = 0;
  for (const auto& of : gather_numbers(group, x.device(), {x.size(options.dim)}))
    longest = std::max(longest, of[0]);
  return padded_to(x, longest, options);
}

std::vector<std::vector<int64_t>> gather_numbers(dist::ProcessGroup& group, Device device,
                                                 const std::vector<int64_t>& mine) {
  const Tensor x = Tensor::of(mine, {static_cast<int64_t>(mine.size())}).to(device);
  const std::vector<int64_t> all = gather(group, x).to({}).values<int64_t>();
  std::vector<std::vector<int64_t>> out;
  for (auto at = all.begin(); at != all.end(); at += static_cast<std::ptrdiff_t>(mine.size()))
    out.emplace_back(at, at + static_cast<std::ptrdiff_t>(mine.size()));
  return out;
}

std::vector<std::string> gather_text(dist::ProcessGroup& group, Device device,
                                     const std::string& mine) {
  const auto sizes = gather_numbers(group, device, {static_cast<int64_t>(mine.size())});
  int64_t longest = 1;
  for (const auto& of : sizes) longest = std::max(longest, of[0]);
  std::vector<uint8_t> bytes(mine.begin(), mine.end());
  bytes.resize(static_cast<size_t>(longest));
  const auto all = gather(group, Tensor::of(bytes, {longest}).to(device)).to({}).values<uint8_t>();
  std::vector<std::string> out;
  for (size_t r = 0; r < sizes.size(); ++r) {
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(r) * longest;
    out.emplace_back(at, at + static_cast<std::ptrdiff_t>(sizes[r][0]));
  }
  return out;
}

}  // namespace pinion::accel
