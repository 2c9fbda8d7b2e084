// SPDX-License-Identifier: Apache-2.0
// Reducer: makes the gradients of all ranks one while backward() still runs. Gradients lie in the
// arenas of an optimizer; a bucket is a range of an arena, of a size worth sending, and is reduced
// when the last of its gradients is there. Buckets go out in one planned order on every rank:
// first from the end of the model, and after the first step in the order in which rank 0 found them
// ready.
//
// One synchronised step is: backward(), then finish(). In between the reducer works by itself.
// With several micro-batches, run all but the last under no_sync(): their gradients add up locally.
//
// How ranks are averaged: by default the mean over ranks, as PyTorch's DDP. Exactly, for batches of
// different weight (tokens, valid samples): with `weighted`, let every micro-batch's loss be a mean
// over its weight w, call add_weight(w), and backward() from w times the loss (or w / c with one
// constant c everywhere, for the sake of 16-bit ranges). The step then holds
//   sum over ranks and micro-batches of w grad(loss) / sum over ranks and micro-batches of w,
// the gradient of the mean over everything at once.
//
// Errors: internal (a parameter without a gradient, a gradient written after it was reduced, a
// finish() left out), desync (ranks with different parameters or options, or with different bits
// after a reduction), and those of ProcessGroup. Each breaks the group, so that no rank waits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pinion/dist/parallel/comm_hook.h"
#include "pinion/optim/arena.h"

namespace pinion::dist {

// A trainable parameter that got no gradient in the step:
enum class Unused : uint8_t {
  error,   // is an error that names it
  zero,    // contributes zeros; the optimizer sees a gradient, of the ranks that had one or zeros
  detect,  // the same, but one that no rank used keeps no gradient and so is not updated
};
// Whether ranks compare what they reduced: one pass over the gradients and one small all-gather.
enum class Verify : uint8_t { automatic, off, digest };  // automatic: on CPUs

struct ReducerOptions {
  int64_t first_bucket_bytes = 1 << 20;  // small, so that sending begins early
  int64_t bucket_bytes = 25 << 20;
  Unused unused = Unused::error;
  // Every step uses the same parameters, each in as many backward() calls per step. Those that the
  // first step did not use are then known not to come; and a parameter may be used in several
  // backward() calls of one synchronised step. The first step sends everything at its end.
  bool static_graph = false;
  bool overlap = true;    // false: send everything in finish()
  bool weighted = false;  // see above
  Verify verify = Verify::automatic;
  std::shared_ptr<CommHook> hook;  // none: the plain all-reduce
};

class Reducer {
 public:
  // Moves the gradients of the arenas, all on one device, into memory that the ranks share, and
  // compares the ranks' parameters and options. The arenas must outlive the reducer's use.
  Reducer(std::vector<optim::Arena*> arenas, std::shared_ptr<ProcessGroup> group,
          const ReducerOptions& options = {});
  ~Reducer();
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  ProcessGroup& group() { return *group_; }
  const ReducerOptions& options() const { return options_; }
  std::span<const Bucket> buckets() const;
  const std::vector<size_t>& order() const { return order_; }  // of buckets, as planned

  // While it lives, gradients stay local.
  class NoSync {
   public:
    explicit NoSync(Reducer& reducer) : reducer_(reducer) { ++reducer_.local_only_; }
    ~NoSync() { --reducer_.local_only_; }
    NoSync(const NoSync&) = delete;
    NoSync& operator=(const NoSync&) = delete;

   private:
    Reducer& reducer_;
  };
  [[nodiscard]] NoSync no_sync() { return NoSync(*this); }
  bool synchronises() const { return local_only_ == 0; }

  // Of the micro-batch whose backward() comes next; weights of a step add up. Only if `weighted`.
  void add_weight(double weight);
  double total_weight() const { return total_; }  // of all ranks, in the last step

  // After the backward() of a synchronised step; does nothing under no_sync(). Sends what is left,
  // waits for everything; afterwards all ranks hold the same gradients.
  void finish();

  // --- uneven inputs --------------------------------------------------------------------------
  // Between these two calls, which all ranks make, some ranks may run out of steps. Those call
  // shadow() until it returns false: it takes part in one step of the others, with what they have
  // accumulated or with zeros, and leaves the same gradients as theirs. Without `weighted`, the
  // mean is over the ranks that have a batch. `collective` is called with what begin_step() returns
  // to the others, to do what they do before their backward().
  void begin_join() { joining_ = true; }
  void end_join() { joining_ = false; }
  bool shadow(const std::function<void(int)>& collective = {});
  // Begins a synchronised step before its backward(), which join needs for what else is collective
  // in a step. Returns the lowest rank that has a batch.
  int begin_step();

 private:
  struct Entry;  // a trainable parameter
  struct State;  // of a bucket

  void make_buckets();
  void compare_plans();
  void reset();
  bool finish_alone();
  void ready(size_t entry);
  void launch_ready();
  void launch(size_t bucket);
  void count_active(bool has_batch);
  void agree_on_total();
  void reduce_all();
  void check_gradients();
  void settle();
  void compare_results(const std::vector<uint64_t>& all, size_t words);
  void adopt_order();
  [[noreturn]] void give_up(ErrorKind kind, const std::string& text);

  std::vector<optim::Arena*> arenas_;
  std::shared_ptr<ProcessGroup> group_;
  ReducerOptions options_;
  std::shared_ptr<CommHook> hook_;
  std::vector<Entry> entries_;
  std::vector<Bucket> buckets_;
  std::vector<State> states_;            // of buckets_
  std::vector<nn::NamedTensor> frozen_;  // parameters that are in no bucket
  std::vector<size_t> order_;            // of launches
  std::vector<size_t> seen_;             // buckets in the order of readiness, in the first step
  std::shared_ptr<Reducer*> self_;       // for hooks of tensors, which may outlive the reducer
  size_t next_ = 0;                      // in order_
  int local_only_ = 0;                   // NoSync guards
  bool first_step_ = true;               // no synchronised step has finished yet
  bool joining_ = false;                 // between begin_join() and end_join()
  bool begun_ = false, agreed_ = false;  // in this step: begin_step(), agree_on_total()
  bool accumulated_ = false;             // gradients of micro-batches under no_sync() wait
  bool missing_ = false;                 // some parameter has no gradient in this step
  double weight_ = 0;                    // of this rank's micro-batches in this step
  double total_ = 0;                     // what the sum over ranks is divided by
  int active_ = 1, source_ = 0;          // ranks with a batch, and the lowest of them
  bool verify_ = false;
  bool alone_ = false;  // finish_alone() may do
};

}  // namespace pinion::dist
