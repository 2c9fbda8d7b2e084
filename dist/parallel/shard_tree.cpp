// SPDX-License-Identifier: Apache-2.0
#include "pinion/dist/parallel/shard_tree.h"

#include <algorithm>
#include <bit>

#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

void add_to(Tensor& sum, const Tensor& x) {
  on(sum.device(), [&](auto& ctx) { kernels::add(ctx, sum, x, sum.mut()); });
}

}  // namespace

ShardTree::ShardTree(ProcessGroup& group, int shards)
    : group_(group), turns_(shards / group.size()) {
  PINION_REQUIRE(config, shards > 0 && std::has_single_bit(static_cast<unsigned>(shards)),
                 "virtual_shards: expected a power of two, got ", shards);
  PINION_REQUIRE(config, shards % group.size() == 0,
                 "virtual_shards: expected a number of ranks that divides ", shards, ", got ",
                 group.size());
  list_.resize(static_cast<size_t>(std::max(turns_ / 2, 1)));
}

void ShardTree::add(int turn, const std::vector<Tensor>& terms) {
  auto at = static_cast<size_t>(turn);
  std::vector<Tensor>& first = list_[at % list_.size()];
  if (at < list_.size()) {
    first.clear();
    for (const Tensor& t : terms) first.push_back(t.alias({t.numel()}).clone());
    return;
  }
  at -= list_.size();
  for (size_t i = 0; i < terms.size(); ++i) add_to(first[i], terms[i].alias({terms[i].numel()}));
  // Whatever of the list is in the upper half of what is still to fold has its partner there.
  for (size_t half = list_.size() / 2; half > 0 && at >= half; half /= 2) {
    const std::vector<Tensor> upper = std::move(list_[at]);
    at -= half;
    for (size_t i = 0; i < upper.size(); ++i) add_to(list_[at][i], upper[i]);
  }
}

void ShardTree::finish(const std::vector<Tensor>& sums) {
  for (size_t i = 0; i < sums.size(); ++i) {
    Tensor x = list_[0][i];
    if (group_.size() > 1) fold_across_ranks(x);
    Tensor to = sums[i];
    to.copy_(x.alias(to.shape()));
  }
  list_[0].clear();
}

// Each rank folds a slice of everyone's: as many bytes as an all-reduce sends.
void ShardTree::fold_across_ranks(Tensor& x) {
  const int64_t ranks = group_.size(), slice = (x.numel() + ranks - 1) / ranks;
  Tensor whole = Tensor::zeros({ranks * slice}, x.dtype(), x.device());
  whole.rows(0, x.numel()).copy_(x);
  Tensor of_all = Tensor::like(whole);  // my slice, by rank
  group_.all_to_all(of_all, whole).wait();
  (void)of_all.mut();  // the group may have written it unseen
  for (int64_t half = ranks / 2; half > 0; half /= 2) {
    Tensor lower = of_all.rows(0, half * slice);
    add_to(lower, of_all.rows(half * slice, 2 * half * slice));
  }
  group_.all_gather(whole, of_all.rows(0, slice)).wait();
  x = whole.rows(0, x.numel());
}

}  // namespace pinion::dist
