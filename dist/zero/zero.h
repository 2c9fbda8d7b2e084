// SPDX-License-Identifier: Apache-2.0
// ZeRO (Rajbhandari et al. 2020): every rank keeps and steps its shard of the optimizer state
// (stage 1), of the gradients as well (2), and of the parameters (3). The training loop stays as it
// is: Zero joins an optimizer to the other ranks' and takes over its memory, and everything that
// asks the optimizer, such as clip_grad_norm_ and GradScaler, then sees all shards.
//
//   Mlp model({784, 4096, 10});
//   optim::Adam adam(model.named_parameters());
//   dist::Zero zero(model, adam, group, {.stage = 2});     // the same on every rank
//   loss = ...; backward(loss); adam.step(); adam.zero_grad();
//
// Layout: the parameters of each arena are cut into segments of about bucket_bytes (at stage 3 also
// one for each unit), each padded so that every rank owns one piece of equal size of each segment.
// A segment's gradients are reduced as soon as all of them are there, in an order that all ranks
// share. At stage 1 on `local` and `shm` the step does that itself, chunk by chunk, and gathers the
// new weights as it goes (step.cpp), unless something asks for the gradients before: clipping,
// GradScaler, synchronize().
//
// Bytes per rank for Psi f32 parameters, Adam, N ranks: stage 1 8 Psi + 8 Psi / N; stage 2 4 Psi +
// 12 Psi / N and the gradients of the segments under way, which are one on `shm` and `local` and
// two elsewhere if backward() meets parameters in the reverse of the module's order; stage 3
// 16 Psi / N and as much, and the parameters of the units that are gathered. The model is whole
// while Zero is being made.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "pinion/dist/process_group.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::dist {

struct ZeroOptions {
  int stage = 2;                             // 1, 2 or 3
  int64_t bucket_bytes = int64_t{25} << 20;  // of a segment; a larger parameter is one by itself
  std::vector<nn::Module*> units;            // stage 3: what run() gathers; none: the whole model
  int64_t persistent_elements = 100'000;     // stage 3: smaller units stay whole on every rank
  bool prefetch = true;  // stage 3: gathers the next unit ahead of its use, by mpi and nccl
  ReduceOp reduce = ReduceOp::mean;  // of gradients: mean or sum
};

// The stage that a configuration file asks for; 0 is plain data parallelism. zero_stage is "0" to
// "3". FSDP's fsdp_sharding_strategy is FULL_SHARD (3), SHARD_GRAD_OP (2) or NO_SHARD (0), in any
// case, or its number 1, 2, 3; fsdp_reshard_after_forward is true (3) or false (2). Throws Error
// (config) for anything else, with the reason for HYBRID_SHARD and its kin.
int stage_of_zero(std::string_view zero_stage);
int stage_of_fsdp(std::string_view strategy);

class Zero {
 public:
  // Copies rank 0's parameters and buffers to all ranks. `optimizer` has its options and learning
  // rates as usual; state it has already is kept. Both must outlive this object, and `group` must
  // outlive the optimizer. Throws Error (internal) for a capturable optimizer, one that is sharded
  // already, or gradients that are there already.
  Zero(nn::Module& model, optim::Optimizer& optimizer, ProcessGroup& group, ZeroOptions options);
  ~Zero();
  Zero(const Zero&) = delete;
  Zero& operator=(const Zero&) = delete;

  int stage() const;

  // Accumulation of gradients over several backward() before a step. Stage 1: set_sync(false) for
  // all but the last, which then reduces the sums. Stages 2 and 3 always reduce and keep sums of
  // their shards; call synchronize() after each backward() but the last (all ranks alike; it does
  // nothing at stage 1 while sync is off).
  void set_sync(bool on);
  bool sync() const;
  void synchronize();

  // Runs f() with the parameters of `unit` (one of ZeroOptions::units) gathered, and again while
  // backward() passes what f() recorded. Calls f() alone below stage 3 and for units that are
  // whole. Parameters of a unit must be touched nowhere else: their memory is gone.
  //   for (Block& block : model.blocks) x = zero.run(block, [&] { return block(x); });
  Tensor run(nn::Module& unit, const std::function<Tensor()>& f);

  // While it lives, all parameters are whole on every rank, for weight files and evaluation; what
  // is written into them meanwhile is kept. All ranks make it and drop it together.
  class Whole {
   public:
    explicit Whole(Zero& zero);
    ~Whole();
    Whole(const Whole&) = delete;
    Whole& operator=(const Whole&) = delete;

   private:
    Zero& zero_;
  };

  // Checkpoints hold logical tensors, so any number of ranks can load them. This rank's slices of
  // the optimizer state are optimizer.state_slices(), of the parameters parameter_slices() (views
  // of the live memory). Either the owner of each slice writes it, or state() gathers the tensors
  // whole, on every rank (all call it together). Loading needs no other rank:
  // optimizer.load_state() takes whole tensors, optimizer.load_slices() and load_parameter_slices()
  // ask for each slice.
  std::vector<optim::StateSlice> parameter_slices();
  void load_parameter_slices(const optim::ReadSlice& read);
  std::vector<nn::NamedTensor> state();
  // In the middle of an accumulation, at stages 2 and 3: after synchronize() the sums so far are
  // the gradients of the parts of the optimizer's arenas. Once they are written back there, with
  // Arena::set_reached(), this makes them the sums that later gradients are added to.
  void keep_sums();

  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace pinion::dist
