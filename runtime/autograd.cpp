// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/autograd.h"

#include <algorithm>
#include <atomic>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/op_watch.h"
#include "pinion/runtime/tensor_impl.h"

namespace pinion {

using detail::Leaf;
using detail::TensorImpl;

namespace {

thread_local bool recording = true;
thread_local uint64_t last_order = 0;

// The node whose closure runs on this thread.
struct Running {
  static inline thread_local Node* node = nullptr;
  explicit Running(Node* n) { node = n; }
  ~Running() { node = nullptr; }
};
std::atomic<uint64_t> next_visit{0};

// In debug builds a slot that a closure claims is filled with a NaN that no arithmetic makes: what
// the closure does not write would otherwise pass for a gradient, and be one of an earlier step.
#ifdef NDEBUG
constexpr bool kMarksClaims = false;
#else
constexpr bool kMarksClaims = true;
#endif
constexpr uint16_t kMark = 0xfffb;  // repeated, a quiet NaN of every floating type

bool can_mark(const Tensor& slot) { return kMarksClaims && slot.device() == Device{}; }

void mark(Tensor& slot) {
  auto* words = static_cast<uint16_t*>(slot.mut().data);
  std::fill_n(words, slot.numel() * size_of(slot.dtype()) / 2, kMark);
}

bool holds_mark(const Tensor& slot) {
  const auto* element = static_cast<const uint16_t*>(slot.view().data);
  const int64_t words = size_of(slot.dtype()) / 2;
  for (int64_t i = 0; i < slot.numel(); ++i, element += words)
    if (std::count(element, element + words, kMark) == words) return true;
  return false;
}

void add_in_place(Tensor& sum, const Tensor& term) {
  on(sum.device(), [&](auto& ctx) { kernels::add(ctx, sum, term, sum.mut()); });
}

// sum += term, without writing into memory that somebody else can see.
void gather(Tensor& sum, Tensor&& term) {
  if (!sum.defined()) {
    sum = std::move(term);
  } else if (TensorImpl::unique(sum)) {
    add_in_place(sum, term);
  } else {
    Tensor fresh = Tensor::like(sum);
    on(sum.device(), [&](auto& ctx) { kernels::add(ctx, sum, term, fresh.mut()); });
    sum = std::move(fresh);
  }
}

// Adds one contribution to a leaf. A gradient that a closure wrote into the slot is there already.
void deliver(TensorImpl& impl, Tensor&& g) {
  Leaf& leaf = impl.leaf_state();
  if (!leaf.slot.defined()) {
    if (leaf.grad.defined())
      gather(leaf.grad, std::move(g));
    else
      leaf.grad = TensorImpl::unique(g) ? std::move(g) : g.clone();  // optimizers write into it
    return;
  }
  const bool in_slot = g.view().data == leaf.slot.view().data;
  if (in_slot && (!leaf.has_grad || leaf.claimed)) {
    leaf.claimed = false;
  } else if (leaf.has_grad || leaf.claimed) {  // claimed: the slot holds this closure's other half
    add_in_place(leaf.slot, g);
  } else {
    copy(g.device(), leaf.slot.mut().data, g.device(), g.view().data,
         g.numel() * size_of(g.dtype()));
  }
  leaf.has_grad = true;
}

}  // namespace

bool grad_enabled() { return recording; }
NoGrad::NoGrad() : previous_(std::exchange(recording, false)) {}
NoGrad::~NoGrad() { recording = previous_; }

Node::Node(const char* op, size_t bytes, Inputs inputs)
    : op_(op),
      bytes_(static_cast<uint32_t>(bytes)),
      edge_count_(static_cast<uint32_t>(inputs.size())) {
  if (OpWatch* const watch = op_watch.load(std::memory_order_acquire)) [[unlikely]]
    watch->forward_done(op);
  if (edge_count_ > kInlineEdges) more_ = new Edge[edge_count_];
  Edge* edge = edges();
  for (const Tensor* x : inputs) {
    TensorImpl* impl = TensorImpl::of(*x);
    if (impl && impl->node) {
      edge->node = impl->node;
      edge->node->refs_.up();
      last_order = std::max(last_order, edge->node->order_);  // it may come from another thread
    } else if (impl && impl->requires_grad) {
      edge->leaf = impl;
      impl->refs.up();
    }
    ++edge;
  }
  order_ = ++last_order;
}

Node::~Node() {
  unlink();
  delete[] more_;
}

void Node::unlink() noexcept {
  Edge* edge = edges();
  for (uint32_t i = 0; i < edge_count_; ++i) {
    if (edge[i].node) drop(edge[i].node);
    if (edge[i].leaf) edge[i].leaf->drop();
    edge[i] = {};
  }
}

// Destroying a node drops its inputs' nodes, directly and through what its closure saved. The first
// call on a thread destroys, calls from within only queue, so that the stack stays flat.
void Node::drop(Node* node) noexcept {
  thread_local Node* queue = nullptr;
  thread_local bool destroying = false;
  if (!node->refs_.down()) return;
  node->next_ = std::exchange(queue, node);
  if (std::exchange(destroying, true)) return;
  while (queue) {
    Node* dead = std::exchange(queue, queue->next_);
    const size_t bytes = dead->bytes_;
    dead->~Node();
    release_small(dead, bytes);
  }
  destroying = false;
}

struct Engine {
  // Collects the nodes that y depends on, newest first, and counts the consumers of each leaf.
  static void collect(Node* root, uint64_t visit, std::vector<Node*>& nodes) {
    root->visit_ = visit;
    nodes.push_back(root);
    for (size_t at = 0; at < nodes.size(); ++at) {
      Node* node = nodes[at];
      PINION_CHECK(!node->spent_, "backward: expected a fresh graph, but ", node->op_,
                   " was differentiated before; run the forward pass again");
      Node::Edge* edge = node->edges();
      for (uint32_t i = 0; i < node->edge_count_; ++i) {
        if (Node* input = edge[i].node; input && input->visit_ != visit) {
          input->visit_ = visit;
          nodes.push_back(input);
        } else if (edge[i].leaf) {
          Leaf& leaf = edge[i].leaf->leaf_state();
          if (std::exchange(leaf.visit, visit) != visit) leaf.pending = 0, leaf.touched = false;
          ++leaf.pending;
        }
      }
    }
    const auto newer = [](const Node* a, const Node* b) { return a->order_ > b->order_; };
    if (!std::is_sorted(nodes.begin(), nodes.end(), newer))
      std::sort(nodes.begin(), nodes.end(), newer);
  }

  static void check(const Node& node, uint32_t i, const Tensor& g, const Shape& shape,
                    DType dtype) {
    PINION_CHECK(g.shape() == shape && g.dtype() == dtype, node.op_, ": expected a gradient ",
                 dtype, " ", shape, " for input ", i, ", its backward returned ", g.dtype(), " ",
                 g.shape());
  }

  static void leaf_done(TensorImpl* impl) {
    Leaf& leaf = *impl->leaf;
    if (--leaf.pending > 0 || !leaf.touched) return;
    for (const auto& hook : leaf.hooks) hook(TensorImpl::share(impl));
  }

  static void step(Node* node) {
    Tensors grads;
    const bool reached = node->dy_.defined();
    if (reached) {
      OpWatch* const watch = op_watch.load(std::memory_order_acquire);
      if (watch) [[unlikely]]
        watch->backward_begins(node->op_);
      {
        const Running now(node);
        grads = node->run(node->dy_);
      }
      if (watch) [[unlikely]]
        watch->backward_ends(node->op_);
    }
    node->dy_ = {};
    node->forget();  // saved activations go as soon as they are spent
    PINION_CHECK(!reached || grads.size() == node->edge_count_, node->op_, ": expected ",
                 node->edge_count_, " gradients, its backward returned ", grads.size());
    Node::Edge* edge = node->edges();
    for (uint32_t i = 0; i < node->edge_count_; ++i) {
      const bool defined = reached && grads[i].defined();
      if (Node* input = edge[i].node; input && defined) {
        check(*node, i, grads[i], input->shape_, input->dtype_);
        gather(input->dy_, std::move(grads[i]));
      } else if (TensorImpl* leaf = edge[i].leaf) {
        if (defined) {
          check(*node, i, grads[i], leaf->shape, leaf->dtype);
          const bool claimed = leaf->leaf && leaf->leaf->claimed;
          deliver(*leaf, std::move(grads[i]));
          leaf->leaf->touched = true;
          PINION_CHECK(!claimed || !can_mark(leaf->leaf->slot) || !holds_mark(leaf->leaf->slot),
                       node->op_, ": expected all of the gradient that gradient_for() gave it ",
                       "for input ", i, " to be written, but some is not");
        }
        leaf_done(leaf);
      }
    }
  }

  static Tensor take(uint32_t i) {
    PINION_CHECK(Running::node && i < Running::node->edge_count_,
                 "take_gradient_so_far: expected an input of the running closure, got ", i);
    Node* input = Running::node->edges()[i].node;
    return input ? std::exchange(input->dy_, {}) : Tensor();
  }

  // Unfinished claims on slots must not outlive a failed pass.
  static void abandon(const std::vector<Node*>& nodes) {
    for (Node* node : nodes) {
      node->dy_ = {};
      Node::Edge* edge = node->edges();
      for (uint32_t i = 0; i < node->edge_count_; ++i)
        if (edge[i].leaf && edge[i].leaf->leaf) edge[i].leaf->leaf->claimed = false;
    }
  }

  static void run(Node* root, Tensor dy) {
    thread_local std::vector<Node*> pooled;  // keeps its memory from step to step
    std::vector<Node*> nodes = std::move(pooled);
    nodes.clear();
    const NoGrad no_grad;
    collect(root, next_visit.fetch_add(1, std::memory_order_relaxed) + 1, nodes);
    root->dy_ = std::move(dy);
    try {
      for (Node* node : nodes) step(node);
    } catch (...) {
      abandon(nodes);
      throw;
    }
    // Oldest first: a node is alive until those that consume it let go of it.
    for (size_t i = nodes.size(); i-- > 0;) nodes[i]->unlink();
    pooled = std::move(nodes);
  }

  static Node* node_of(const Tensor& y) {
    TensorImpl* impl = TensorImpl::of(y);
    PINION_CHECK(impl && impl->node,
                 "backward: expected the result of an op on a tensor that requires grad, got ",
                 impl ? "a tensor outside the graph" : "an undefined tensor");
    return impl->node;
  }

  static void attach(TensorImpl* y, Node* node) {
    node->shape_ = y->shape;
    node->dtype_ = y->dtype;
    node->device_ = y->storage->device;
    y->node = node;
  }
};

namespace detail {

bool wants_grad(std::span<const Tensor* const> inputs) {
  if (!recording) return false;
  for (const Tensor* x : inputs)
    if (x->requires_grad()) return true;
  return false;
}

void attach(const Tensor& y, Node* node) { Engine::attach(TensorImpl::of(y), node); }

}  // namespace detail

Tensor gradient_for(const Tensor& x) {
  TensorImpl* impl = TensorImpl::of(x);
  if (impl->leaf && impl->leaf->slot.defined() && !impl->leaf->has_grad && !impl->leaf->claimed) {
    impl->leaf->claimed = true;
    if (can_mark(impl->leaf->slot)) mark(impl->leaf->slot);
    return impl->leaf->slot;
  }
  return Tensor::like(x);
}

Tensor take_gradient_so_far(size_t i) { return Engine::take(static_cast<uint32_t>(i)); }

void backward(const Tensor& y) {
  Node* root = Engine::node_of(y);
  PINION_CHECK(y.numel() == 1, "backward: expected one element, got shape ", y.shape(),
               "; give its gradient as the second argument");
  Engine::run(root, Tensor::full(y.shape(), 1, y.dtype(), y.device()));
}

void backward(const Tensor& y, const Tensor& dy) {
  Node* root = Engine::node_of(y);
  PINION_CHECK(dy.defined() && dy.shape() == y.shape() && dy.dtype() == y.dtype(),
               "backward: expected dy ", y.dtype(), " ", y.shape());
  Engine::run(root, dy);
}

}  // namespace pinion
