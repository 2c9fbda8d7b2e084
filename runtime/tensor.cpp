// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/tensor.h"

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/tensor_impl.h"

namespace pinion {

using detail::TensorImpl;

namespace {

// PINION_POISON=1 fills new tensors with a NaN pattern, so that reading before writing shows.
bool poison() {
  static const bool on = [] {
    const char* text = std::getenv("PINION_POISON");
    return text && *text && std::strcmp(text, "0") != 0;
  }();
  return on;
}

}  // namespace

namespace detail {

// A small tensor is one block: one request to the allocator instead of three. The data follows.
struct Small {
  Storage storage;
  TensorImpl first;
};
constexpr int64_t kSmallBytes = 16 << 10;
constexpr int64_t kHeaderBytes = (sizeof(Small) + 63) / 64 * 64;  // the data is on a cache line

TensorImpl* TensorImpl::make(const Shape& shape, DType dtype, Device device) {
  const int64_t bytes = shape.numel() * size_of(dtype);
  const MemoryTag tag = MemoryTagScope::current();
  const bool host = device.kind == Device::Kind::cpu;
  // Not parameters: they move into flat arenas, and what is in a block stays as long as the handle.
  const bool small = host && bytes <= kSmallBytes && tag != MemoryTag::parameters;
  char* block =
      small ? static_cast<char*>(allocate_with_header(kHeaderBytes, bytes, tag)) : nullptr;
  void* data = small ? block + kHeaderBytes : allocate(device, bytes, tag);
  if (host && poison()) std::memset(data, 0xff, static_cast<size_t>(bytes));
  if (!small) {
    auto* storage =
        new (allocate_small(sizeof(Storage))) Storage{{}, tag, false, device, bytes, data};
    return make(storage, data, shape, dtype);
  }
  auto* made = new (block)
      Small{{{}, tag, true, device, bytes, data}, {{}, dtype, false, true, nullptr, data, shape}};
  made->first.storage = &made->storage;
  return &made->first;
}

TensorImpl* TensorImpl::make(Storage* storage, void* data, const Shape& shape, DType dtype) {
  return new (allocate_small(sizeof(TensorImpl)))
      TensorImpl{{}, dtype, false, false, storage, data, shape};
}

void Storage::destroy() {
  if (small) return release_with_header(this, kHeaderBytes, bytes, tag);
  if (owner) {
    delete owner;
    count_foreign(device, -bytes, tag);
  } else {
    release(device, data, bytes, tag);
  }
  release_small(this, sizeof(Storage));
}

Storage* TensorImpl::home() {
  return &reinterpret_cast<Small*>(reinterpret_cast<char*>(this) - offsetof(Small, first))->storage;
}

void TensorImpl::leave_storage() {
  if (!first || storage != home()) storage->drop();
}

void TensorImpl::destroy() {
  if (node) Node::drop(node);
  delete leaf;
  leave_storage();
  if (first)
    home()->drop();
  else
    release_small(this, sizeof(TensorImpl));
}

Leaf& TensorImpl::leaf_state() {
  if (!leaf) leaf = new Leaf;
  return *leaf;
}

Tensor TensorImpl::gradient() const {
  if (!leaf) return {};
  if (leaf->slot.defined()) return leaf->has_grad ? leaf->slot : Tensor();
  return leaf->grad;
}

void fail_undefined() {
  fail(ErrorKind::internal, {"tensor: expected a defined tensor, got an undefined one"});
}

}  // namespace detail

Tensor::Tensor(const Shape& shape, DType dtype, Device device)
    : impl_(TensorImpl::make(shape, dtype, device)) {}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t(shape, dtype, device);
  on(device, [&](auto& ctx) { kernels::fill(ctx, t.mut(), value); });
  return t;
}

Tensor Tensor::alias(const Shape& s) const {
  PINION_CHECK(s.numel() == numel(), "alias: expected a shape of ", numel(), " elements for ",
               shape(), ", got ", s);
  impl_->storage->refs.up();
  return Tensor(TensorImpl::make(impl_->storage, impl_->data, s, impl_->dtype));
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  PINION_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0),
               "rows: expected 0 <= ", "begin <= end <= size(0) for shape ", shape(),
               ", got begin ", begin, ", end ", end);
  const Shape s = shape().with(0, end - begin);
  const int64_t row_bytes = shape().numel(1, rank()) * size_of(dtype());
  impl_->storage->refs.up();
  return Tensor(TensorImpl::make(
      impl_->storage, static_cast<char*>(impl_->data) + begin * row_bytes, s, impl_->dtype));
}

Tensor Tensor::to(Device target) const {
  if (target == device()) return *this;
  Tensor out(shape(), dtype(), target);
  copy(target, out.mut().data, device(), view().data, numel() * size_of(dtype()));
  return out;
}

void Tensor::copy_(const Tensor& from) {
  PINION_CHECK(from.shape() == shape() && from.dtype() == dtype(), "copy_: expected ", dtype(), " ",
               shape(), ", got ", from.dtype(), " ", from.shape());
  copy(device(), mut().data, from.device(), from.view().data, numel() * size_of(dtype()));
}

Tensor Tensor::clone() const {
  Tensor out = like(*this);
  copy(device(), out.mut().data, device(), view().data, numel() * size_of(dtype()));
  return out;
}

Tensor Tensor::from_host(const void* data, int64_t count, DType dtype, const Shape& shape) {
  PINION_CHECK(count == shape.numel(), "tensor: expected ", shape.numel(), " values for shape ",
               shape, ", got ", count);
  Tensor t(shape, dtype);
  copy({}, t.mut().data, {}, data, count * size_of(dtype));
  return t;
}

void Tensor::to_host(void* out, DType wanted) const {
  PINION_CHECK(dtype() == wanted, "values: expected a tensor of ", wanted, ", got ", dtype());
  copy({}, out, device(), view().data, numel() * size_of(wanted));
}

Tensor Tensor::foreign(void* data, const Shape& shape, DType dtype, Device device,
                       std::shared_ptr<void> owner) {
  const int64_t bytes = shape.numel() * size_of(dtype);
  const MemoryTag tag = MemoryTagScope::current();
  auto* storage = new (allocate_small(sizeof(detail::Storage)))
      detail::Storage{{}, tag, false, device, bytes, data};
  storage->owner = new std::shared_ptr<void>(std::move(owner));
  count_foreign(device, bytes, tag);
  return Tensor(TensorImpl::make(storage, data, shape, dtype));
}

double Tensor::item() const {
  PINION_CHECK(numel() == 1, "item: expected one element, got shape ", shape());
  alignas(8) char bytes[8];
  copy({}, bytes, device(), view().data, size_of(dtype()));
  double value = 0;
  for_any(dtype(), "item", [&]<class T>() {
    T element;
    std::memcpy(&element, bytes, sizeof element);
    value = static_cast<double>(element);
  });
  return value;
}

Tensor& Tensor::requires_grad(bool wanted) {
  PINION_CHECK(!wanted || is_floating(dtype()), "requires_grad: expected a floating tensor, got ",
               dtype());
  PINION_CHECK(!impl_->node, "requires_grad: expected a leaf, got the result of ",
               impl_->node->op(), "; detach() it first");
  impl_->requires_grad = wanted;
  return *this;
}

Tensor Tensor::grad() const { return impl_ ? impl_->gradient() : Tensor(); }

void Tensor::set_grad(Tensor grad) {
  PINION_CHECK(impl_, "set_grad: expected a defined tensor, got an undefined one");
  PINION_CHECK(
      !grad.defined() ||
          (grad.shape() == shape() && grad.dtype() == dtype() && grad.device() == device()),
      "set_grad: expected ", dtype(), " ", shape(), ", got ", grad.dtype(), " ", grad.shape());
  if (!grad.defined() && !impl_->leaf) return;
  detail::Leaf& leaf = impl_->leaf_state();
  leaf.claimed = false;
  if (!leaf.slot.defined()) {
    leaf.grad = std::move(grad);
    return;
  }
  leaf.has_grad = grad.defined();
  if (grad.defined() && grad.view().data != leaf.slot.view().data)
    copy(device(), leaf.slot.mut().data, device(), grad.view().data, numel() * size_of(dtype()));
}

void Tensor::set_grad_slot(Tensor slot) {
  PINION_CHECK(slot.defined() && slot.shape() == shape() && slot.dtype() == dtype() &&
                   slot.device() == device(),
               "set_grad_slot: expected a slot of ", dtype(), " ", shape());
  const Tensor held = grad();
  impl_->leaf_state().slot = std::move(slot);
  impl_->leaf_state().grad = {};
  set_grad(held);
}

void Tensor::on_grad_ready(std::function<void(const Tensor&)> hook) {
  PINION_CHECK(impl_ && impl_->requires_grad, "on_grad_ready: expected a leaf that requires grad");
  impl_->leaf_state().hooks.push_back(std::move(hook));
}

void Tensor::rebind(const Tensor& home) {
  PINION_CHECK(home.defined() && home.shape() == shape() && home.dtype() == dtype() &&
                   home.device() == device(),
               "rebind: expected a home of ", dtype(), " ", shape());
  PINION_CHECK(!impl_->node, "rebind: expected a leaf, got the result of ", impl_->node->op());
  copy(device(), home.impl_->data, device(), impl_->data, numel() * size_of(dtype()));
  home.impl_->storage->refs.up();
  impl_->leave_storage();
  impl_->storage = home.impl_->storage;
  impl_->data = home.impl_->data;
}

}  // namespace pinion
