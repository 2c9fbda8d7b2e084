// SPDX-License-Identifier: Apache-2.0
// ProcessGroup: ranks 0 … size-1 that call the same operations in the same order. Every operation
// starts at once and is complete when its Work says so. What the ranks asked for is compared: an
// operation that does not match is an error on every rank that names the other's call, not a hang.
//
// Errors, thrown by Work::wait(): peer_lost (a rank is gone or gave up), hang (nobody answered
// within the timeout), desync (ranks called different operations, or sizes, or types). After one of
// them the group is broken: every further call throws the same error at once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/runtime/tensor.h"

namespace pinion::dist {

enum class ReduceOp : uint8_t { sum, mean, min, max };
enum class Operation : uint8_t {
  barrier,
  broadcast,
  all_reduce,
  reduce_scatter,
  all_gather,
  all_to_all,
  send,
  receive
};
const char* name_of(ReduceOp op);
const char* name_of(Operation operation);

// One operation as this rank asked for it.
struct Call {
  Operation operation = Operation::barrier;
  ReduceOp reduce = ReduceOp::sum;
  DType dtype = DType::u8;
  int peer = -1;          // the root, or the partner of send and receive
  int64_t count = 0;      // elements of the input (of the output, for receive)
  uint64_t sequence = 0;  // counts the calls of this rank on this group, from 1
  Tensor input, output;   // the same tensor for what works in place; kept until the work is done
};

// The progress of one operation. Copies share it. Dropping the last copy does not cancel anything.
class Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual bool done() = 0;  // never waits; makes progress where the backend needs it
    virtual void wait() = 0;
  };
  Work() = default;  // done already
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  // Whether wait() would return, or throw, without waiting. A rank that died, or a timeout, counted
  // from the first call, is found by asking again.
  bool done() const { return !state_ || state_->done(); }
  // Until the output holds the result; on a CUDA device, until work that is queued from now on will
  // see it (the host does not wait). Throws the errors above.
  void wait() {
    if (state_) state_->wait();
    state_.reset();
  }

 private:
  std::shared_ptr<State> state_;
};

class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual const char* backend() const = 0;  // "local", "shm", "mpi" or "nccl"

  // Tensors are of any numeric dtype for what only moves bytes, and floating or integer for what
  // reduces; 16-bit sums are added in f32 and rounded once. Sums are taken in rank order on
  // `local` and `shm`, so all ranks have the same bits. One rank is its own world: a copy.
  Work all_reduce(const Tensor& x, ReduceOp op = ReduceOp::sum);  // in place
  // in [size * n …] -> out [n …]: the sum of everyone's rows r*n … belongs to rank r.
  Work reduce_scatter(const Tensor& out, const Tensor& in, ReduceOp op = ReduceOp::sum);
  Work all_gather(const Tensor& out, const Tensor& in);  // in [n …] -> out [size * n …], by rank
  Work all_to_all(const Tensor& out,
                  const Tensor& in);          // row block p of rank r goes to block r of rank p
  Work broadcast(const Tensor& x, int root);  // in place
  Work send(const Tensor& x, int peer);
  Work receive(const Tensor& x, int peer);
  Work barrier(int64_t of = 0);  // ranks that meet with different numbers are out of step: desync

  // Memory that every rank of the group allocates together, in the same order, and that all of them
  // can reach: reductions of tensors that lie in it copy nothing. Zeros at first. An ordinary
  // tensor where the backend has nothing better.
  virtual Tensor symmetric(const Shape& shape, DType dtype, Device device);
  // Where everyone's x lies in this process's addresses, by rank; nowhere (empty) on all ranks if
  // one cannot be reached. All call it together, for symmetric x that the ranks then keep. Between
  // two meetings, such as barriers, a byte that one rank writes must be no other's business.
  virtual std::vector<std::byte*> reach(const Tensor& x);

  // How long an operation may wait for others; 10 minutes unless set.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  std::chrono::milliseconds timeout() const { return timeout_; }
  // Breaks the group on every rank: whoever waits, or calls later, gets peer_lost with `reason`.
  virtual void abort(std::string_view reason) noexcept = 0;
  // The last calls of this rank, one a line, newest last, for reports about a hang.
  virtual std::string recent_calls() const;

 protected:
  ProcessGroup(int rank, int size);
  virtual Work start(Call call) = 0;  // the tensors fit, the sequence number is set
  // start() with copies of the tensors in the host's memory, for backends that reach nothing else;
  // but for sends it waits.
  Work start_on_host(Call call);

  int rank_, size_;
  std::chrono::milliseconds timeout_{600'000};

 private:
  Work submit(Call call);
  uint64_t sequence_ = 0;
};

}  // namespace pinion::dist
