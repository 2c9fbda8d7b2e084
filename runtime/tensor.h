// SPDX-License-Identifier: Apache-2.0
// Tensor: a shared handle to a dense row-major block, plus its place in the autograd graph.
// Copying a Tensor copies the handle. Handles may be copied and dropped on any thread; the contents
// are synchronised by whoever shares them. Reading is implicit, writing is visible as .mut().
#pragma once

#include <sys/single_threaded.h>

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "pinion/runtime/allocator.h"
#include "pinion/runtime/device.h"

namespace pinion {

class Tensor;
class Node;  // runtime/autograd.h
namespace detail {

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
    return unique() || count_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
  bool unique() const { return count_.load(std::memory_order_acquire) == 1; }

 private:
  std::atomic<uint32_t> count_{1};
};

// One block of memory, shared by the tensors that alias it.
struct Storage {
  RefCount refs;
  MemoryTag tag;
  bool small;  // header, first handle and data are one block
  Device device;
  int64_t bytes;
  void* data;
  std::atomic<uint64_t> version{0};
  std::shared_ptr<void>* owner = nullptr;  // of memory that is not the allocator's

  void drop() {
    if (refs.down()) destroy();
  }
  void destroy();
};

struct Leaf;  // runtime/tensor_impl.h

// What a handle points to.
struct TensorImpl {
  RefCount refs;
  DType dtype;
  bool requires_grad = false;
  bool first = false;  // lies in the block of the small storage that it was made with
  Storage* storage;
  void* data;
  Shape shape;
  Node* node = nullptr;  // a counted reference
  Leaf* leaf = nullptr;  // owned

  static TensorImpl* make(const Shape& shape, DType dtype, Device device);  // with new memory
  static TensorImpl* make(Storage* storage, void* data, const Shape& shape, DType dtype);
  static TensorImpl* of(const Tensor& t);
  static Tensor share(TensorImpl* impl);
  // True when nobody else can see the memory of t.
  static bool unique(const Tensor& t);
  Leaf& leaf_state();
  Tensor gradient() const;
  void drop() {
    if (refs.down()) destroy();
  }
  void destroy();
  Storage* home();       // of a first handle: the storage in front of it
  void leave_storage();  // gives up the reference to `storage`, but for the home's
};

[[noreturn]] void fail_undefined();

}  // namespace detail

class Tensor {
 public:
  Tensor() = default;  // undefined: defined() is false and nothing else may be called
  explicit Tensor(const Shape& shape, DType dtype = DType::f32,
                  Device device = {});  // uninitialised
  Tensor(const Tensor& other) noexcept : impl_(other.impl_) {
    if (impl_) impl_->refs.up();
  }
  Tensor(Tensor&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
  Tensor& operator=(const Tensor& other) noexcept { return *this = Tensor(other); }
  Tensor& operator=(Tensor&& other) noexcept { return std::swap(impl_, other.impl_), *this; }
  ~Tensor() {
    if (impl_) impl_->drop();
  }

  static Tensor like(const Tensor& t) { return Tensor(t.shape(), t.dtype(), t.device()); }
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32,
                     Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {}) {
    return full(shape, 0, dtype, device);
  }
  // A tensor on the CPU that holds a copy of `values`, whose count must be that of the shape.
  template <class T>
  static Tensor of(std::span<const T> values, const Shape& shape) {
    return from_host(values.data(), static_cast<int64_t>(values.size()), dtype_of<T>, shape);
  }
  template <class T>
  static Tensor of(const std::vector<T>& values, const Shape& shape) {
    return of(std::span<const T>(values), shape);
  }
  template <class T>
  static Tensor of(std::initializer_list<T> values, const Shape& shape) {
    return of(std::span<const T>(values.begin(), values.size()), shape);
  }

  // A tensor over memory that somebody else provides and `owner` keeps; it counts as allocated.
  static Tensor foreign(void* data, const Shape& shape, DType dtype, Device device,
                        std::shared_ptr<void> owner);

  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const { return impl().shape; }
  int64_t size(int dim) const { return shape()[dim]; }  // -1 is the last dimension
  int rank() const { return shape().rank(); }
  int64_t numel() const { return shape().numel(); }
  DType dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device; }
  bool same(const Tensor& other) const { return impl_ == other.impl_; }  // the same handle

  View mut() {  // to write: kernels::fill(ctx, y.mut(), 0)
    detail::TensorImpl& at = impl();
    auto& version = at.storage->version;  // a lost increment would need a race on the contents
    version.store(version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return {at.data, at.shape, at.dtype};
  }
  ConstView view() const {  // to read
    const detail::TensorImpl& at = impl();
    return {at.data, at.shape, at.dtype};
  }
  operator ConstView() const { return view(); }  // NOLINT: reading is implicit
  // Counts the calls of mut() on this storage.
  uint64_t version() const { return impl().storage->version.load(std::memory_order_relaxed); }

  // The same memory under another shape of as many elements, outside the graph.
  Tensor alias(const Shape& shape) const;
  // The same memory, rows [begin, end) of dimension 0, outside the graph.
  Tensor rows(int64_t begin, int64_t end) const;
  Tensor detach() const { return alias(shape()); }
  Tensor to(Device device) const;  // a copy, or this handle when it is there already
  Tensor clone() const;            // a copy of the contents, outside the graph
  // Fills this tensor with the contents of another one of its shape and dtype, on any device.
  void copy_(const Tensor& from);

  template <class T>
  std::vector<T> values() const {  // copies to the host; dtype must be T's
    std::vector<T> out(static_cast<size_t>(numel()));
    to_host(out.data(), dtype_of<T>);
    return out;
  }
  double item() const;  // of a tensor of one element, any dtype

  // Leaves of the graph. requires_grad(true) is for floating tensors that no op made.
  // True for leaves that ask and for recorded results.
  bool requires_grad() const { return impl_ && (impl_->requires_grad || impl_->node); }
  Tensor& requires_grad(bool on);
  Tensor grad() const;         // undefined until backward() reaches this leaf
  void set_grad(Tensor grad);  // an undefined tensor clears it
  // From now on backward() leaves this leaf's gradient in `slot`, of the same shape, dtype and
  // device: optimizers and reducers keep all gradients of a group in one block this way.
  void set_grad_slot(Tensor slot);
  // Called with this leaf when backward() has added its last contribution.
  void on_grad_ready(std::function<void(const Tensor&)> hook);
  // Moves this tensor's contents to `home` (same shape, dtype, device; memory of a flat arena), for
  // every handle that shares it.
  void rebind(const Tensor& home);

  // The op that made it, null for leaves.
  const Node* node() const { return impl_ ? impl_->node : nullptr; }

 private:
  friend struct detail::TensorImpl;
  friend class Node;
  explicit Tensor(detail::TensorImpl* owned) : impl_(owned) {}
  detail::TensorImpl& impl() const {
    if (!impl_) [[unlikely]]
      detail::fail_undefined();
    return *impl_;
  }
  static Tensor from_host(const void* data, int64_t count, DType dtype, const Shape& shape);
  void to_host(void* out, DType dtype) const;

  detail::TensorImpl* impl_ = nullptr;
};

inline detail::TensorImpl* detail::TensorImpl::of(const Tensor& t) { return t.impl_; }
inline Tensor detail::TensorImpl::share(TensorImpl* impl) { return impl->refs.up(), Tensor(impl); }
inline bool detail::TensorImpl::unique(const Tensor& t) {
  return t.impl_->refs.unique() && t.impl_->storage->refs.unique();
}

// A short list of tensors: up to four without a heap block.
class Tensors {
 public:
  Tensors() = default;
  template <class... T>
  requires(sizeof...(T) > 0 && (std::is_same_v<std::remove_cvref_t<T>, Tensor> && ...))
      Tensors(T&&... list) {  // NOLINT: a list is written {a, b}
    (push_back(std::forward<T>(list)), ...);
  }
  Tensors(Tensors&&) = default;
  Tensors(const Tensors&) = default;
  Tensors& operator=(Tensors&&) = default;       // NOLINT: clang copies arrays with a reserved name
  Tensors& operator=(const Tensors&) = default;  // NOLINT: as above

  void push_back(Tensor t) {
    if (size_ < kInline)
      inline_[size_] = std::move(t);
    else
      more_.push_back(std::move(t));
    ++size_;
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  Tensor& operator[](size_t i) { return i < kInline ? inline_[i] : more_[i - kInline]; }
  const Tensor& operator[](size_t i) const { return i < kInline ? inline_[i] : more_[i - kInline]; }

 private:
  static constexpr size_t kInline = 4;
  Tensor inline_[kInline];
  std::vector<Tensor> more_;
  size_t size_ = 0;
};

}  // namespace pinion
