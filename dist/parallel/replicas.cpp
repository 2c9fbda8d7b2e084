// SPDX-License-Identifier: Apache-2.0
// Replicates, cuts, gathers, and adds gradients up on all threads.
#include "pinion/dist/parallel/replicas.h"

#include <algorithm>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {
namespace {

constexpr int64_t kChunk = 16 << 10;  // elements that stay in cache while replicas are added

class Inventory final : public nn::Fields::Visitor {
 public:
  void counter(const std::string& /*name*/, uint64_t& count) override {
    counters.push_back(&count);
  }
  void module(const std::string& /*name*/, nn::Module& module) override {
    modules.push_back(&module);
  }
  std::vector<uint64_t*> counters;
  std::vector<nn::Module*> modules;
};

// Puts other tensors into a module, one for each that it has, however many names that one has.
template <class Make>
class Replacement final : public nn::Fields::Visitor {
 public:
  explicit Replacement(Make make) : make_(make) {}
  void parameter(const std::string& /*name*/, Tensor& t) override { replace(t, true); }
  void buffer(const std::string& /*name*/, Tensor& t) override { replace(t, false); }

 private:
  void replace(Tensor& t, bool is_parameter) {
    for (const auto& [before, after] : done_)
      if (before.same(t)) {
        t = after;
        return;
      }
    Tensor made = make_(t, is_parameter);
    made.requires_grad(t.requires_grad());
    done_.emplace_back(t, made);
    t = made;
  }
  Make make_;
  std::vector<std::pair<Tensor, Tensor>> done_;
};

Tensor flat(const Tensor& x) { return x.alias({x.numel()}); }

// a + scale b, on a's device; a may be undefined.
Tensor add_scaled(const Tensor& a, const Tensor& b, double scale, Device device) {
  const Tensor here = b.to(device);
  Tensor y = Tensor::like(here);
  on(device, [&](auto& ctx) {
    kernels::affine(ctx, here, scale, 0, y.mut());
    if (a.defined()) kernels::add(ctx, a, y, y.mut());
  });
  return y;
}

}  // namespace

struct Replicas::Replica {
  explicit Replica(nn::Module& m) : module(&m), params(m.parameters()) {
    for (const nn::NamedTensor& b : m.named_buffers()) buffers.push_back(b.tensor);
    Inventory found;
    nn::Fields all(found);
    m.fields(all);
    counters = std::move(found.counters);
    modules = std::move(found.modules);
    modules.insert(modules.begin(), &m);
  }
  nn::Module* module;
  std::vector<Tensor> params, buffers;  // in the order of the module
  std::vector<optim::Arena> arenas;     // as the optimizer's; of replicas 1 …
  std::vector<uint64_t*> counters;
  std::vector<nn::Module*> modules;
};

struct Replicas::Piece {
  size_t arena;
  int64_t begin, end;         // elements of the arena
  Tensor into;                // [end - begin] in the arena's gradients, or memory elsewhere
  bool loose;                 // elsewhere
  bool written;               // into holds something that counts
  std::vector<int> replicas;  // that have a gradient
};

Replicas::Replicas(nn::Module& module, optim::Optimizer& optimizer,
                   const DataParallelOptions& options)
    : main_(std::make_unique<Replica>(module)),
      devices_(options.devices),
      arenas_(optimizer.arenas()),
      threads_(static_cast<int>(options.devices.size()), options.cpu_threads_each) {
  std::vector<bool> held(main_->params.size());
  for (size_t a = 0; a < arenas_.size(); ++a)
    for (size_t i = 0; i < arenas_[a]->items().size(); ++i)
      for (size_t p = 0; p < held.size(); ++p)
        if (arenas_[a]->items()[i].param.same(main_->params[p]))
          held[p] = true, items_.push_back({a, i, p});
  for (size_t p = 0; p < held.size(); ++p) {
    const Tensor& t = main_->params[p];
    PINION_CHECK(t.device() == devices_[0], "DataParallel: expected the module on ",
                 devices_[0].name(), ", got a parameter on ", t.device().name());
    PINION_CHECK(held[p] || !t.requires_grad(),
                 "DataParallel: expected an optimizer of all trainable parameters");
    if (!held[p]) loose_.push_back(p);
  }
}

Replicas::~Replicas() = default;

void Replicas::adopt(nn::Module& copy) {
  const size_t index = replicas_.size();
  const Device device = devices_[index];
  Replacement visitor([&](const Tensor& t, bool is_parameter) {
    if (index == 0) return is_parameter ? t.detach() : t;  // the same memory, gradients of its own
    Tensor own(t.shape(), t.dtype(), device);
    own.copy_(t);
    return own;
  });
  {
    const MemoryTagScope tag(MemoryTag::parameters);
    nn::Fields all(visitor);
    copy.fields(all);
  }
  Replica& replica = replicas_.emplace_back(copy);
  if (index == 0) return;
  std::vector<std::vector<nn::NamedTensor>> lists(arenas_.size());
  for (const Item& item : items_)
    lists[item.arena].push_back(
        {arenas_[item.arena]->items()[item.index].name, replica.params[item.param]});
  for (std::vector<nn::NamedTensor>& list : lists) replica.arenas.emplace_back(std::move(list));
}

std::vector<Replicas::Part> Replicas::parts_of(int64_t batch) const {
  PINION_CHECK(batch > 0, "DataParallel: expected a batch of at least one sample, got none");
  const int64_t each = (batch + count() - 1) / count();
  std::vector<Part> parts;
  for (int64_t at = 0; at < batch; at += each)
    parts.push_back({at, std::min(at + each, batch), devices_[parts.size()]});
  return parts;
}

// Modes, counters and buffers follow the module's, before anyone runs: device 0 writes into its
// buffers. A replica's draws are far from everyone else's.
void Replicas::prepare() {
  for (size_t r = 0; r < replicas_.size(); ++r) {
    Replica& replica = replicas_[r];
    for (size_t m = 0; m < replica.modules.size(); ++m)
      if (replica.modules[m]->training() != main_->modules[m]->training())
        replica.modules[m]->train(main_->modules[m]->training());
    for (size_t c = 0; c < replica.counters.size(); ++c)
      *replica.counters[c] = *main_->counters[c] + (uint64_t{r} << 40);
    if (r == 0) continue;  // its memory is the module's
    for (size_t b = 0; b < replica.buffers.size(); ++b) replica.buffers[b].copy_(main_->buffers[b]);
  }
}

void Replicas::replicate(Replica& replica) const {
  for (size_t a = 0; a < replica.arenas.size(); ++a)
    replica.arenas[a].params().copy_(arenas_[a]->params());
  for (const size_t p : loose_) replica.params[p].copy_(main_->params[p]);
}

Replicas::Piece Replicas::piece_of(const Item& item, const Tensor& into, bool written,
                                   size_t parts) const {
  const optim::Arena& arena = *arenas_[item.arena];
  const optim::Arena::Item& at = arena.items()[item.index];
  Piece piece{item.arena, at.offset, at.offset + at.numel, flat(into), true, written, {}};
  if (into.view().data == at.grad.view().data) {
    piece.loose = false;
    piece.end =
        item.index + 1 < arena.items().size() ? arena.items()[item.index + 1].offset : arena.size();
  }
  for (size_t r = 1; r < parts; ++r)
    if (replicas_[r].params[item.param].grad().defined())
      piece.replicas.push_back(static_cast<int>(r));
  return piece;
}

// One thread's share of a piece.
void Replicas::add_up(const Piece& piece, int thread, int threads) {
  const int64_t n = piece.end - piece.begin;
  const int64_t share = ((n + threads - 1) / threads + 63) / 64 * 64;
  const int64_t end = std::min(n, share * (thread + 1));
  Tensor into =
      piece.loose ? piece.into : arenas_[piece.arena]->grads().rows(piece.begin, piece.end);
  for (int64_t at = share * thread; at < end; at += kChunk) {
    const int64_t stop = std::min(at + kChunk, end);
    Tensor sum = into.rows(at, stop);
    bool written = piece.written;
    for (const int r : piece.replicas) {
      optim::Arena& from = replicas_[static_cast<size_t>(r)].arenas[piece.arena];
      const Tensor term = from.grads().rows(piece.begin + at, piece.begin + stop).to(into.device());
      if (written)
        on(sum.device(), [&](auto& ctx) { kernels::add(ctx, sum, term, sum.mut()); });
      else
        sum.copy_(term);
      written = true;
    }
  }
}

void Replicas::reduce(const std::vector<Piece>& items) {
  std::vector<Piece> pieces;
  for (const Piece& next : items) {
    if (next.replicas.empty()) continue;
    if (!pieces.empty()) {
      Piece& last = pieces.back();
      if (!last.loose && !next.loose && last.arena == next.arena && last.end == next.begin &&
          last.written == next.written && last.replicas == next.replicas) {
        last.end = next.end;
        continue;
      }
    }
    pieces.push_back(next);
  }
  const bool on_host = devices_[0].kind == Device::Kind::cpu;
  threads_.run([&](int i) {
    if (!on_host && i > 0) return;  // one stream takes it all
    for (const Piece& piece : pieces) add_up(piece, i, on_host ? count() : 1);
  });
}

Tensor Replicas::step(int64_t batch, const Run& run) {
  const std::vector<Part> parts = parts_of(batch);
  std::vector<Tensor> losses(parts.size());
  const auto weight = [&](size_t i) {
    return static_cast<double>(parts[i].end - parts[i].begin) / static_cast<double>(batch);
  };
  prepare();
  for (Replica& replica : replicas_)
    for (optim::Arena& arena : replica.arenas) arena.zero_grad();
  threads_.run([&](int i) {
    const auto at = static_cast<size_t>(i);
    if (at >= parts.size()) return;
    if (i > 0) replicate(replicas_[at]);
    const Tensor loss = run(i, parts[at]);
    PINION_CHECK(loss.defined() && loss.numel() == 1,
                 "DataParallel: expected a loss of one element from each replica");
    losses[at] = loss.detach();
    if (grad_enabled())
      backward(loss, Tensor::full(loss.shape(), weight(at), loss.dtype(), loss.device()));
  });
  if (grad_enabled()) {
    std::vector<Piece> pieces;
    for (const Item& item : items_) {
      const optim::Arena::Item& own = arenas_[item.arena]->items()[item.index];
      pieces.push_back(piece_of(item, own.grad, own.param.grad().defined(), parts.size()));
    }
    reduce(pieces);
    for (size_t i = 0; i < items_.size(); ++i)
      if (!pieces[i].replicas.empty() && !pieces[i].written)
        main_->params[items_[i].param].set_grad(
            arenas_[items_[i].arena]->items()[items_[i].index].grad);
  }
  Tensor mean;
  for (size_t i = 0; i < parts.size(); ++i)
    mean = add_scaled(mean, losses[i], weight(i), devices_[0]);
  return mean;
}

Tensor Replicas::forward(int64_t batch, const Run& run) {
  const std::vector<Part> parts = parts_of(batch);
  std::vector<Tensor> results(parts.size());
  prepare();
  threads_.run([&](int i) {
    const auto at = static_cast<size_t>(i);
    if (at >= parts.size()) return;
    if (i > 0) replicate(replicas_[at]);
    results[at] = run(i, parts[at]);
    PINION_CHECK(results[at].rank() > 0 && results[at].size(0) == parts[at].end - parts[at].begin,
                 "DataParallel: expected a result for each of ", parts[at].end - parts[at].begin,
                 " samples, got ", results[at].shape());
  });
  for (size_t c = 0; c < main_->counters.size(); ++c)
    *main_->counters[c] = *replicas_[0].counters[c];
  Tensor y(results[0].shape().with(0, batch), results[0].dtype(), devices_[0]);
  threads_.run([&](int i) {
    const auto at = static_cast<size_t>(i);
    if (at < parts.size()) y.rows(parts[at].begin, parts[at].end).copy_(results[at].detach());
  });
  Tensors inputs;
  for (const Tensor& p : main_->params) inputs.push_back(p);
  return record("data_parallel", std::move(y), inputs, [this, results, parts](const Tensor& dy) {
    return backward_of(results, parts, dy);
  });
}

// Replica 0 writes straight into the module's gradients, the others into their own arenas.
Tensors Replicas::backward_of(const std::vector<Tensor>& results, const std::vector<Part>& parts,
                              const Tensor& dy) {
  std::vector<Tensor> into(main_->params.size());
  for (size_t p = 0; p < into.size(); ++p) {
    if (!main_->params[p].requires_grad()) continue;
    into[p] = gradient_for(main_->params[p]);
    replicas_[0].params[p].set_grad({});
    replicas_[0].params[p].set_grad_slot(into[p]);
  }
  for (Replica& replica : replicas_)
    for (optim::Arena& arena : replica.arenas) arena.zero_grad();
  threads_.run([&](int i) {
    const auto at = static_cast<size_t>(i);
    if (at >= parts.size() || !results[at].requires_grad()) return;
    backward(results[at], dy.rows(parts[at].begin, parts[at].end).to(parts[at].device));
  });
  std::vector<Piece> pieces;
  for (const Item& item : items_)
    if (into[item.param].defined())
      pieces.push_back(piece_of(item, into[item.param],
                                replicas_[0].params[item.param].grad().defined(), parts.size()));
  reduce(pieces);
  std::vector<bool> used(into.size());
  size_t at = 0;
  for (const Item& item : items_)
    if (into[item.param].defined()) {
      const Piece& piece = pieces[at++];
      used[item.param] = piece.written || !piece.replicas.empty();
    }
  Tensors out;
  for (size_t p = 0; p < into.size(); ++p) {
    if (!used[p] && into[p].defined() && !main_->params[p].grad().defined())
      main_->params[p].set_grad({});  // gives back the slot that gradient_for() claimed
    out.push_back(used[p] ? into[p] : Tensor());
  }
  return out;
}

}  // namespace pinion::dist
