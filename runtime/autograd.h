// SPDX-License-Identifier: Apache-2.0
// Reverse-mode differentiation. An op computes its result and calls record() with a closure that
// maps the gradient of the result to the gradients of the inputs; the captures are what is saved.
// backward() runs the closures newest first. First order only; graph tensors are not written in
// place.
#pragma once

#include <initializer_list>
#include <new>
#include <span>

#include "pinion/runtime/tensor.h"

namespace pinion {

// One recorded op. Lives in one free-list block together with its closure.
class Node {
 public:
  const char* op() const { return op_; }
  static void drop(Node* node) noexcept;  // gives up one reference; long chains do not recurse

 protected:
  using Inputs = std::span<const Tensor* const>;
  Node(const char* op, size_t bytes, Inputs inputs);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node();
  virtual Tensors run(const Tensor& dy) = 0;
  virtual void forget() noexcept = 0;  // destroys the closure and what it saved
  bool spent_ = false;                 // the closure is gone

 private:
  friend struct Engine;
  // Where the gradient of one input goes: the op that made it, or the leaf itself. Both are counted
  // references; neither is set where no gradient is wanted. The input's memory is not kept.
  struct Edge {
    Node* node = nullptr;
    detail::TensorImpl* leaf = nullptr;
  };
  static constexpr uint32_t kInlineEdges = 4;
  Edge* edges() { return more_ ? more_ : inline_; }
  void unlink() noexcept;

  const char* op_;
  detail::RefCount refs_;
  uint32_t bytes_;  // of this block
  uint32_t edge_count_;
  DType dtype_{};  // of the op's result, as its shape and device
  Device device_;
  Shape shape_;
  uint64_t order_;        // of creation on its thread, and above that of its inputs
  uint64_t visit_ = 0;    // the backward() that met this node last
  Tensor dy_;             // gradient gathered so far
  Node* next_ = nullptr;  // in the list of nodes to destroy
  Edge inline_[kInlineEdges];
  Edge* more_ = nullptr;
};

// True unless a NoGrad lives on this thread.
bool grad_enabled();

class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};

namespace detail {

bool wants_grad(std::span<const Tensor* const> inputs);
void attach(const Tensor& y, Node* node);  // takes the node over

template <class Backward>
class NodeOf final : public Node {
 public:
  NodeOf(const char* op, Inputs inputs, Backward&& backward) : Node(op, sizeof(NodeOf), inputs) {
    new (closure_) Backward(std::move(backward));
  }
  ~NodeOf() override { forget(); }

 private:
  Backward& closure() { return *std::launder(reinterpret_cast<Backward*>(closure_)); }
  Tensors run(const Tensor& dy) override { return closure()(dy); }
  void forget() noexcept override {
    if (!spent_) closure().~Backward();
    spent_ = true;
  }
  alignas(Backward) std::byte closure_[sizeof(Backward)];
};

template <class Backward>
Tensor record(const char* op, Tensor y, std::span<const Tensor* const> inputs, Backward backward) {
  if (!wants_grad(inputs)) return y;
  using N = NodeOf<Backward>;
  attach(y, new (allocate_small(sizeof(N))) N(op, inputs, std::move(backward)));
  return y;
}

}  // namespace detail

// Attaches the graph edge to y and returns it; does nothing under NoGrad or when no input needs a
// gradient. `backward` maps dy to one gradient per input, in their order; an undefined Tensor means
// "none". A closure must not capture y itself but y.detach(), or the graph would never be freed.
//   return record("relu", y, {&x}, [y = y.detach()](const Tensor& dy) -> Tensors { … });
template <class Backward>
Tensor record(const char* op, Tensor y, std::initializer_list<const Tensor*> inputs,
              Backward backward) {
  return detail::record(op, std::move(y), std::span(inputs.begin(), inputs.size()),
                        std::move(backward));
}
template <class Backward>
Tensor record(const char* op, Tensor y, const Tensors& inputs, Backward backward) {
  std::vector<const Tensor*> pointers(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) pointers[i] = &inputs[i];
  return detail::record(op, std::move(y), std::span<const Tensor* const>(pointers),
                        std::move(backward));
}

// Where a closure should write the gradient of input x: the leaf's slot (a range of a flat arena)
// when this is its first contribution, else a fresh tensor like x. The contents are undefined; who
// asks must write all of them and return the tensor (debug builds check it on CPUs).
Tensor gradient_for(const Tensor& x);

// For a closure that adds up gradients itself: what has come so far for its input i, an op's
// result, from ops that were recorded later than the closure's. The closure must return the sum of
// it and its own gradient. Undefined where nothing has come. Only within a running closure.
Tensor take_gradient_so_far(size_t i);

// Fills grad() of every leaf that y depends on, adding to what is there, with dy as y's gradient;
// dy is 1 when left out, and y must then have one element. Spends the graph: a second backward()
// through it throws. Throws Error (internal) when y depends on no leaf, or when a closure returns a
// gradient of another shape or dtype than its input.
void backward(const Tensor& y);
void backward(const Tensor& y, const Tensor& dy);

}  // namespace pinion
