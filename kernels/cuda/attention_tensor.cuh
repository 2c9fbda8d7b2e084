// SPDX-License-Identifier: Apache-2.0
// Attention of short sequences on tensor cores, what both directions share: a block has one head of
// one sequence with all of its tokens in shared memory, a warp 16 of the queries and, for the
// gradients of keys and values, 16 of the keys. A warp's scores stay in its registers: the sums
// that one product leaves in a lane are the elements that the next takes from it (Dao 2023, section
// 3).
#pragma once

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

  // All tokens of an operand that has those of the queries, or those of the keys.
  __device__ __forceinline__ void copy_queries(const Tokens<const T>& x, T* to) const {
    copy(x, queries, padded_queries, to);
  }
  __device__ __forceinline__ void copy_keys(const Tokens<const T>& x, T* to) const {
    copy(x, keys, padded_keys, to);
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
      if (t < tokens) store_pair(to + c * 8, packed<T>(s[0] * upper, s[1] * upper));
      if (t + 8 < tokens) store_pair(to + 8 * x.row + c * 8, packed<T>(s[2] * lower, s[3] * lower));
    }
  }

  // The query of the lane's scores in that half of its fragments, and its log-sum-exp.
  __device__ __forceinline__ int query(int half) const {
    return warp * kRows + lane / 4 + half * 8;
  }
  __device__ __forceinline__ float* lse(int half) const {
    return query(half) < queries ? of.lse + bh * queries + query(half) : nullptr;
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
          f(half, t, part, query(half), t * kRows + part * 8 + lane % 4 * 2);
    }
  }
  __device__ __forceinline__ float visible(float dot, int i, int j) const {
    const Key is = key_is[j];
    if (is == Key::absent) return -INFINITY;
    const bool hides = is == Key::hidden || (of.causal && j > i);
    return hides ? static_cast<float>(AttentionArgs::kHidden) : dot * of.scale;
  }
  // What dropout keeps of the lane's scores: bit 2 p + e for element e of pair p, in the order of
  // each_pair(). Drawn in a loop of its own, which is rolled: unrolled, the rounds of the generator
  // would be most of the kernel.
  static_assert(kTiles * 8 <= 64);
  __device__ __forceinline__ uint64_t draw(int limit) const {
    if (!of.drops) return ~uint64_t{0};
    const PhiloxKey key = of.key.now();
    uint64_t kept = 0;
#pragma unroll 2
    for (int p = 0; p < (limit + kRows - 1) / kRows * 4; ++p) {
      const int j = p / 4 * kRows + p / 2 % 2 * 8 + lane % 4 * 2;
      const int64_t e = of.element(bh, query(p % 2), j);
      const int at = static_cast<int>(e % 4);
      const Philox4 words = philox(key, static_cast<uint64_t>(e) / 4);
      const uint32_t second =
          at == 3 ? philox(key, static_cast<uint64_t>(e) / 4 + 1).v[0] : word_of(words, at + 1);
      const uint32_t pair = of.keeps(word_of(words, at)) | of.keeps(second) << 1;
      kept |= uint64_t{pair} << 2 * p;
    }
    return kept;
  }
  // What it multiplies an element by.
  __device__ __forceinline__ float factor(uint64_t kept, int half, int t, int part, int e) const {
    return kept >> (t * 8 + part * 4 + half * 2 + e) & 1 ? of.keep_scale : 0;
  }
  // Leaves weights, by a function of the fragments' elements, where all warps can read them.
  __device__ __forceinline__ void exchange_pair(int i, int j, float first, float second) const {
    store_pair(exchange + i * (padded_keys + kSkew) + j, packed<T>(first, second));
  }

 private:
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
};

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
}  // namespace pinion::kernels::cuda
