// SPDX-License-Identifier: Apache-2.0
// Each scheme is written as its user would write it; everything else is shared.
#include "pinion/bench/dp_vs_ddp/trainer.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "pinion/dist/parallel/data_parallel.h"
#include "pinion/dist/parallel/distributed_data_parallel.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/init.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/allocator.h"
#include "pinion/runtime/autograd.h"

namespace pinion::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBatches = 4;  // that steps go through in turn
constexpr double kExact = 1e-6;
// Adam's steps are g / (|g| + eps) at first: with a tiny eps, rounding in a gradient near zero
// would become a whole step, and no two orders of summation would end alike.
constexpr optim::AdamOptions kAdam{.lr = 1e-4, .eps = 1e-5};

constexpr SchemeFacts kSchemes[] = {
    {Scheme::one, "one-device", "one device, one core, the whole batch", false, 0, kExact},
    {Scheme::one_all_cores, "one-device-all-cores", "one device, a thread on every core", false, 0,
     kExact},
    {Scheme::one_share, "one-share", "one device alone with its share of the batch", false, 0, 0},
    {Scheme::dp_pytorch, "dp-pytorch-like", "DataParallel, logits and loss on device 0", false, 0,
     kExact},
    {Scheme::dp_tuned, "dp-tuned", "DataParallel, a loss per device", false, 0, kExact},
    {Scheme::ddp, "ddp", "DistributedDataParallel", true, 0, kExact},
    {Scheme::ddp_bf16, "ddp-bf16", "the same, gradients sent as bf16", true, 0, 1e-2},
    {Scheme::zero1, "zero1", "ZeRO 1: optimizer state sharded", true, 1, kExact},
    {Scheme::zero2, "zero2", "ZeRO 2: gradients too", true, 2, kExact},
    {Scheme::zero3, "zero3", "ZeRO 3: parameters too", true, 3, kExact},
};

class Watch {
 public:
  void lap(double& sum) {
    const auto now = Clock::now();
    sum += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  Clock::time_point last_ = Clock::now();
};

}  // namespace

std::span<const SchemeFacts> schemes() { return kSchemes; }

const SchemeFacts& facts_of(Scheme scheme) { return kSchemes[static_cast<size_t>(scheme)]; }

Scheme scheme_named(const std::string& name) {
  std::string names;
  for (const SchemeFacts& s : kSchemes) {
    if (name == s.name) return s.scheme;
    names += (names.empty() ? "" : ", ") + std::string(s.name);
  }
  fail(ErrorKind::usage, {"--schemes: expected ", names, ", got ", name});
}

struct Trainer::Parts {
  Parts(const Cell& cell, Scheme s, int devices, std::shared_ptr<dist::ProcessGroup> g)
      : scheme(s), group(std::move(g)), net((manual_seed(5), cell)), adam(parameters(net), kAdam) {
    PINION_CHECK(net.parameter_count() == parameter_count(cell),
                 "dp_vs_ddp: parameter_count() is wrong for ", cell.name);
    const int64_t global = cell.per_device * devices;
    int64_t begin = 0, end = global;
    if (s == Scheme::one_share) end = cell.per_device;
    if (group) begin = group->rank() * cell.per_device, end = begin + cell.per_device;
    batches = make_batches(cell, global, begin, end, kBatches);
    const SchemeFacts& facts = facts_of(s);
    if (s == Scheme::dp_pytorch || s == Scheme::dp_tuned)
      dp.emplace(net, adam,
                 dist::DataParallelOptions{std::vector<Device>(static_cast<size_t>(devices)), 1});
    if (facts.zero > 0)
      zero.emplace(net, adam, *group, dist::ZeroOptions{.stage = facts.zero, .units = net.units()});
    if (facts.ranks && facts.zero == 0) {
      const MemoryTagScope tag(MemoryTag::gradients);
      dist::DdpOptions options;
      if (s == Scheme::ddp_bf16) options.hook = dist::bf16_compress_hook();
      ddp.emplace(net, adam, group, options);
    }
  }
  static std::vector<nn::NamedTensor> parameters(Net& net) { return net.named_parameters(); }

  // Loss and gradients of a batch.
  void differentiate(const Batch& b, Phases& phases, Watch& watch) {
    if (scheme == Scheme::dp_tuned) {
      const auto of_replica = [](Net& replica, const Tensor& x, const Tensor& ids,
                                 const Tensor& y) { return nn::cross_entropy(replica(x, ids), y); };
      loss = dp->step(of_replica, b.x, b.ids, b.y);
      return watch.lap(phases.backward);
    }
    const Tensor logits = scheme == Scheme::dp_pytorch ? (*dp)(b.x, b.ids)
                          : ddp                        ? (*ddp)(b.x, b.ids)
                          : zero                       ? net.forward(b.x, b.ids, run_unit)
                                                       : net(b.x, b.ids);
    loss = nn::cross_entropy(logits, b.y);
    watch.lap(phases.forward);
    backward(loss);
    watch.lap(phases.backward);
    if (!ddp) return;
    ddp->reducer().finish();  // as ddp.backward() does
    watch.lap(phases.exchange);
  }

  Scheme scheme;
  std::shared_ptr<dist::ProcessGroup> group;
  Net net;
  optim::Adam adam;
  std::vector<Batch> batches;
  std::optional<dist::DataParallel<Net>> dp;
  std::optional<dist::DistributedDataParallel<Net>> ddp;
  std::optional<dist::Zero> zero;
  RunUnit run_unit = [this](nn::Module& unit, const std::function<Tensor()>& f) {
    return zero->run(unit, f);
  };
  Tensor loss;
};

Trainer::Trainer(const Cell& cell, Scheme scheme, int devices,
                 std::shared_ptr<dist::ProcessGroup> group)
    : parts_(std::make_unique<Parts>(cell, scheme, devices, std::move(group))) {}
Trainer::~Trainer() = default;

void Trainer::step(int number, Phases& phases) {
  Parts& p = *parts_;
  Watch watch;
  p.differentiate(p.batches[static_cast<size_t>(number % kBatches)], phases, watch);
  p.adam.step();
  p.adam.zero_grad();
  p.loss = p.loss.detach();
  watch.lap(phases.update);
}

double Trainer::loss() const { return parts_->loss.item(); }

std::vector<float> Trainer::weights() {
  std::optional<dist::Zero::Whole> whole;
  if (parts_->zero) whole.emplace(*parts_->zero);
  std::vector<float> out;
  for (const Tensor& p : parts_->net.parameters()) {
    const std::vector<float> values = p.values<float>();
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

}  // namespace pinion::bench
