// SPDX-License-Identifier: Apache-2.0
// The group over MPI: this program again, under mpirun, as 2 and 3 ranks.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "dist_testing.h"
#include "pinion/dist/mpi/mpi_group.h"
#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// What one rank does; a group can be made once in a process, so each of these has its own.
class DISABLED_MpiRank : public testing::Test {
 protected:
  void SetUp() override { group_ = make_mpi_group(); }
  ProcessGroup& group() { return *group_; }

  std::shared_ptr<ProcessGroup> group_;
};

Tensor ramp(int64_t count, int rank, DType dtype = DType::f32) {
  Tensor x({count});
  for (int64_t i = 0; i < count; ++i)
    x.mut().as<float>()[i] = static_cast<float>(rank * 100 + i % 100);
  if (dtype == DType::f32) return x;
  Tensor out({count}, dtype);
  on(Device{}, [&](auto& ctx) { kernels::cast(ctx, x, out.mut()); });
  return out;
}

TEST_F(DISABLED_MpiRank, Operations) {
  const int n = group().size(), me = group().rank();
  const auto last = [](const Tensor& x) { return x.rows(x.size(0) - 1, x.size(0)).item(); };
  for (const int64_t count : {1, 7, 300'000})
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32}) {
      const double end = static_cast<double>((count - 1) % 100);
      const double sum = n * end + 100.0 * n * (n - 1) / 2;
      Tensor x = ramp(count, me, dtype);
      group().all_reduce(x).wait();
      EXPECT_NEAR(last(x), sum, sum / 128);
      if (dtype != DType::i32) {
        x = ramp(count, me, dtype);
        group().all_reduce(x, ReduceOp::mean).wait();
        EXPECT_NEAR(last(x), sum / n, sum / 128);
      }
      x = ramp(count, me, dtype);
      group().all_reduce(x, ReduceOp::max).wait();
      EXPECT_EQ(last(x), last(ramp(count, n - 1, dtype)));
      group().broadcast(x = ramp(count, me, dtype), n - 1).wait();
      EXPECT_EQ(last(x), last(ramp(count, n - 1, dtype)));
      Tensor all({count * n}, dtype), mine = all.rows(me * count, (me + 1) * count);
      mine.copy_(ramp(count, me, dtype));
      group().all_gather(all, mine).wait();  // in place
      for (int r = 0; r < n; ++r)
        EXPECT_EQ(last(all.rows(r * count, (r + 1) * count)), last(ramp(count, r, dtype)));
      Tensor part({count}, dtype);
      group().reduce_scatter(part, all).wait();  // all have the same
      EXPECT_NEAR(last(part), n * last(ramp(count, me, dtype)), (sum + 100 * n * n) / 128);
      Tensor swapped({count * n}, dtype);
      group().all_to_all(swapped, all).wait();
      for (int r = 0; r < n; ++r)
        EXPECT_EQ(last(swapped.rows(r * count, (r + 1) * count)), last(ramp(count, me, dtype)));
      Tensor got({count}, dtype);
      Work sent = group().send(ramp(count, me, dtype), (me + 1) % n);
      group().receive(got, (me + n - 1) % n).wait();
      sent.wait();
      EXPECT_EQ(last(got), last(ramp(count, (me + n - 1) % n, dtype)));
    }
  group().barrier().wait();
  EXPECT_THAT(group().recent_calls(), HasSubstr("barrier() took "));
}

TEST_F(DISABLED_MpiRank, Mismatch) {
  std::string text;
  EXPECT_EQ(kind_of_error(
                [&] {
                  Tensor x = Tensor::zeros({5});
                  group().barrier().wait();
                  (group().rank() == 1 ? group().all_reduce(x) : group().broadcast(x, 0)).wait();
                },
                &text),
            static_cast<int>(ErrorKind::desync));
  EXPECT_THAT(text,
              HasSubstr("rank 0 called broadcast(f32, 5, root 0) as its call 2, rank 1 called "
                        "all_reduce(sum, f32, 5) as its call 2"));
}

TEST_F(DISABLED_MpiRank, Timeout) {
  std::string text;
  if (group().rank() == 0) group().set_timeout(milliseconds(50));
  EXPECT_EQ(kind_of_error(
                [&] {
                  if (group().rank() == 1) std::this_thread::sleep_for(milliseconds(200));
                  group().all_reduce(Tensor::zeros({5})).wait();
                  group().barrier().wait();
                  for (;;) group().receive(Tensor::zeros({1}), group().rank()).wait();
                },
                &text),
            static_cast<int>(ErrorKind::hang));
  EXPECT_THAT(text, HasSubstr("rank 0 waited 50 ms in all_reduce(sum, f32, 5), its call 1"));
}

TEST_F(DISABLED_MpiRank, Abort) {
  std::string text;
  if (group().rank() == 1) group().abort("no data");
  EXPECT_EQ(kind_of_error([&] { group().all_reduce(Tensor::zeros({5})).wait(); }, &text),
            static_cast<int>(ErrorKind::peer_lost));
  EXPECT_EQ(text, "mpi group: no data");
}

// The output of one of the above under mpirun, and whether it passed on every rank. A broken group
// leaves MPI without its farewell, for which mpirun has a status of its own.
std::string run(int ranks, const std::string& test) {
  char self[4096];
  const ssize_t size = readlink("/proc/self/exe", self, sizeof self);
  const std::string command =
      "timeout 100 mpirun --allow-run-as-root --oversubscribe -np " + std::to_string(ranks) + " " +
      std::string(self, static_cast<size_t>(size)) +
      " --gtest_color=no --gtest_also_run_disabled_tests --gtest_filter=DISABLED_MpiRank." + test +
      " 2>&1";
  std::string out;
  std::array<char, 4096> part;
  FILE* pipe = popen(command.c_str(), "r");
  while (std::fgets(part.data(), part.size(), pipe)) out += part.data();
  pclose(pipe);
  return out;
}

int passes(const std::string& out) {
  int count = 0;
  for (size_t at = out.find("[  PASSED  ] 1 test."); at != std::string::npos;
       at = out.find("[  PASSED  ] 1 test.", at + 1))
    ++count;
  return count;
}

TEST(MpiGroup, UnderMpirun) {
  if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun here";
  std::string why;
  if (!has_mpi(&why)) GTEST_SKIP() << why;
  for (const int ranks : {2, 3}) {
    const std::string out = run(ranks, "Operations");
    EXPECT_EQ(passes(out), ranks) << out;
  }
  for (const char* test : {"Mismatch", "Timeout", "Abort"}) {
    const std::string out = run(2, test);
    EXPECT_EQ(passes(out), 2) << test << "\n" << out;
  }
}

}  // namespace
}  // namespace pinion::dist
