// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention of short sequences on tensor cores: a block has one head of one
// sequence with all of its tokens in shared memory, a warp 16 of the queries and, for the gradients
// of keys and values, 16 of the keys. A warp's scores stay in its registers: the sums that one
// product leaves in a lane are the elements that the next takes from it (Dao 2023, section 3).
#include "pinion/kernels/cuda/attention.cuh"
#include "pinion/kernels/cuda/mma.cuh"

namespace pinion::kernels::cuda {
namespace {

constexpr int kRows = 16;         // of a fragment
constexpr int kMostTokens = 128;  // 8 warps, and scores of 64 registers a lane
constexpr int kMostThreads = kMostTokens / kRows * kWarp;
constexpr int kChunk = 8;  // elements of one copy
constexpr int kSkew = 8;   // elements that keep eight rows of a matrix in different banks

enum class Key : uint8_t { seen, hidden, absent };

int round_up(int64_t n) { return static_cast<int>((n + kRows - 1) / kRows * kRows); }

// Scores of a warp's 16 queries; or what takes their place.
template <int kTiles>
struct Scores {
  FragmentC c[kTiles][2];  // 8 keys each
};

// Two floats as 16-bit elements of one register, the first one lower.
template <class T>
__device__ __forceinline__ uint32_t packed(float first, float second) {
  return T(first).bits | static_cast<uint32_t>(T(second).bits) << 16;
}

// 16 keys' scores as the left operand of a product over keys.
template <class T>
__device__ __forceinline__ FragmentA as_operand(const FragmentC (&c)[2]) {
  return {{packed<T>(c[0].v[0], c[0].v[1]), packed<T>(c[0].v[2], c[0].v[3]),
           packed<T>(c[1].v[0], c[1].v[1]), packed<T>(c[1].v[2], c[1].v[3])}};
}

// What the four lanes of a row have, folded.
template <class Fold>
__device__ __forceinline__ float row_fold(float v, Fold fold) {
  v = fold(v, __shfl_xor_sync(kFullWarp, v, 1));
  return fold(v, __shfl_xor_sync(kFullWarp, v, 2));
}

// One head in shared memory. kTiles bounds the tiles of 16 keys.
template <class T, int kWidth, int kTiles>
struct Head {
  static constexpr int kStride = kWidth + kSkew;  // of a token
  using Output = FragmentC[kWidth / 8];           // 16 tokens

  const Attention<T>& of;
  const int64_t bh;
  const int queries, keys, padded_queries, padded_keys;
  const int warp, lane;
  T *q, *k, *v, *dy, *exchange;  // the last one [padded_queries][padded_keys + kSkew]
  Key* key_is;

  __device__ __forceinline__ Head(const Attention<T>& problem, T* shared, int rows_q, int rows_k)
      : of(problem),
        bh(blockIdx.x),
        queries(static_cast<int>(problem.queries)),
        keys(static_cast<int>(problem.keys)),
        padded_queries(rows_q),
        padded_keys(rows_k),
        warp(static_cast<int>(threadIdx.x) / kWarp),
        lane(static_cast<int>(threadIdx.x) % kWarp),
        q(shared),
        k(q + rows_q * kStride),
        v(k + rows_k * kStride),
        dy(v),
        exchange(v),
        key_is(reinterpret_cast<Key*>(v + rows_k * kStride)) {}

  // --- memory ---

  __device__ __forceinline__ void copy(const Tokens<const T>& x, int tokens, int padded,
                                       T* to) const {
    constexpr int kChunks = kWidth / kChunk;
    const T* from = of.head(x, tokens, bh);
    for (int c = static_cast<int>(threadIdx.x); c < padded * kChunks;
         c += static_cast<int>(blockDim.x)) {
      const int t = c / kChunks, e = c % kChunks * kChunk;
      copy_async16(to + t * kStride + e, t < tokens ? from + t * x.row + e : from, t < tokens);
    }
  }
  __device__ __forceinline__ void sort_keys() const {
    for (int j = static_cast<int>(threadIdx.x); j < padded_keys; j += static_cast<int>(blockDim.x))
      key_is[j] = j >= keys ? Key::absent : of.is_hidden(bh, j) ? Key::hidden : Key::seen;
  }
  // 16 tokens from t0 on, times a factor for rows g and g + 8.
  __device__ __forceinline__ void put(const Output& sum, const Tokens<T>& x, int t0, int tokens,
                                      float upper, float lower) const {
    const int t = t0 + lane / 4;
    T* to = of.head(x, tokens, bh) + t * x.row + lane % 4 * 2;
#pragma unroll
    for (int c = 0; c < kWidth / 8; ++c) {
      const float(&s)[4] = sum[c].v;
      if (t < tokens) store_pack<2>(to + c * 8, Pack<T, 2>{{T(s[0] * upper), T(s[1] * upper)}});
      if (t + 8 < tokens)
        store_pack<2>(to + 8 * x.row + c * 8, Pack<T, 2>{{T(s[2] * lower), T(s[3] * lower)}});
    }
  }

  // --- products ---

  // Keys that the warp's queries look at: all where one of them may see none.
  __device__ __forceinline__ int key_limit() const {
    const int last = (warp + 1) * kRows;
    return of.causal && key_is[0] == Key::seen && last < keys ? last : keys;
  }
  // Of 16 keys from j0 on, the first tile of queries that looks at them.
  __device__ __forceinline__ int query_begin(int j0) const {
    return of.causal && key_is[0] == Key::seen ? j0 : 0;
  }
  // sums = a b^T: a's rows are the warp's queries, b's the keys.
  __device__ __forceinline__ void multiply_keys(const T* a, const T* b, int limit,
                                                Scores<kTiles>& sums) const {
#pragma unroll
    for (int p = 0; p < kWidth; p += 16) {
      const FragmentA left = fragment_a<false>(a, kStride, warp * kRows, p);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t * kRows >= limit) break;
        const PairB right = fragments_b<true>(b, kStride, p, t * kRows);
        multiply_add<T>(sums.c[t][0], left, right.left);
        multiply_add<T>(sums.c[t][1], left, right.right);
      }
    }
  }
  // sum += left b, b's rows from r on.
  __device__ __forceinline__ void add_rows(const FragmentA& left, const T* b, int r,
                                           Output& sum) const {
#pragma unroll
    for (int c = 0; c < kWidth / 8; c += 2) {
      const PairB right = fragments_b<false>(b, kStride, r, c * 8);
      multiply_add<T>(sum[c], left, right.left);
      multiply_add<T>(sum[c + 1], left, right.right);
    }
  }
  // The sums over queries of the exchanged weights of the warp's keys times rows of b.
  __device__ __forceinline__ void sum_queries(const T* b, Output& sum) const {
    for (int i = query_begin(warp * kRows); i < padded_queries; i += kRows)
      add_rows(fragment_a<true>(exchange, padded_keys + kSkew, warp * kRows, i), b, i, sum);
  }

  // --- scores ---

  // f(half, tile, part, i, j) for the lane's pairs of elements, keys j and j + 1: v[2 half] and
  // v[2 half + 1] of fragment [tile][part].
  template <class F>
  __device__ __forceinline__ void each_pair(int limit, F f) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t * kRows >= limit) break;
#pragma unroll
      for (int part = 0; part < 2; ++part)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          f(half, t, part, warp * kRows + lane / 4 + half * 8, t * kRows + part * 8 + lane % 4 * 2);
    }
  }
  __device__ __forceinline__ float visible(float dot, int i, int j) const {
    const Key is = key_is[j];
    if (is == Key::absent) return -INFINITY;
    const bool hides = is == Key::hidden || (of.causal && j > i);
    return hides ? static_cast<float>(AttentionArgs::kHidden) : dot * of.scale;
  }
  // What dropout multiplies elements (i, j) and (i, j + 1) by.
  struct Factors {
    float v[2];
  };
  __device__ __forceinline__ Factors draw(int i, int j) const {
    if (!of.drops) return {{1, 1}};
    const int64_t e = of.element(bh, i, j);
    const int at = static_cast<int>(e % 4);
    const Philox4 words = philox(of.key.now(), static_cast<uint64_t>(e) / 4);
    const uint32_t second = at == 3 ? philox(of.key.now(), static_cast<uint64_t>(e) / 4 + 1).v[0]
                                    : word_of(words, at + 1);
    return {{of.factor(word_of(words, at)), of.factor(second)}};
  }
  // Leaves weights, by a function of the fragments' elements, where all warps can read them.
  __device__ __forceinline__ void exchange_pair(int i, int j, float first, float second) const {
    const Pack<T, 2> pair{{T(first), T(second)}};
    store_pack<2>(exchange + i * (padded_keys + kSkew) + j, pair);
  }
};

template <class T, int kWidth, int kTiles>
__global__ void __launch_bounds__(kMostThreads, 1)
    attend(Attention<T> problem, int padded_queries, int padded_keys) {
  const Head<T, kWidth, kTiles> head(problem, dynamic_shared<T>(), padded_queries, padded_keys);
  head.copy(problem.q, head.queries, padded_queries, head.q);
  head.copy(problem.k, head.keys, padded_keys, head.k);
  commit_async();
  head.copy(problem.v, head.keys, padded_keys, head.v);
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
  head.each_pair(limit, [&](int half, int t, int part, int i, int j) {
    float(&v)[4] = s.c[t][part].v;
    const auto factors = head.draw(i, j);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float term = math::exp_nonpositive(v[half * 2 + e] - top[half]);
      total[half] += term;
      v[half * 2 + e] = term * factors.v[e];
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
    const int i = head.warp * kRows + head.lane / 4 + half * 8;
    const float lse = top[half] == kLow ? kLow : top[half] + math::log(total[half]);
    if (i < head.queries) problem.lse[head.bh * head.queries + i] = lse;
  }
}

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
  const auto lse = [&](int half) {
    const int i = head.warp * kRows + head.lane / 4 + half * 8;
    return i < head.queries ? head.of.lse[head.bh * head.queries + i] : 0.0f;
  };
  const RowOfScores<float> rows[2] = {{lse(0), head.keys}, {lse(1), head.keys}};
  float mean[2] = {0, 0};
  head.each_pair(limit, [&](int half, int t, int part, int i, int j) {
    float(&vp)[4] = p.c[t][part].v;
    float(&vg)[4] = g.c[t][part].v;
    const auto factors = head.draw(i, j);
    float left[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int at = half * 2 + e;
      vp[at] = rows[half].probability(head.visible(vp[at], i, j + e));
      vg[at] *= factors.v[e];
      mean[half] += vp[at] * vg[at];
      left[e] = vp[at] * factors.v[e];
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
  head.copy(problem.q, head.queries, padded_queries, head.q);
  head.copy(problem.k, head.keys, padded_keys, head.k);
  head.copy(problem.v, head.keys, padded_keys, head.v);
  head.copy(problem.dy, head.queries, padded_queries, head.dy);
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
        store_pack<2>(head.exchange + (first + g + e % 2 * 8) * (padded_keys + kSkew) + t * kRows +
                          e / 2 * 8 + c,
                      bit_cast<Pack<T, 2>>(gradients.a[t].v[e]));
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

// --- the host ---

template <class E>
bool is_aligned(const Tokens<E>& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row % kChunk == 0;
}

template <class T>
bool fits(const Attention<T>& p) {
  const bool sizes = p.queries > 0 && p.queries <= kMostTokens && p.keys <= kMostTokens;
  return sizes && (p.width == 32 || p.width == 64) && is_aligned(p.q) && is_aligned(p.k) &&
         is_aligned(p.v) && is_aligned(p.y) && is_aligned(p.dy) && is_aligned(p.dq) &&
         is_aligned(p.dk) && is_aligned(p.dv);
}

// f.template operator()<kWidth, kTiles>() with those of the problem.
template <class T, class F>
void for_sizes(const Attention<T>& p, F f) {
  const bool few = p.keys <= kMostTokens / 2;
  if (p.width == 32) return few ? f.template operator()<32, 4>() : f.template operator()<32, 8>();
  few ? f.template operator()<64, 4>() : f.template operator()<64, 8>();
}

unsigned threads_for(int tokens) { return static_cast<unsigned>(tokens / kRows * kWarp); }

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

template bool attend_on_tensor_cores(const CudaContext&, const Attention<BFloat16>&);
template bool attend_on_tensor_cores(const CudaContext&, const Attention<Half>&);
template bool attend_backward_on_tensor_cores(const CudaContext&, const Attention<BFloat16>&);
template bool attend_backward_on_tensor_cores(const CudaContext&, const Attention<Half>&);

}  // namespace pinion::kernels::cuda
