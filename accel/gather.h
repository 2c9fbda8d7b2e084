// SPDX-License-Identifier: Apache-2.0
// Tensors of all ranks put together: what Accelerator's gather, reduce and pad_across_processes do.
// Results are outside the graph and on the device of x. Every rank must call with the same dtype
// and, but for the dimension that is padded, the same shape.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pinion/dist/process_group.h"

namespace pinion::accel {

Tensor gather(dist::ProcessGroup& group, const Tensor& x);  // [n,..] -> [ranks n,..]; [] -> [ranks]
// The first keep[r] rows of each rank r, rank by rank; x has rows[rank] >= keep[rank] of them.
Tensor gather_rows(dist::ProcessGroup& group, const Tensor& x, std::span<const int64_t> rows,
                   std::span<const int64_t> keep);
// Of every element over the ranks, times scale; integers only with scale 1.
Tensor reduce(dist::ProcessGroup& group, const Tensor& x, dist::ReduceOp op, double scale = 1);

struct PadOptions {
  int dim = 0;
  double value = 0;
  bool first = false;  // in front of what is there
};
// x with its dimension `dim` as long as the longest of any rank.
Tensor pad_across_processes(dist::ProcessGroup& group, const Tensor& x,
                            const PadOptions& options = {});

// [rank][i]: small numbers and texts of every rank; `device` is where the group's tensors live.
std::vector<std::vector<int64_t>> gather_numbers(dist::ProcessGroup& group, Device device,
                                                 const std::vector<int64_t>& mine);
std::vector<std::string> gather_text(dist::ProcessGroup& group, Device device,
                                     const std::string& mine);

}  // namespace pinion::accel
