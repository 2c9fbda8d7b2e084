// SPDX-License-Identifier: Apache-2.0
// Finds the batch norms of a module and gives them a sum over ranks.
#include "pinion/dist/parallel/sync_batch_norm.h"

namespace pinion::dist {
namespace {

class Converter final : public nn::Fields::Visitor {
 public:
  explicit Converter(std::shared_ptr<ProcessGroup> group) : group_(std::move(group)) {}
  void module(const std::string& /*name*/, nn::Module& module) override { convert(module); }
  void convert(nn::Module& module) {
    auto* norm = dynamic_cast<nn::BatchNorm2d*>(&module);
    if (!norm) return;
    ++count;
    norm->sum_over_parts = [group = group_](const Tensor& sums) { group->all_reduce(sums).wait(); };
  }
  int count = 0;

 private:
  std::shared_ptr<ProcessGroup> group_;
};

}  // namespace

int convert_sync_batchnorm(nn::Module& module, std::shared_ptr<ProcessGroup> group) {
  PINION_CHECK(group, "convert_sync_batchnorm: expected a process group, got none");
  Converter converter(std::move(group));
  converter.convert(module);
  nn::Fields all(converter);
  module.fields(all);
  return converter.count;
}

SyncBatchNorm2d::SyncBatchNorm2d(int64_t channels, std::shared_ptr<ProcessGroup> group,
                                 double epsilon, double share)
    : BatchNorm2d(channels, epsilon, share) {
  convert_sync_batchnorm(*this, std::move(group));
}

}  // namespace pinion::dist
