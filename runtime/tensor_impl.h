// SPDX-License-Identifier: Apache-2.0
// What a Tensor handle points to. Internal to tensor.cpp and autograd.cpp.
#pragma once

#include <sys/single_threaded.h>

#include <atomic>
#include <functional>
#include <vector>

#include "pinion/runtime/tensor.h"

namespace pinion::detail {

// A reference count that costs an atomic instruction only once the process has a second thread.
class RefCount {
 public:
  void up() {
    if (__libc_single_threaded)
      count_.store(count_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    else
      count_.fetch_add(1, std::memory_order_relaxed);
  }
  bool down() {  // true for the last one
    if (__libc_single_threaded) {
      const uint32_t left = count_.load(std::memory_order_relaxed) - 1;
      count_.store(left, std::memory_order_relaxed);
      return left == 0;
    }
    return count_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
  bool unique() const { return count_.load(std::memory_order_acquire) == 1; }

 private:
  std::atomic<uint32_t> count_{1};
};

// One block of memory, shared by the tensors that alias it.
struct Storage {
  RefCount refs;
  Device device;
  MemoryTag tag;
  int64_t bytes;
  void* data;
  std::atomic<uint64_t> version{0};

  static Storage* make(Device device, int64_t bytes);
  void drop();
};

// What only leaves that ask for gradients carry.
struct Leaf {
  Tensor grad;            // without a slot: the gradient, undefined until there is one
  Tensor slot;            // memory the gradient is to live in
  bool has_grad = false;  // with a slot: whether it holds a gradient
  bool claimed = false;   // a closure of the running backward() writes into the slot
  uint64_t visit = 0;     // the backward() that `pending` belongs to
  int pending = 0;        // contributions still to come
  bool touched = false;   // some contribution of this backward() was defined
  std::vector<std::function<void(const Tensor&)>> hooks;
};

struct TensorImpl {
  RefCount refs;
  DType dtype;
  bool requires_grad = false;
  Storage* storage;
  void* data;
  Shape shape;
  Node* node = nullptr;  // a counted reference
  Leaf* leaf = nullptr;  // owned

  static Tensor make(Storage* storage, void* data, const Shape& shape, DType dtype);
  static TensorImpl* of(const Tensor& t) { return t.impl_; }
  static Tensor share(TensorImpl* impl) { return impl->refs.up(), Tensor(impl); }
  // True when nobody else can see the memory of t.
  static bool unique(const Tensor& t) {
    return t.impl_->refs.unique() && t.impl_->storage->refs.unique();
  }
  Leaf& leaf_state();
  Tensor gradient() const;
  void drop();
};

}  // namespace pinion::detail
