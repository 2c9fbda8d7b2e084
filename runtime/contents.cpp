// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/contents.h"

#include "pinion/runtime/tensor_impl.h"

namespace pinion {

using detail::TensorImpl;

namespace {

void point_at(TensorImpl& t, detail::Storage* storage, void* data) {
  PINION_CHECK(!t.node, "contents: expected a leaf, got the result of an op");
  storage->refs.up();
  t.leave_storage();
  t.storage = storage;
  t.data = data;
}

}  // namespace

void take_contents(Tensor& t, const Tensor& home) {
  PINION_CHECK(
      home.shape() == t.shape() && home.dtype() == t.dtype() && home.device() == t.device(),
      "take_contents: expected memory of ", t.dtype(), " ", t.shape());
  const TensorImpl* from = TensorImpl::of(home);
  point_at(*TensorImpl::of(t), from->storage, from->data);
}

void drop_contents(Tensor& t) {
  const Tensor nothing({0}, t.dtype(), t.device());
  point_at(*TensorImpl::of(t), TensorImpl::of(nothing)->storage, nullptr);
}

bool has_contents(const Tensor& t) { return TensorImpl::of(t)->data != nullptr; }

void drop_grad_slot(Tensor& t) {
  detail::Leaf& leaf = TensorImpl::of(t)->leaf_state();
  leaf.slot = leaf.grad = {};
  leaf.has_grad = leaf.claimed = false;
}

}  // namespace pinion
