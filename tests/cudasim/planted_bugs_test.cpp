// SPDX-License-Identifier: Apache-2.0
// The simulator's own regression test: 25 bugs of the kinds that kernels have, in 8 kernels. Every
// bug is found in every schedule, and nothing is found in the kernels without them. The test prints
// which check found what. Built where kernels report their accesses.
#include "planted_bugs.h"

#include <cstdio>
#include <functional>
#include <map>
#include <numeric>

#include "planted_products.h"

namespace cudasim::testing {
namespace {

using namespace planted;  // NOLINT: the kernels

std::vector<float> waves(int n, int salt = 0) {
  std::vector<float> v;
  for (int i = 0; i < n; ++i) v.push_back(std::sin(static_cast<float>(i * 7 + salt)));
  return v;
}
std::vector<BFloat16> small_integers(int n, int salt) {
  std::vector<BFloat16> v;
  for (int i = 0; i < n; ++i) v.emplace_back(static_cast<float>((i * 40503 + salt) / 32 % 5 - 2));
  return v;
}
bool close(const std::vector<float>& got, const std::vector<float>& want, float bound) {
  for (size_t i = 0; i < want.size(); ++i)
    if (!(std::fabs(got[i] - want[i]) <= bound)) return false;  // NaN is not
  return true;
}

// --- each runs one kernel and says whether its result is right ---

template <Bug kBug>
bool run_cross_entropy() {
  constexpr int kRows = 3, kN = 200;
  const std::vector<float> x = waves(kRows * kN);
  const DeviceArray<float> dx(x), loss(kRows);
  const DeviceArray<int> target(std::vector<int>{5, 100, 199});
  run_kernel(cross_entropy<kBug>, {dim3(kRows), dim3(128)}, dx.get(), target.get(), kN, loss.get());
  std::vector<float> want;
  for (int r = 0; r < kRows; ++r) {
    double sum = 0;
    for (int i = 0; i < kN; ++i) sum += std::exp(double{x[static_cast<size_t>(r * kN + i)]});
    const int id = target.values()[static_cast<size_t>(r)];
    want.push_back(static_cast<float>(std::log(sum)) - x[static_cast<size_t>(r * kN + id)]);
  }
  return close(loss.values(), want, 1e-4f);
}

template <Bug kBug>
bool run_transpose() {
  constexpr int kRows = 64, kColumns = 37;
  const std::vector<float> x = waves(kRows * kColumns);
  const DeviceArray<float> dx(x), y(x.size());
  run_kernel(transpose<kBug>, {dim3(2, 2), dim3(32, 8)}, dx.get(), kRows, kColumns, y.get());
  std::vector<float> want(x.size());
  for (size_t i = 0; i < x.size(); ++i) want[i % kColumns * kRows + i / kColumns] = x[i];
  return y.values() == want;
}

template <Bug kBug>
bool run_adamw() {
  constexpr int kN = 1026;
  std::vector<float> w = waves(kN), g = waves(kN, 1), m = waves(kN, 2), v(kN, 0.25f);
  const DeviceArray<float> dw(w), dg(g), dm(m), dv(v);
  run_kernel(adamw<kBug>, {dim3(2), dim3(128)}, dw.get(), dg.get(), dm.get(), dv.get(), kN);
  for (size_t i = 0; i < kN; ++i) adamw_of_one(w[i], g[i], m[i], v[i]);
  return close(dw.values(), w, 1e-5f) && close(dm.values(), m, 1e-5f) &&
         close(dv.values(), v, 1e-5f);
}

template <Bug kBug>
bool run_histogram() {
  std::vector<int> x, want(kBins);
  for (int i = 0; i < 1500; ++i) x.push_back(i * i % kBins);
  for (const int v : x) ++want[static_cast<size_t>(v)];
  const DeviceArray<int> dx(x), counts(std::vector<int>(kBins, 0));
  run_kernel(histogram<kBug>, {dim3(3), dim3(128)}, dx.get(), 1500, counts.get());
  return counts.values() == want;
}

template <Bug kBug>
bool run_sum(bool cooperative) {
  constexpr int kN = 3000, kBlocks = 5;
  const std::vector<float> x(kN, 1.0f);
  const DeviceArray<float> dx(x), parts(kBlocks), y(1);
  const DeviceArray<uint32_t> arrivals(std::vector<uint32_t>(1, 0));
  const LaunchShape shape{dim3(kBlocks), dim3(128), 0, cooperative};
  if (cooperative)
    run_kernel(sum_of_the_grid<kBug>, shape, dx.get(), kN, parts.get(), y.get());
  else
    run_kernel(sum_in_one_pass<kBug>, shape, dx.get(), kN, parts.get(), arrivals.get(), y.get());
  return y.values()[0] == kN;
}
template <Bug kBug>
bool run_sum_in_one_pass() {
  return run_sum<kBug>(false);
}
template <Bug kBug>
bool run_sum_of_the_grid() {
  return run_sum<kBug>(true);
}

// f(x, w, y) computes y = x w^T.
template <class F>
bool product_is_right(int m, int n, int k, F f) {
  const std::vector<BFloat16> x = small_integers(m * k, 0), w = small_integers(n * k, 5);
  const DeviceArray<BFloat16> dx(x), dw(w);
  const DeviceArray<float> y(static_cast<size_t>(m * n));
  f(dx.get(), dw.get(), y.get());
  std::vector<float> want;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int p = 0; p < k; ++p)
        sum += float{x[static_cast<size_t>(i * k + p)]} * float{w[static_cast<size_t>(j * k + p)]};
      want.push_back(sum);
    }
  return y.values() == want;
}

template <Bug kBug>
bool run_linear_by_warps() {
  constexpr int kM = 63, kN = 64, kK = 80;
  return product_is_right(kM, kN, kK, [&](const BFloat16* x, const BFloat16* w, float* y) {
    run_kernel(linear_by_warps<kBug>, {dim3(2, 2), dim3(128), 4 * 32 * 24 * 2}, x, w, kM, kN, kK,
               y);
  });
}

template <Bug kBug>
bool run_linear_by_warp_group() {
  constexpr int kM = 70, kN = 64, kK = 456;  // a tail in each of the copies' dimensions
  return product_is_right(kM, kN, kK, [&](const BFloat16* x, const BFloat16* w, float* y) {
    const auto map = [&](const BFloat16* data, int64_t lines) {
      return map_tiles({data, true, 1, lines, kK, kK, lines * kK}, 64);
    };
    run_kernel(linear_by_warp_group<kBug>, {dim3(1, 2), dim3(160), sizeof(SmallRing)}, map(x, kM),
               map(w, kN), kM, kN, kK, y);
  });
}

// --- the table ---

struct Planted {
  const char *kernel, *bug;
  bool (*correct)();
  bool (*wrong)();
};
#define PLANTED(kernel, name, text) \
  { #kernel, text, run_##kernel < Bug::none>, run_##kernel < Bug::name> }
const Planted kTable[] = {
    PLANTED(cross_entropy, no_barrier, "no barrier between writing and reading the parts"),
    PLANTED(cross_entropy, one_pack_too_far, "loop over packs runs one too far"),
    PLANTED(cross_entropy, half_a_mask, "shuffle with the mask of half a warp"),
    PLANTED(cross_entropy, early_return, "threads without work return before a barrier"),
    PLANTED(transpose, no_barrier_in_tile, "no barrier between writing and reading the tile"),
    PLANTED(transpose, column_too_far, "column bound is <= in place of <"),
    PLANTED(transpose, shared_column_too_far, "tile indexed past its end, written and read alike"),
    PLANTED(linear_by_warps, no_barrier_after_wait, "no barrier after the wait for copies"),
    PLANTED(linear_by_warps, row_too_far, "reads a row past the end that nothing depends on"),
    PLANTED(linear_by_warps, weak_wait, "waits for a group too few of copies"),
    PLANTED(linear_by_warps, refill_without_barrier, "stage refilled without a barrier"),
    PLANTED(adamw, tail_too_far, "tail runs one too far"),
    PLANTED(adamw, misaligned_pack, "packs off their boundary"),
    PLANTED(adamw, tail_by_every_block, "tail done by every block"),
    PLANTED(histogram, no_barrier_after_clearing, "no barrier after clearing the bins"),
    PLANTED(histogram, plain_shared_addition, "plain addition in shared memory"),
    PLANTED(histogram, plain_device_addition, "plain addition in device memory"),
    PLANTED(sum_in_one_pass, no_fence, "no fence before the count of arrivals"),
    PLANTED(sum_of_the_grid, block_barrier_for_grid, "block barrier in place of the grid's"),
    PLANTED(linear_by_warp_group, no_barrier_after_init, "no barrier after mbarrier init"),
    PLANTED(linear_by_warp_group, no_wait_for_empty, "producer does not wait for empty stages"),
    PLANTED(linear_by_warp_group, wrong_parity, "producer waits for the wrong parity"),
    PLANTED(linear_by_warp_group, too_many_bytes, "barrier expects 16 bytes too many"),
    PLANTED(linear_by_warp_group, no_wait_for_full, "consumers do not wait for full stages"),
    PLANTED(linear_by_warp_group, no_wait_for_products, "sums read before wgmma is waited for"),
};
#undef PLANTED

// What found something in a run, or "" when nothing did.
std::string finding(bool (*run)()) {
  constexpr const char* kNames[] = {"launch",    "mask",   "divergence", "deadlock",
                                    "alignment", "bounds", "pointer",    "shared",
                                    "trap",      "async",  "race"};
  try {
    return run() ? "" : "wrong result";
  } catch (const Error& e) {
    return kNames[static_cast<size_t>(e.fault())];
  }
}

TEST(PlantedBugs, AreAllFoundInEverySchedule) {
  static_assert(std::size(kTable) == 25);
  for (const Planted& p : kTable) {
    std::map<std::string, int> found;
    for_schedules([&] { ++found[finding(p.wrong)]; });
    std::string by;
    for (const auto& [check, runs] : found)
      by += (by.empty() ? "" : ", ") + check + " " + std::to_string(runs);
    std::printf("%-21s %-51s %s\n", p.kernel, p.bug, by.c_str());
    EXPECT_EQ(found.count(""), 0u) << p.kernel << ": " << p.bug;
  }
}

TEST(PlantedBugs, KernelsWithoutThemAreClean) {
  std::map<std::string, bool (*)()> kernels;
  for (const Planted& p : kTable) kernels[p.kernel] = p.correct;
  EXPECT_EQ(kernels.size(), 8u);
  for (const auto& [name, run] : kernels) {
    SCOPED_TRACE(name);
    for_schedules([&, run = run] { EXPECT_EQ(finding(run), ""); });
  }
}

}  // namespace
}  // namespace cudasim::testing
