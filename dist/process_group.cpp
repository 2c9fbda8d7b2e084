// SPDX-License-Identifier: Apache-2.0
// What every backend does the same way: names, checks of the arguments, sequence numbers.
#include "pinion/dist/process_group.h"

#include <cstddef>

#include "pinion/dist/group/reduce.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

const char* name_of(ReduceOp op) {
  constexpr const char* kNames[] = {"sum", "mean", "min", "max"};
  return kNames[static_cast<size_t>(op)];
}

const char* name_of(Operation operation) {
  constexpr const char* kNames[] = {"barrier",    "broadcast",  "all_reduce", "reduce_scatter",
                                    "all_gather", "all_to_all", "send",       "receive"};
  return kNames[static_cast<size_t>(operation)];
}

namespace {

Call call_of(Operation operation, const Tensor& in, const Tensor& out, int peer = -1,
             ReduceOp op = ReduceOp::sum) {
  PINION_CHECK(in.defined() && out.defined(), name_of(operation), ": expected tensors, got none");
  PINION_CHECK(in.dtype() == out.dtype(), name_of(operation), ": expected one dtype, got ",
               in.dtype(), " and ", out.dtype());
  PINION_CHECK(in.device() == out.device(), name_of(operation), ": expected one device, got ",
               in.device().name(), " and ", out.device().name());
  return {operation, op, in.dtype(), peer, in.numel(), 0, in, out};
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* x = static_cast<const std::byte*>(a.view().data);
  const auto* y = static_cast<const std::byte*>(b.view().data);
  return x < y + b.numel() * size_of(b.dtype()) && y < x + a.numel() * size_of(a.dtype());
}

}  // namespace

ProcessGroup::ProcessGroup(int rank, int size) : rank_(rank), size_(size) {
  PINION_CHECK(size >= 1 && rank >= 0 && rank < size, "process group: expected 0 <= rank < size, ",
               "got rank ", rank, " of ", size);
}

Tensor ProcessGroup::symmetric(const Shape& shape, DType dtype, Device device) {
  return Tensor::zeros(shape, dtype, device);
}

std::vector<std::byte*> ProcessGroup::reach(const Tensor&) { return {}; }

std::string ProcessGroup::recent_calls() const { return {}; }

Work ProcessGroup::submit(Call call) {
  if (call.operation == Operation::send || call.operation == Operation::receive ||
      call.operation == Operation::broadcast)
    PINION_CHECK(call.peer >= 0 && call.peer < size_, name_of(call.operation),
                 ": expected a rank below ", size_, ", got ", call.peer);
  call.sequence = ++sequence_;
  return start(std::move(call));
}

Work ProcessGroup::start_on_host(Call call) {
  const Tensor output = call.output;
  const bool in_place = call.input.same(output), sends = call.operation == Operation::send;
  call.input = call.input.to(Device{});
  call.output = in_place ? call.input : Tensor(output.shape(), call.dtype);
  const Tensor host = call.output;
  Work work = start(std::move(call));
  if (sends) return work;
  work.wait();
  Tensor(output).copy_(host);
  return {};
}

Work ProcessGroup::all_reduce(const Tensor& x, ReduceOp op) {
  PINION_CHECK(x.defined(), "all_reduce: expected a tensor, got none");
  check_reducible(op, x.dtype());
  return submit(call_of(Operation::all_reduce, x, x, -1, op));
}

Work ProcessGroup::reduce_scatter(const Tensor& out, const Tensor& in, ReduceOp op) {
  Call call = call_of(Operation::reduce_scatter, in, out, -1, op);
  PINION_CHECK(in.numel() == out.numel() * size_, "reduce_scatter: expected an input of ",
               out.numel() * size_, " elements, ", size_, " times the output's, got ", in.numel());
  check_reducible(op, in.dtype());
  return submit(std::move(call));
}

Work ProcessGroup::all_gather(const Tensor& out, const Tensor& in) {
  Call call = call_of(Operation::all_gather, in, out);
  PINION_CHECK(out.numel() == in.numel() * size_, "all_gather: expected an output of ",
               in.numel() * size_, " elements, ", size_, " times the input's, got ", out.numel());
  return submit(std::move(call));
}

Work ProcessGroup::all_to_all(const Tensor& out, const Tensor& in) {
  Call call = call_of(Operation::all_to_all, in, out);
  PINION_CHECK(in.numel() == out.numel() && in.numel() % size_ == 0,
               "all_to_all: expected input and output of as many elements, a multiple of ", size_,
               ", got ", in.numel(), " and ", out.numel());
  PINION_CHECK(size_ == 1 || !overlap(in, out),
               "all_to_all: expected an output beside the input, got one that overlaps it");
  return submit(std::move(call));
}

Work ProcessGroup::broadcast(const Tensor& x, int root) {
  return submit(call_of(Operation::broadcast, x, x, root));
}

Work ProcessGroup::send(const Tensor& x, int peer) {
  return submit(call_of(Operation::send, x, x, peer));
}

Work ProcessGroup::receive(const Tensor& x, int peer) {
  return submit(call_of(Operation::receive, x, x, peer));
}

Work ProcessGroup::barrier(int64_t of) { return submit({.count = of}); }

}  // namespace pinion::dist
