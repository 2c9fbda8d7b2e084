// SPDX-License-Identifier: Apache-2.0
// The operations of a process group by 1 to 4 ranks, as threads and as processes, against sums
// taken one after the other.
#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "dist_testing.h"

namespace pinion::dist {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Setting = std::tuple<const char*, int>;  // backend, ranks
class Groups : public testing::TestWithParam<Setting> {
 protected:
  std::string backend() const { return std::get<0>(GetParam()); }
  int ranks() const { return std::get<1>(GetParam()); }
  void run(const Body& body) const { run_ranks(backend(), ranks(), body); }
};
INSTANTIATE_TEST_SUITE_P(All, Groups,
                         testing::Combine(testing::Values("local", "shm"),
                                          testing::Values(1, 2, 3, 4)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + std::to_string(std::get<1>(test.param));
                         });

// Where the tensors of a test lie.
enum class Lie { aside, symmetric, mixed };

Tensor place(ProcessGroup& group, Lie lie, int64_t count, DType dtype) {
  const bool shared = lie == Lie::symmetric || (lie == Lie::mixed && group.rank() % 2 == 0);
  return shared ? group.symmetric({count}, dtype, {}) : Tensor::zeros({count}, dtype);
}

// Element i of rank r's input; sums of these round in f32 and below.
template <class T>
T value(int r, int64_t i) {
  const int64_t mixed = (i * 2654435761 + r * 40503) % 1009;
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(mixed - (std::is_signed_v<T> ? 500 : 0));
  else
    return T(static_cast<float>(mixed - 500) * 0.37F + static_cast<float>(r));
}

template <class T>
T* data_of(Tensor& t) {
  return t.mut().as<T>();
}

template <class T>
void fill(Tensor& t, int r, int64_t from = 0) {
  for (int64_t i = 0; i < t.numel(); ++i) data_of<T>(t)[i] = value<T>(r, from + i);
}

template <class T>
T expected(ReduceOp op, int ranks, int64_t i) {
  using A = Accumulator<T>;
  A sum = static_cast<A>(value<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const A x = static_cast<A>(value<T>(r, i));
    if (op == ReduceOp::min)
      sum = std::min(sum, x);
    else if (op == ReduceOp::max)
      sum = std::max(sum, x);
    else
      sum = static_cast<A>(sum + x);
  }
  if (op == ReduceOp::mean) sum /= static_cast<A>(ranks);
  return static_cast<T>(sum);
}

// How many elements differ from what they must be, bit for bit.
template <class T, class F>
int64_t wrong(const Tensor& t, F must) {
  const T* data = t.view().as<T>();
  int64_t count = 0;
  for (int64_t i = 0; i < t.numel(); ++i) {
    const T want = must(i);
    count += std::memcmp(&data[i], &want, sizeof want) != 0;
  }
  return count;
}

// Below a cache line; not a multiple of the ranks; the largest that is reduced in one shot and one
// more; more chunks than are under way at a time.
constexpr int64_t kCounts[] = {0, 1, 5, 8192, 8193, 70'001, 400'003};

template <class T>
void check_all_reduce(ProcessGroup& group, std::vector<int64_t> counts) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::mean, ReduceOp::min, ReduceOp::max})
    for (const int64_t count : counts)
      for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed}) {
        if (op == ReduceOp::mean && std::is_integral_v<T>) continue;
        Tensor x = place(group, lie, count, dtype_of<T>);
        fill<T>(x, group.rank());
        group.all_reduce(x, op).wait();
        EXPECT_EQ(wrong<T>(x, [&](int64_t i) { return expected<T>(op, group.size(), i); }), 0)
            << name_of(op) << " of " << count << " " << name_of(dtype_of<T>);
      }
}

TEST_P(Groups, AllReduceOfEveryDtype) {
  run([](ProcessGroup& group) {
    check_all_reduce<float>(group, {std::begin(kCounts), std::end(kCounts)});
    check_all_reduce<BFloat16>(group, {5, 20'001, 300'001});
    check_all_reduce<Half>(group, {5, 20'001});
    check_all_reduce<double>(group, {5, 20'001});
    check_all_reduce<int64_t>(group, {5, 20'001});
    check_all_reduce<int32_t>(group, {5, 20'001});
    check_all_reduce<uint8_t>(group, {5, 40'001});
  });
}

TEST_P(Groups, ReduceScatter) {
  run([](ProcessGroup& group) {
    const int rank = group.rank();
    for (const int64_t count : kCounts)
      for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed})
        for (const bool in_place : {false, true}) {
          Tensor in = place(group, lie, count * group.size(), DType::f32);
          fill<float>(in, rank);
          Tensor out = in_place ? in.rows(rank * count, (rank + 1) * count) : Tensor({count});
          group.reduce_scatter(out, in).wait();
          EXPECT_EQ(wrong<float>(out,
                                 [&](int64_t i) {
                                   return expected<float>(ReduceOp::sum, group.size(),
                                                          rank * count + i);
                                 }),
                    0)
              << count;
        }
  });
}

TEST_P(Groups, AllGather) {
  run([](ProcessGroup& group) {
    const int rank = group.rank();
    for (const int64_t count : kCounts)
      for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed})
        for (const bool in_place : {false, true}) {
          Tensor out = place(group, lie, count * group.size(), DType::i64);
          Tensor in = in_place ? out.rows(rank * count, (rank + 1) * count)
                               : place(group, lie, count, DType::i64);
          fill<int64_t>(in, rank);
          group.all_gather(out, in).wait();
          EXPECT_EQ(wrong<int64_t>(out,
                                   [&](int64_t i) {
                                     return value<int64_t>(static_cast<int>(i / count), i % count);
                                   }),
                    0)
              << count;
        }
  });
}

TEST_P(Groups, AllToAll) {
  run([](ProcessGroup& group) {
    const int rank = group.rank();
    for (const int64_t count : kCounts)
      for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed}) {
        Tensor in = place(group, lie, count * group.size(), DType::i32);
        Tensor out({count * group.size()}, DType::i32);
        fill<int32_t>(in, rank);
        group.all_to_all(out, in).wait();
        EXPECT_EQ(wrong<int32_t>(out,
                                 [&](int64_t i) {
                                   return value<int32_t>(static_cast<int>(i / count),
                                                         rank * count + i % count);
                                 }),
                  0)
            << count;
      }
  });
}

TEST_P(Groups, BroadcastFromEveryRoot) {
  run([](ProcessGroup& group) {
    for (int root = 0; root < group.size(); ++root)
      for (const int64_t count : kCounts)
        for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed}) {
          Tensor x = place(group, lie, count, DType::f64);
          fill<double>(x, group.rank());
          group.broadcast(x, root).wait();
          EXPECT_EQ(wrong<double>(x, [&](int64_t i) { return value<double>(root, i); }), 0);
        }
    Tensor flags = Tensor::full({3}, group.rank() == 0, DType::boolean);
    group.broadcast(flags, 0).wait();
    EXPECT_THAT(flags.rows(2, 3).item(), 1);
  });
}

TEST_P(Groups, MessagesGoRound) {
  run([](ProcessGroup& group) {
    const int next = (group.rank() + 1) % group.size();
    const int before = (group.rank() + group.size() - 1) % group.size();
    for (const int64_t count : kCounts)
      for (const Lie lie : {Lie::aside, Lie::symmetric, Lie::mixed}) {
        Tensor x = place(group, lie, count, DType::f32), y({count}), z({count});
        fill<float>(x, group.rank());
        // All send before anyone receives, two at a time.
        Work first = group.send(x, next), second = group.send(x, next);
        group.receive(y, before).wait();
        group.receive(z, before).wait();
        first.wait();
        second.wait();
        for (const Tensor& t : {y, z})
          EXPECT_EQ(wrong<float>(t, [&](int64_t i) { return value<float>(before, i); }), 0);
      }
  });
}

TEST_P(Groups, WorkIsDoneInTheBackground) {
  run([](ProcessGroup& group) {
    std::vector<Tensor> tensors;
    std::vector<Work> works;
    for (int i = 0; i < 20; ++i) {
      tensors.push_back(Tensor::full({i * 3000}, group.rank() + i));
      works.push_back(group.all_reduce(tensors.back()));
    }
    for (int i = 19; i > 0; --i) {  // in whatever order
      works[static_cast<size_t>(i)].wait();
      const int n = group.size();
      EXPECT_EQ(tensors[static_cast<size_t>(i)].values<float>().back(),
                static_cast<float>(n * i + n * (n - 1) / 2));
    }
    group.all_reduce(Tensor::full({100'000}, 1));  // a dropped handle cancels nothing
    group.barrier().wait();
  });
}

// Everyone sees what the others did before the barrier.
TEST_P(Groups, BarrierWaitsForAll) {
  const auto counters = ShmSegment::create(1, 4096);  // memory that processes share
  auto* count = reinterpret_cast<std::atomic<int>*>(counters->allocate(0, 4096));
  run([&](ProcessGroup& group) {
    for (int round = 1; round <= 200; ++round) {
      ++*count;
      group.barrier().wait();
      EXPECT_EQ(count->load(), round * group.size());
      group.barrier().wait();
    }
  });
}

TEST_P(Groups, RemembersTheLastCalls) {
  run([](ProcessGroup& group) {
    for (int i = 0; i < 1030; ++i) group.barrier().wait();
    group.broadcast(Tensor::zeros({4}), 0).wait();
    const std::string calls = group.recent_calls();
    EXPECT_EQ(std::count(calls.begin(), calls.end(), '\n'), 1024);
    EXPECT_THAT(calls, HasSubstr("#8 barrier() took "));
    EXPECT_THAT(calls, HasSubstr("#1031 broadcast(f32, 4, root 0) took "));
  });
}

TEST_P(Groups, RefusesWhatHasNoMeaning) {
  run([](ProcessGroup& group) {
    const auto internal = static_cast<int>(ErrorKind::internal);
    EXPECT_EQ(kind_of_error([&] { group.all_reduce(Tensor({2}, DType::boolean)); }), internal);
    EXPECT_EQ(kind_of_error([&] { group.all_reduce(Tensor({2}, DType::i32), ReduceOp::mean); }),
              internal);
    if (group.size() > 1) {
      const Tensor both({group.size() * 2});
      EXPECT_EQ(kind_of_error([&] { group.all_to_all(both, both); }), internal);
    }
    group.barrier().wait();  // refused before anyone else saw it
  });
}

// Not parameters: a NaN must win on any rank, and in any lane of a vector.
TEST(ProcessGroup, MinAndMaxKeepNan) {
  run_local(3, [](ProcessGroup& group) {
    for (const ReduceOp op : {ReduceOp::min, ReduceOp::max}) {
      Tensor x = Tensor::full({64}, 1);
      data_of<float>(x)[7 + group.rank()] = NAN;
      group.all_reduce(x, op).wait();
      const auto values = x.values<float>();
      for (size_t i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(values[i]), i >= 7 && i < 10) << i;
    }
  });
}

TEST(ProcessGroup, SixteenBitSumsRoundOnce) {
  run_local(3, [](ProcessGroup& group) {
    // 256 + 1 is 256 in bf16; both ones together count.
    Tensor x = Tensor::full({1}, group.rank() == 0 ? 256 : 1, DType::bf16);
    group.all_reduce(x).wait();
    EXPECT_EQ(x.item(), 258);
  });
}

TEST(ProcessGroup, SymmetricMemoryIsZeroAgainAndCounted) {
  run_ranks("shm", 2, [](ProcessGroup& group) {
    const int64_t before = memory_stats({}).live;
    for (int i = 0; i < 3; ++i) {
      Tensor x = group.symmetric({100'000}, DType::f32, {});
      EXPECT_EQ(memory_stats({}).live, before + 400'000);
      EXPECT_EQ(wrong<float>(x, [](int64_t) { return 0.0F; }), 0);
      fill<float>(x, 1);
    }
    EXPECT_EQ(memory_stats({}).live, before);
  });
}

TEST(ProcessGroup, ASegmentServesOneGroupAfterTheOther) {
  const auto segment = ShmSegment::create(2);
  const auto statuses = run_processes(segment, [&](ProcessGroup& first) {
    Tensor x = Tensor::full({2}, 1);
    first.all_reduce(x).wait();
    EXPECT_EQ(kind_of_error([&] { make_shm_group(segment, first.rank()); }),
              static_cast<int>(ErrorKind::config));  // taken
  });
  EXPECT_THAT(statuses, ElementsAre(0, 0));
  EXPECT_THAT(run_processes(segment,
                            [](ProcessGroup& second) {
                              Tensor x = Tensor::full({2}, 1);
                              second.all_reduce(x).wait();
                              EXPECT_EQ(x.values<float>()[1], 2);
                            }),
              ElementsAre(0, 0));
}

}  // namespace
}  // namespace pinion::dist
