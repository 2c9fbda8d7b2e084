// SPDX-License-Identifier: Apache-2.0
// The plain all-reduce, and the one that halves the bytes.
#include "pinion/dist/parallel/comm_hook.h"

#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

class AllReduceHook final : public CommHook {
 public:
  void prepare(std::span<const Bucket> buckets, ProcessGroup& /*group*/) override {
    works_.resize(buckets.size());
  }
  void start(const Bucket& bucket, ReduceOp op, ProcessGroup& group) override {
    works_[bucket.index] = group.all_reduce(bucket.grads, op);
  }
  void finish(const Bucket& bucket, ReduceOp /*op*/, ProcessGroup& /*group*/) override {
    works_[bucket.index].wait();
  }

 private:
  std::vector<Work> works_;
};

class CastHook final : public CommHook {
 public:
  explicit CastHook(DType wire) : wire_(wire) {}

  void prepare(std::span<const Bucket> buckets, ProcessGroup& group) override {
    works_.assign(buckets.size(), {});  // a reducer before had other buckets
    sent_.clear();
    for (const Bucket& b : buckets)
      sent_.push_back(group.symmetric(b.grads.shape(), wire_, b.grads.device()));
  }
  void start(const Bucket& bucket, ReduceOp op, ProcessGroup& group) override {
    Tensor& sent = sent_[bucket.index];
    on(sent.device(), [&](auto& ctx) { kernels::cast(ctx, bucket.grads, sent.mut()); });
    works_[bucket.index] = group.all_reduce(sent, op);
  }
  void finish(const Bucket& bucket, ReduceOp /*op*/, ProcessGroup& /*group*/) override {
    works_[bucket.index].wait();
    Tensor grads = bucket.grads;
    on(grads.device(), [&](auto& ctx) { kernels::cast(ctx, sent_[bucket.index], grads.mut()); });
  }

 private:
  DType wire_;
  std::vector<Tensor> sent_;  // by bucket
  std::vector<Work> works_;
};

}  // namespace

void CommHook::prepare(std::span<const Bucket> /*buckets*/, ProcessGroup& /*group*/) {}

std::unique_ptr<CommHook> all_reduce_hook() { return std::make_unique<AllReduceHook>(); }
std::unique_ptr<CommHook> bf16_compress_hook() { return std::make_unique<CastHook>(DType::bf16); }
std::unique_ptr<CommHook> fp16_compress_hook() { return std::make_unique<CastHook>(DType::f16); }

}  // namespace pinion::dist
