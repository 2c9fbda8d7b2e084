// SPDX-License-Identifier: Apache-2.0
// The gradients of attention of short sequences, on tensor cores.
#include "pinion/kernels/cuda/attention_tensor.cuh"

namespace pinion::kernels::cuda {
namespace {

// The scores' gradients of a warp's queries, ready for products.
template <int kTiles>
struct Gradients {
  FragmentA a[kTiles];
};

// Leaves what dropout leaves of the probabilities in the exchange, once nobody needs the values
// that lie there.
template <class T, int kWidth, int kTiles>
__device__ __forceinline__ void make_gradients(const Head<T, kWidth, kTiles>& head,
                                               bool has_queries, int limit,
                                               Gradients<kTiles>& gradients) {
  Scores<kTiles> p{}, g{};
  if (has_queries) {
    head.multiply_keys(head.q, head.k, limit, p);
    head.multiply_keys(head.dy, head.v, limit, g);
  }
  __syncthreads();  // the values have been read
  if (!has_queries) return;
  const auto row = [&](int half) {
    const float* const lse = head.lse(half);
    return RowOfScores<float>(lse ? *lse : 0, head.keys);
  };
  const RowOfScores<float> rows[2] = {row(0), row(1)};
  const uint64_t kept = head.draw(limit);
  float mean[2] = {0, 0};
  head.each_pair(limit, [&](int half, int t, int part, int i, int j) {
    float(&vp)[4] = p.c[t][part].v;
    float(&vg)[4] = g.c[t][part].v;
    float left[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int at = half * 2 + e;
      vp[at] = rows[half].probability(head.visible(vp[at], i, j + e));
      const float factor = head.factor(kept, half, t, part, e);
      vg[at] *= factor;
      mean[half] += vp[at] * vg[at];
      left[e] = vp[at] * factor;
    }
    head.exchange_pair(i, j, left[0], left[1]);
  });
  for (float& m : mean) m = row_fold(m, Plus{});
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    if (t * kRows >= limit) break;
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = p.c[t][part].v[e];
        x *= (g.c[t][part].v[e] - mean[e / 2]) * rows[e / 2].flow;
      }
    gradients.a[t] = as_operand<T>(p.c[t]);
  }
}

template <class T, int kWidth, int kTiles>
__global__ void __launch_bounds__(kMostThreads, 1)
    attend_backward(Attention<T> problem, int padded_queries, int padded_keys, int exchange_size) {
  Head<T, kWidth, kTiles> head(problem, dynamic_shared<T>(), padded_queries, padded_keys);
  head.dy = head.exchange + exchange_size;
  head.key_is = reinterpret_cast<Key*>(head.dy + padded_queries * head.kStride);
  head.copy_queries(problem.q, head.q);
  head.copy_keys(problem.k, head.k);
  head.copy_keys(problem.v, head.v);
  head.copy_queries(problem.dy, head.dy);
  commit_async();
  head.sort_keys();
  wait_async<0>();
  __syncthreads();  // all of it is there
  const int first = head.warp * kRows, limit = head.key_limit();
  const bool has_queries = first < padded_queries, has_keys = first < padded_keys;
  Gradients<kTiles> gradients;
  make_gradients(head, has_queries, limit, gradients);
  __syncthreads();  // the probabilities are exchanged
  if (has_keys) {
    FragmentC dv[kWidth / 8] = {};
    head.sum_queries(head.dy, dv);
    head.put(dv, problem.dv, first, head.keys, 1, 1);
  }
  __syncthreads();  // and have been read
  if (has_queries) {
    const int g = head.lane / 4, c = head.lane % 4 * 2;
    FragmentC dq[kWidth / 8] = {};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t * kRows >= limit) break;
#pragma unroll
      for (int e = 0; e < 4; ++e)  // rows g and g + 8 in turn, then the right half
        store_pair(head.exchange + (first + g + e % 2 * 8) * (padded_keys + kSkew) + t * kRows +
                       e / 2 * 8 + c,
                   gradients.a[t].v[e]);
      head.add_rows(gradients.a[t], head.k, t * kRows, dq);
    }
    head.put(dq, problem.dq, first, head.queries, problem.scale, problem.scale);
  }
  __syncthreads();  // the scores' gradients are exchanged
  if (has_keys) {
    FragmentC dk[kWidth / 8] = {};
    head.sum_queries(head.q, dk);
    head.put(dk, problem.dk, first, head.keys, problem.scale, problem.scale);
  }
}

}  // namespace

template <class T>
bool attend_backward_on_tensor_cores(const CudaContext& ctx, const Attention<T>& problem) {
  if (!fits(problem)) return false;
  const int queries = round_up(problem.queries), keys = round_up(problem.keys);
  for_sizes(problem, [&]<int kWidth, int kTiles>() {
    const int values = keys * (kWidth + kSkew), weights = queries * (keys + kSkew);
    const int exchange = values > weights ? values : weights;
    const size_t bytes = ((2 * queries + keys) * (kWidth + kSkew) + exchange) * sizeof(T) + keys;
    launch(attend_backward<T, kWidth, kTiles>,
           {one_block_each(problem.batch * problem.heads),
            threads_for(queries > keys ? queries : keys), bytes},
           ctx, problem, queries, keys, exchange);
  });
  return true;
}

template bool attend_backward_on_tensor_cores(const CudaContext&, const Attention<BFloat16>&);
template bool attend_backward_on_tensor_cores(const CudaContext&, const Attention<Half>&);

}  // namespace pinion::kernels::cuda
