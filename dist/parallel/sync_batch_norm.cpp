// SPDX-License-Identifier: Apache-2.0
// Finds the batch norms of a module, and gives them a sum over ranks.
#include "pinion/dist/parallel/sync_batch_norm.h"

#include <algorithm>

namespace pinion::dist {
namespace {

class BatchNorms final : public nn::Fields::Visitor {
 public:
  explicit BatchNorms(nn::Module& root) {
    add(root);
    nn::Fields all(*this);
    root.fields(all);
  }
  void module(const std::string& /*name*/, nn::Module& module) override { add(module); }
  std::vector<nn::BatchNorm2d*> found;

 private:
  void add(nn::Module& module) {
    if (auto* norm = dynamic_cast<nn::BatchNorm2d*>(&module)) found.push_back(norm);
  }
};

}  // namespace

int convert_sync_batchnorm(nn::Module& module, std::shared_ptr<ProcessGroup> group) {
  PINION_CHECK(group, "convert_sync_batchnorm: expected a process group, got none");
  const BatchNorms norms(module);
  for (nn::BatchNorm2d* norm : norms.found)
    norm->sum_over_parts = [group](const Tensor& sums) { group->all_reduce(sums).wait(); };
  return static_cast<int>(norms.found.size());
}

bool has_sync_batchnorm(nn::Module& module) {
  const BatchNorms norms(module);
  return std::any_of(norms.found.begin(), norms.found.end(),
                     [](const nn::BatchNorm2d* norm) { return norm->sum_over_parts != nullptr; });
}

SyncBatchNorm2d::SyncBatchNorm2d(int64_t channels, std::shared_ptr<ProcessGroup> group,
                                 double epsilon, double share)
    : BatchNorm2d(channels, epsilon, share) {
  convert_sync_batchnorm(*this, std::move(group));
}

}  // namespace pinion::dist
