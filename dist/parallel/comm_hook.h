// SPDX-License-Identifier: Apache-2.0
// CommHook: how the ranks' gradients of one bucket become one. The plain all-reduce, and three that
// send fewer bytes: 16-bit floats, and PowerSGD's low-rank matrices.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// A range of gradients that are reduced together: neighbours of one arena.
struct Bucket {
  struct Item {
    std::string name;
    Tensor grad;  // of the parameter's shape, in `grads`
  };
  size_t index;             // among the reducer's buckets
  Tensor grads;             // [n], padding between parameters included
  std::vector<Item> items;  // in the order of memory
};

// One object serves the buckets of one reducer. All ranks make the same calls in the same order.
class CommHook {
 public:
  CommHook() = default;
  virtual ~CommHook() = default;
  CommHook(const CommHook&) = delete;
  CommHook& operator=(const CommHook&) = delete;

  // Once, when the buckets are known: the place to allocate memory that all ranks reach.
  virtual void prepare(std::span<const Bucket> buckets, ProcessGroup& group);
  // Begins to reduce the bucket, whose gradients are this rank's; op is sum or mean.
  virtual void start(const Bucket& bucket, ReduceOp op, ProcessGroup& group) = 0;
  // Afterwards bucket.grads holds the reduction, the same bits on every rank. Called for every
  // bucket that was started, in the order of start().
  virtual void finish(const Bucket& bucket, ReduceOp op, ProcessGroup& group) = 0;
};

// The gradients as they are.
std::unique_ptr<CommHook> all_reduce_hook();

// As bf16 or f16, half the bytes of f32. The sum is taken in f32 and rounded once where the backend
// can. f16 ends at 65504: use it with a mean, or with gradients known to be small.
std::unique_ptr<CommHook> bf16_compress_hook();
std::unique_ptr<CommHook> fp16_compress_hook();

// PowerSGD (Vogels et al. 2019): a gradient matrix M [m,n] (the first dimension, and the rest) is
// sent as P = M Q [m,r] and Q = M^T P [n,r], P's columns made orthonormal in between. What P Q^T
// lacks is kept and added to the next step's gradient (error feedback), and Q is where the next
// step starts (warm start). f32 only; vectors, and matrices that would not shrink, go as they are.
struct PowerSgdOptions {
  int64_t rank = 1;                 // r
  int64_t start_iteration = 10;     // reductions before it are plain; at least 2 for torch's sake
  double min_compression_rate = 2;  // compressed when (m + n) r rate < m n
  bool error_feedback = true, warm_start = true;
  uint64_t seed = 0;  // of the first Q, equal on all ranks
};
class PowerSgdHook final : public CommHook {
 public:
  explicit PowerSgdHook(const PowerSgdOptions& options = {});
  ~PowerSgdHook() override;
  void prepare(std::span<const Bucket> buckets, ProcessGroup& group) override;
  void start(const Bucket& bucket, ReduceOp op, ProcessGroup& group) override;
  void finish(const Bucket& bucket, ReduceOp op, ProcessGroup& group) override;
  // What this rank still owes to bucket `index`, in the layout of Bucket::grads; undefined before
  // the first compressed reduction.
  Tensor error(size_t index) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pinion::dist
