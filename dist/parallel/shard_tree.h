// SPDX-License-Identifier: Apache-2.0
// ShardTree: sums over virtual shards whose bits do not depend on how many ranks there are. The
// list of the shards' tensors is folded in half, shard v + V/2 onto shard v, until one is left.
// Of W ranks, rank r has the shards r, r + W, r + 2W, …: it folds its own as they come, which
// leaves a list of W, and that is folded across the ranks.
#pragma once

#include <vector>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

class ShardTree {
 public:
  // Throws Error (config) unless `shards` is a power of two that the number of ranks divides.
  ShardTree(ProcessGroup& group, int shards);

  int turns() const { return turns_; }  // shards of each rank
  // What shard turn * ranks + rank adds, for each turn from 0 on. Tensors of the same shapes and
  // types every time; they are copied, or added to earlier ones, before the call returns.
  void add(int turn, const std::vector<Tensor>& terms);
  // [all] After the last turn, writes the sums over all shards, the same bits on every rank.
  void finish(const std::vector<Tensor>& sums);

 private:
  void fold_across_ranks(Tensor& x);

  ProcessGroup& group_;
  int turns_;
  std::vector<std::vector<Tensor>> list_;  // of this rank, half as long once it is full
};

}  // namespace pinion::dist
