// SPDX-License-Identifier: Apache-2.0
// Tensor: a shared handle to a dense row-major block, plus its place in the autograd graph.
// Copying a Tensor copies the handle. Handles may be copied and dropped on any thread; the contents
// are synchronised by whoever shares them. Reading is implicit, writing is visible as .mut().
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "pinion/runtime/allocator.h"
#include "pinion/runtime/device.h"

namespace pinion {

class Tensor;
class Node;  // runtime/autograd.h
namespace detail {
struct TensorImpl;  // runtime/tensor_impl.h
}

class Tensor {
 public:
  Tensor() = default;  // undefined: defined() is false and nothing else may be called
  explicit Tensor(const Shape& shape, DType dtype = DType::f32,
                  Device device = {});  // uninitialised
  Tensor(const Tensor& other) noexcept;
  Tensor(Tensor&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
  Tensor& operator=(const Tensor& other) noexcept;
  Tensor& operator=(Tensor&& other) noexcept { return std::swap(impl_, other.impl_), *this; }
  ~Tensor();

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

  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const;
  int64_t size(int dim) const { return shape()[dim]; }  // -1 is the last dimension
  int rank() const { return shape().rank(); }
  int64_t numel() const { return shape().numel(); }
  DType dtype() const;
  Device device() const;
  bool same(const Tensor& other) const { return impl_ == other.impl_; }  // the same handle

  View mut();                                    // to write: kernels::fill(ctx, y.mut(), 0)
  ConstView view() const;                        // to read
  operator ConstView() const { return view(); }  // NOLINT: reading is implicit
  uint64_t version() const;                      // counts the calls of mut() on this storage

  // The same memory under another shape of as many elements, outside the graph.
  Tensor alias(const Shape& shape) const;
  // The same memory, rows [begin, end) of dimension 0, outside the graph.
  Tensor rows(int64_t begin, int64_t end) const;
  Tensor detach() const { return alias(shape()); }
  Tensor to(Device device) const;  // a copy, or this handle when it is there already
  Tensor clone() const;            // a copy of the contents, outside the graph

  template <class T>
  std::vector<T> values() const {  // copies to the host; dtype must be T's
    std::vector<T> out(static_cast<size_t>(numel()));
    to_host(out.data(), dtype_of<T>);
    return out;
  }
  double item() const;  // of a tensor of one element, any dtype

  // Leaves of the graph. requires_grad(true) is for floating tensors that no op made.
  bool requires_grad() const;  // true for leaves that ask and for recorded results
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

  const Node* node() const;  // the op that made it, null for leaves

 private:
  friend struct detail::TensorImpl;
  friend class Node;
  explicit Tensor(detail::TensorImpl* owned) : impl_(owned) {}
  static Tensor from_host(const void* data, int64_t count, DType dtype, const Shape& shape);
  void to_host(void* out, DType dtype) const;

  detail::TensorImpl* impl_ = nullptr;
};

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
  Tensors& operator=(Tensors&&) = default;
  Tensors& operator=(const Tensors&) = default;

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
