// SPDX-License-Identifier: Apache-2.0
// What the group over NCCL computes, against the local group, and how its work runs beside the
// device's own.
#include <atomic>
#include <cstring>
#include <thread>

#include "nccl_testing.h"
#include "pinion/dist/parallel/distributed_data_parallel.h"
#include "pinion/kernels/kernels.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/sgd.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Ranks, NcclGroups, testing::Values(2, 3, kMostRanks),
                         testing::PrintToStringParamName());
class NcclGroup : public NcclGroups {};

void on_host(int ranks, const Body& body) {
  run_local(ranks, [&](ProcessGroup& group) { body(group, {}); });
}

// Rank r's `count` numbers, which have all bits in 32-bit types and round in 16-bit sums.
Tensor numbers(int rank, int64_t count, DType dtype, Device device, double scale = 1) {
  std::vector<float> v;
  for (int64_t i = 0; i < count; ++i)
    v.push_back(static_cast<float>(scale * double((i * 40503 + rank * 977) % 101) * 1.17));
  Tensor out({count}, dtype);
  kernels::cast(cpu_context(), Tensor::of(v, {count}), out.mut());
  return out.to(device);
}

class Bytes {
 public:
  void add(const Tensor& t) {
    const Tensor host = t.to(Device{});
    const auto* data = static_cast<const char*>(host.view().data);
    if (t.numel()) bytes_.append(data, static_cast<size_t>(t.numel() * size_of(t.dtype())));
  }
  const std::string& text() const { return bytes_; }

 private:
  std::string bytes_;
};

// What `body` adds on every rank.
using Results = std::vector<std::string>;
Results results(int ranks, const std::function<void(int, const Body&)>& run,
                const std::function<void(ProcessGroup&, Device, Bytes&)>& body) {
  Results out(static_cast<size_t>(ranks));
  run(ranks, [&](ProcessGroup& group, Device device) {
    Bytes bytes;
    body(group, device, bytes);
    out[static_cast<size_t>(group.rank())] = bytes.text();
  });
  return out;
}
void expect_same_as_on_host(int ranks,
                            const std::function<void(ProcessGroup&, Device, Bytes&)>& body) {
  const Results host = results(ranks, on_host, body), devices = results(ranks, on_devices, body);
  for (size_t r = 0; r < host.size(); ++r) {
    EXPECT_FALSE(host[r].empty());
    EXPECT_TRUE(host[r] == devices[r]) << "of rank " << r;
  }
}

constexpr int64_t kCounts[] = {0, 1, 5, 1000};

TEST_P(NcclGroups, ReductionsAreThoseOfTheLocalGroup) {
  expect_same_as_on_host(GetParam(), [](ProcessGroup& group, Device device, Bytes& out) {
    const int rank = group.rank(), n = group.size();
    for (const DType t :
         {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8})
      for (const ReduceOp op : {ReduceOp::sum, ReduceOp::mean, ReduceOp::min, ReduceOp::max})
        for (const int64_t count : kCounts) {
          if (op == ReduceOp::mean && !is_floating(t)) continue;
          const Tensor x = numbers(rank, count, t, device), part({count}, t, device);
          group.all_reduce(x, op).wait();
          out.add(x);
          group.reduce_scatter(part, numbers(rank, count * n, t, device), op).wait();
          out.add(part);
        }
  });
}

TEST_P(NcclGroups, MovesAreThoseOfTheLocalGroup) {
  expect_same_as_on_host(GetParam(), [](ProcessGroup& group, Device device, Bytes& out) {
    const int rank = group.rank(), n = group.size();
    for (const DType t : {DType::f32, DType::bf16, DType::i64, DType::boolean})
      for (const int64_t count : kCounts) {
        const Tensor x = numbers(rank, count, t, device), all({count * n}, t, device);
        group.all_gather(all, x).wait();
        out.add(all);
        const Tensor blocks({count * n}, t, device);
        group.all_to_all(blocks, numbers(rank, count * n, t, device)).wait();
        out.add(blocks);
        for (int root = 0; root < n; ++root) {
          const Tensor y = numbers(rank, count, t, device);
          group.broadcast(y, root).wait();
          out.add(y);
        }
        group.barrier().wait();
      }
  });
}

// Around the ring, and rank 0 first: every message meets its partner's call.
TEST_P(NcclGroups, MessagesGoRound) {
  expect_same_as_on_host(GetParam(), [](ProcessGroup& group, Device device, Bytes& out) {
    const int rank = group.rank(), n = group.size();
    const int next = (rank + 1) % n, before = (rank + n - 1) % n;
    for (int round = 0; round < 3; ++round) {
      const Tensor x = numbers(rank + round, 700, DType::f32, device);
      const Tensor y({700}, DType::f32, device);
      if (rank == 0) group.send(x, next).wait();
      group.receive(y, before).wait();
      if (rank != 0) group.send(x, next).wait();
      out.add(y);
    }
  });
}

TEST_P(NcclGroups, ReducesAndGathersInPlace) {
  expect_same_as_on_host(GetParam(), [](ProcessGroup& group, Device device, Bytes& out) {
    const int rank = group.rank(), n = group.size();
    Tensor x = numbers(rank, 6 * n, DType::f32, device);
    const Tensor mine = x.rows(rank * 6, (rank + 1) * 6);
    group.reduce_scatter(mine, x).wait();
    out.add(mine);
    group.all_gather(x, mine).wait();
    out.add(x);
  });
}

// --- beside the device's own work ---

// What was launched before a call comes before it, and what is launched after wait() comes after;
// and memory that is dropped under way goes to nobody else yet.
TEST_P(NcclGroups, KeepsTheOrderOfTheDevicesWork) {
  on_devices(GetParam(), [](ProcessGroup& group, Device device) {
    const int n = group.size();
    const double ranks = n * (n + 1) / 2.0;
    const Shape shape{500};
    for (int run = 0; run < 25; ++run) {
      Tensor result({n * 500}, DType::f32, device),
          sum = Tensor::full(shape, 0, DType::f32, device);
      Work gathered, reduced;
      {
        Tensor x(shape, DType::f32, device);
        on(device, [&](auto& ctx) { kernels::fill(ctx, x.mut(), run + group.rank()); });
        gathered = group.all_gather(result, x);
        on(device, [&](auto& ctx) { kernels::fill(ctx, sum.mut(), (group.rank() + 1) * run); });
        reduced = group.all_reduce(sum);
      }
      for (int i = 0; i < 3; ++i) Tensor::full(shape, -1, DType::f32, device);  // in its place?
      reduced.wait();
      Tensor twice(shape, DType::f32, device);
      on(device, [&](auto& ctx) { kernels::add(ctx, sum, sum, twice.mut()); });
      gathered.wait();
      for (const float v : twice.to(Device{}).values<float>()) ASSERT_EQ(v, 2 * run * ranks);
      const std::vector<float> all = result.to(Device{}).values<float>();
      for (size_t i = 0; i < all.size(); ++i)
        ASSERT_EQ(all[i], static_cast<float>(run) + static_cast<float>(i / 500));
    }
  });
}

TEST_P(NcclGroups, WorkIsDoneWhenAllHaveCome) {
  std::atomic<bool> may_come{false}, looked{false};
  on_devices(GetParam(), [&](ProcessGroup& group, Device device) {
    for (const bool barrier : {true, false}) {
      const Tensor x = Tensor::full({10}, 1, DType::f32, device);
      while (group.rank() == 1 && !may_come) std::this_thread::yield();
      Work work = barrier ? group.barrier() : group.all_reduce(x);
      if (group.rank() == 0) {
        std::this_thread::sleep_for(milliseconds(20));
        EXPECT_FALSE(work.done());
        may_come = true;
      }
      while (!work.done()) std::this_thread::yield();
      work.wait();
      const float sum = x.to(Device{}).values<float>()[0];
      EXPECT_EQ(sum, barrier ? 1 : float(group.size()));
      group.barrier().wait();
      may_come = false;
      group.barrier().wait();
    }
  });
}

TEST_F(NcclGroup, ACallMayComeFromAnotherThreadAtAnotherDevice) {
  on_devices(2, [](ProcessGroup& group, Device device) {
    const Tensor x = Tensor::full({10}, 1, DType::f32, device);
    std::thread([&] { group.all_reduce(x).wait(); }).join();  // its device is the first
    EXPECT_EQ(x.to(Device{}).values<float>()[9], 2);
  });
}

TEST_F(NcclGroup, RecordsItsCalls) {
  on_devices(2, [](ProcessGroup& group, Device device) {
    group.all_reduce(Tensor::zeros({3}, DType::f32, device)).wait();
    group.barrier().wait();
    EXPECT_THAT(group.recent_calls(), AllOf(HasSubstr("#1 all_reduce(sum, f32, 3) took"),
                                            HasSubstr("#2 barrier() took")));
    EXPECT_STREQ(group.backend(), "nccl");
  });
}

// --- training ---

// Weights and gradients of a small model after a few steps of DistributedDataParallel.
void train(ProcessGroup& group, Device device, Bytes& out) {
  constexpr int64_t kRows = 4, kFeatures = 5, kHidden = 7, kClasses = 3;
  struct Net : nn::Module {
    nn::Linear first{kFeatures, kHidden}, last{kHidden, kClasses};
    Tensor operator()(const Tensor& x) const { return last(first(x, Activation::relu)); }
    void fields(nn::Fields& f) override { f("first", first), f("last", last); }
  } net;
  for (const nn::NamedTensor& p : net.named_parameters()) {
    const Tensor v = numbers(group.rank(), p.tensor.numel(), DType::f32, {}, 0.002);
    Tensor(p.tensor).copy_(v.alias(p.tensor.shape()));  // those of rank 0 count
  }
  net.to(device);
  optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
  DdpOptions options;
  options.first_bucket_bytes = 64;  // several
  options.bucket_bytes = 100;
  options.verify = Verify::off;
  DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, options);
  for (int step = 0; step < 3; ++step) {
    const Tensor x = numbers(10 * step + group.rank(), kRows * kFeatures, DType::f32, device, 0.01);
    std::vector<int64_t> y;
    for (int64_t i = 0; i < kRows; ++i) y.push_back((i + step + group.rank()) % kClasses);
    const Tensor logits = ddp(x.alias({kRows, kFeatures}));
    ddp.backward(nn::cross_entropy(logits, Tensor::of(y, {kRows}).to(device)));
    for (const Tensor& p : net.parameters()) out.add(p.grad());
    sgd.step();
    sgd.zero_grad();
  }
  for (const Tensor& p : net.parameters()) out.add(p);
}

TEST_P(NcclGroups, TrainsAsTheLocalGroupDoes) {
  const Results host = results(GetParam(), on_host, train);
  const Results devices = results(GetParam(), on_devices, train);
  for (size_t r = 0; r < host.size(); ++r) {
    EXPECT_TRUE(devices[r] == devices[0]) << "rank " << r << " has other bits than rank 0";
    ASSERT_EQ(host[r].size(), devices[r].size());
    std::vector<float> a(host[r].size() / sizeof(float)), b(a.size());
    std::memcpy(a.data(), host[r].data(), host[r].size());
    std::memcpy(b.data(), devices[r].data(), devices[r].size());
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << i;
  }
}

}  // namespace
}  // namespace pinion::dist
