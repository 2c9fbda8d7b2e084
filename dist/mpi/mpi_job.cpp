// SPDX-License-Identifier: Apache-2.0
// A call in two stages: the ranks compare what they ask for, then the data moves.
#include "pinion/dist/mpi/mpi_job.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "pinion/kernels/check.h"
#include "pinion/kernels/kernels.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;

bool reduces(Operation operation) {
  return operation == Operation::all_reduce || operation == Operation::reduce_scatter;
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* x = static_cast<const std::byte*>(a.view().data);
  const auto* y = static_cast<const std::byte*>(b.view().data);
  return x < y + b.numel() * size_of(b.dtype()) && y < x + a.numel() * size_of(a.dtype());
}

Tensor converted(const Tensor& x, DType dtype) {
  Tensor out(x.shape(), dtype);
  on(Device{}, [&](auto& ctx) { kernels::cast(ctx, x, out.mut()); });
  return out;
}

PinionMpiType type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return kPinionMpiF32;
    case DType::f64: return kPinionMpiF64;
    case DType::i64: return kPinionMpiI64;
    case DType::i32: return kPinionMpiI32;
    default: return kPinionMpiU8;
  }
}

// As few units as `bytes` divides into, for what is only moved.
void set_bytes(PinionMpiCall& call, int64_t bytes) {
  const bool wide = bytes % 8 == 0;
  call.type = wide ? kPinionMpiI64 : kPinionMpiU8;
  call.count = wide ? bytes / 8 : bytes;
}

}  // namespace

void MpiShared::break_with(const Error& error) noexcept {
  const std::lock_guard lock(mutex);
  if (!broken) broken = error;
  changed.notify_all();
}

bool MpiShared::is_broken() {
  const std::lock_guard lock(mutex);
  return broken.has_value();
}

std::shared_ptr<MpiShared::Farewell> MpiShared::farewell() {
  const std::lock_guard lock(mutex);
  auto out = std::make_shared<Farewell>();
  out->kind = static_cast<uint32_t>(broken->kind());
  std::strncpy(out->reason, broken->what(), sizeof out->reason - 1);
  return out;
}

MpiJob::MpiJob(std::shared_ptr<MpiShared> s, Call c, int rank, int size,
               std::chrono::milliseconds timeout)
    : header(header_of(c)),
      shared_(std::move(s)),
      call_(std::move(c)),
      rank_(rank),
      size_(size),
      timeout_(timeout) {}

bool MpiJob::is_message() const {
  return header.operation == Operation::send || header.operation == Operation::receive;
}

bool MpiJob::done() {
  const std::lock_guard lock(shared_->mutex);
  return ended || shared_->broken;
}

void MpiJob::wait() {
  std::unique_lock lock(shared_->mutex);
  const bool came =
      shared_->changed.wait_for(lock, timeout_, [&] { return ended || shared_->broken; });
  if (ended) return;
  if (!came) {
    shared_->broken = Error(
        ErrorKind::hang,
        cat({"mpi group: rank ", rank_, " waited ", timeout_.count(), " ms in ", describe(header),
             ", its call ", header.sequence, "; its last calls:\n", shared_->record.text(4)}));
    shared_->changed.notify_all();
  }
  throw Error(*shared_->broken);
}

void MpiJob::begin(const PinionMpi& mpi, PinionMpiCall call) {
  char text[kPinionMpiError] = "";
  void* request = nullptr;
  PINION_CHECK(call.count <= INT32_MAX, describe(header), ": expected at most ", INT32_MAX,
               " units of data a rank, got ", call.count);
  PINION_REQUIRE(peer_lost, mpi.start(&call, &request, text) == 0, "mpi group: ", describe(header),
                 ": ", text);
  requests_.push_back(request);
}

bool MpiJob::step(const PinionMpi& mpi) {
  if (stage_ == Stage::fresh) {
    greet(mpi);
    stage_ = Stage::greeted;
  }
  char text[kPinionMpiError] = "";
  while (!requests_.empty()) {
    int complete = 0;
    PINION_REQUIRE(peer_lost, mpi.test(&requests_.back(), &complete, text) == 0,
                   "mpi group: ", describe(header), ": ", text);
    if (!complete) return false;
    requests_.pop_back();
  }
  if (stage_ == Stage::greeted) {
    compare();
    stage_ = Stage::moving;
    if (header.operation != Operation::barrier) move(mpi);
    return step(mpi);
  }
  finish();
  return true;
}

// Shows this call to the others.
void MpiJob::greet(const PinionMpi& mpi) {
  PinionMpiCall hello{};
  set_bytes(hello, sizeof header);
  hello.peer = header.peer;
  hello.tag = kMpiHeaderTag;
  hello.in = &header;
  hello.kind = kPinionMpiSend;
  if (header.operation != Operation::send) {
    const bool receives = header.operation == Operation::receive;
    hello.kind = receives ? kPinionMpiReceive : kPinionMpiAllGather;
    headers_.resize(receives ? 1 : static_cast<size_t>(size_));
    hello.out = headers_.data();
  }
  begin(mpi, hello);
}

void MpiJob::compare() const {
  if (header.operation == Operation::receive) {
    const CallHeader& sent = headers_.front();
    if (sent.dtype != header.dtype || sent.count != header.count)
      fail_desync(header.peer, sent, rank_, header);
  } else {
    for (size_t r = 1; r < headers_.size(); ++r)
      if (!headers_[r].matches(headers_[0]))
        fail_desync(0, headers_[0], static_cast<int>(r), headers_[r]);
  }
}

void MpiJob::move(const PinionMpi& mpi) {
  constexpr PinionMpiKind kKinds[] = {
      kPinionMpiBarrier,   kPinionMpiBroadcast, kPinionMpiAllReduce, kPinionMpiReduceScatter,
      kPinionMpiAllGather, kPinionMpiAllToAll,  kPinionMpiSend,      kPinionMpiReceive};
  const Operation operation = header.operation;
  const bool blocks = operation == Operation::reduce_scatter || operation == Operation::all_to_all;
  const int64_t count = header.count / (blocks ? size_ : 1);
  input_ = call_.input, output_ = call_.output;
  PinionMpiCall data{};
  data.kind = kKinds[static_cast<size_t>(operation)];
  data.peer = header.peer;
  data.tag = kMpiDataTag;
  if (reduces(operation)) {
    if (size_of(header.dtype) == 2) {  // added in f32 and rounded once
      input_ = converted(call_.input, DType::f32);
      output_ = operation == Operation::all_reduce ? input_ : Tensor(output_.shape(), DType::f32);
    }
    data.type = type_of(input_.dtype());
    data.count = count;
    data.reduce = header.reduce == ReduceOp::min   ? kPinionMpiMin
                  : header.reduce == ReduceOp::max ? kPinionMpiMax
                                                   : kPinionMpiSum;
  } else {
    set_bytes(data, count * size_of(header.dtype));
  }
  const bool moves_in_place =
      operation == Operation::all_reduce || operation == Operation::broadcast || is_message();
  if (!moves_in_place && overlap(input_, output_)) input_ = input_.clone();
  data.in = input_.view().data;
  data.out = operation == Operation::send ? nullptr : output_.mut().data;
  begin(mpi, data);
}

void MpiJob::finish() {
  if (header.reduce == ReduceOp::mean)
    on(Device{}, [&](auto& ctx) { kernels::affine(ctx, output_, 1.0 / size_, 0, output_.mut()); });
  if (reduces(header.operation) && size_of(header.dtype) == 2)
    call_.output.copy_(converted(output_, header.dtype));
  call_.input = call_.output = input_ = output_ = {};
}

void MpiJob::move_now(const PinionMpi& mpi, PinionMpiKind kind, int peer, void* data,
                      size_t bytes) {
  char text[kPinionMpiError] = "";
  PinionMpiCall call{};
  set_bytes(call, static_cast<int64_t>(bytes));
  call.kind = kind;
  call.peer = peer;
  call.tag = kMpiAbortTag;
  call.in = call.out = data;
  void* request = nullptr;
  int done = 0;
  PINION_REQUIRE(peer_lost, mpi.start(&call, &request, text) == 0, "mpi group: ", text);
  for (const auto start = Clock::now(); !done && Clock::now() - start < std::chrono::seconds(1);) {
    PINION_REQUIRE(peer_lost, mpi.test(&request, &done, text) == 0, "mpi group: ", text);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace pinion::dist
