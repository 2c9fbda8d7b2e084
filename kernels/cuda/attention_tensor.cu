// SPDX-License-Identifier: Apache-2.0
// Attention of short sequences on tensor cores, forward.
#include "pinion/kernels/cuda/attention_tensor.cuh"

namespace pinion::kernels::cuda {
namespace {

template <class T, int kWidth, int kTiles>
__global__ void __launch_bounds__(kMostThreads, 1)
    attend(Attention<T> problem, int padded_queries, int padded_keys) {
  const Head<T, kWidth, kTiles> head(problem, dynamic_shared<T>(), padded_queries, padded_keys);
  head.copy_queries(problem.q, head.q);
  head.copy_keys(problem.k, head.k);
  commit_async();
  head.copy_keys(problem.v, head.v);
  commit_async();
  head.sort_keys();
  wait_async<1>();
  __syncthreads();  // queries and keys are there
  const int limit = head.key_limit();
  Scores<kTiles> s{};
  head.multiply_keys(head.q, head.k, limit, s);
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  head.each_pair(limit, [&](int half, int t, int part, int i, int j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& score = s.c[t][part].v[half * 2 + e];
      score = head.visible(score, i, j + e);
      top[half] = greater_or_nan(top[half], score);
    }
  });
  for (float& t : top) t = row_fold(t, GreaterOrNan{});
  const uint64_t kept = head.draw(limit);
  head.each_pair(limit, [&](int half, int t, int part, int, int) {
    float(&v)[4] = s.c[t][part].v;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float term = math::exp_nonpositive(v[half * 2 + e] - top[half]);
      total[half] += term;
      v[half * 2 + e] = term * head.factor(kept, half, t, part, e);
    }
  });
  for (float& t : total) t = row_fold(t, Plus{});
  wait_async<0>();
  __syncthreads();  // the values are there
  FragmentC sum[kWidth / 8] = {};
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    if (t * kRows >= limit) break;
    head.add_rows(as_operand<T>(s.c[t]), head.v, t * kRows, sum);
  }
  head.put(sum, problem.y, head.warp * kRows, head.queries, 1 / total[0], 1 / total[1]);
  if (head.lane % 4 != 0) return;  // no barrier follows
  constexpr float kLow = static_cast<float>(AttentionArgs::kHidden);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* const lse = head.lse(half);
    if (lse) *lse = top[half] == kLow ? kLow : top[half] + math::log(total[half]);
  }
}

}  // namespace

template <class T>
bool attend_on_tensor_cores(const CudaContext& ctx, const Attention<T>& problem) {
  if (!fits(problem)) return false;
  const int queries = round_up(problem.queries), keys = round_up(problem.keys);
  for_sizes(problem, [&]<int kWidth, int kTiles>() {
    const size_t bytes = (queries + 2 * keys) * (kWidth + kSkew) * sizeof(T) + keys;
    launch(attend<T, kWidth, kTiles>,
           {one_block_each(problem.batch * problem.heads), threads_for(queries), bytes}, ctx,
           problem, queries, keys);
  });
  return true;
}

template bool attend_on_tensor_cores(const CudaContext&, const Attention<BFloat16>&);
template bool attend_on_tensor_cores(const CudaContext&, const Attention<Half>&);

}  // namespace pinion::kernels::cuda
