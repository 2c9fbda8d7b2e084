// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention of any size and type on the ordinary cores; what tensor cores can
// take goes to attention_tensor.cu. Scores exist as tiles in registers and shared memory only: the
// softmax of a row is corrected as its maximum grows (Milakov & Gimelshein 2018), and the backward
// pass makes the tiles again, for queries and for keys, so that each sum has one owner and an
// order.
#include "pinion/kernels/cuda/attention.cuh"
#include "pinion/kernels/cuda/workspace.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kTile = 32;  // queries and keys of a tile of scores; a lane has a column
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = kTile / kWarps;      // rows of a thread, kWarps apart
constexpr int kGroups = 4;                 // of kTile columns of a result, in registers at a time
constexpr int kColumns = kGroups * kTile;  // wider heads take several passes

template <class A>
struct Tile {
  A v[kTile][kTile + 1];
};
template <class A>
struct Tiles {
  Tile<A> left, right;      // pieces of operands
  Tile<A> weights, others;  // what a result sums operands with
};

// Rows and columns of the calling thread.
struct Place {
  int lane, warp;
  __device__ __forceinline__ Place()
      : lane(static_cast<int>(threadIdx.x) % kWarp), warp(static_cast<int>(threadIdx.x) / kWarp) {}
  __device__ __forceinline__ int row(int r) const { return warp + r * kWarps; }
};

// Rows of an operand from `first` on, of `count` in all.
template <class T>
struct Piece {
  const T* data;
  int64_t row, first, count;

  // Element (r, c), 0 outside.
  __device__ __forceinline__ Accumulator<T> at(int r, int64_t c, int64_t width) const {
    const bool there = first + r < count && c < width;
    return there ? static_cast<Accumulator<T>>(data[(first + r) * row + c]) : 0;
  }
};

// dot[r] = row place.row(r) of a times row place.lane of b.
template <class T>
__device__ __forceinline__ void dots(const Piece<T>& a, const Piece<T>& b, int64_t width,
                                     Tiles<Accumulator<T>>& tiles, Accumulator<T> (&dot)[kEach]) {
  const Place place;
  for (int r = 0; r < kEach; ++r) dot[r] = 0;
  for (int64_t p0 = 0; p0 < width; p0 += kTile) {
    __syncthreads();  // the pieces before have been read
    for (int r = 0; r < kEach; ++r) {
      tiles.left.v[place.row(r)][place.lane] = a.at(place.row(r), p0 + place.lane, width);
      tiles.right.v[place.row(r)][place.lane] = b.at(place.row(r), p0 + place.lane, width);
    }
    __syncthreads();
#pragma unroll 8
    for (int p = 0; p < kTile; ++p) {
      const Accumulator<T> right = tiles.right.v[place.lane][p];
#pragma unroll
      for (int r = 0; r < kEach; ++r) dot[r] += tiles.left.v[place.row(r)][p] * right;
    }
  }
}

template <class A>
struct Result {
  A sum[kEach][kGroups];
};

// result += weights b, for columns of b from c0 on. A warp reads the weights that it wrote.
template <class T>
__device__ __forceinline__ void add_product(const Tile<Accumulator<T>>& weights, const Piece<T>& b,
                                            int64_t c0, int64_t width, Tiles<Accumulator<T>>& tiles,
                                            Result<Accumulator<T>>& result) {
  const Place place;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t c = c0 + g * kTile;
    if (c >= width) break;
    __syncthreads();  // the piece before has been read, the weights are written
    for (int r = 0; r < kEach; ++r)
      tiles.right.v[place.row(r)][place.lane] = b.at(place.row(r), c + place.lane, width);
    __syncthreads();
#pragma unroll 8
    for (int p = 0; p < kTile; ++p) {
      const Accumulator<T> right = tiles.right.v[p][place.lane];
#pragma unroll
      for (int r = 0; r < kEach; ++r) result.sum[r][g] += weights.v[place.row(r)][p] * right;
    }
  }
}

// Row r of a result times scale(r), to rows of `to` from `first` on that are below `count`.
template <class T, class Scale>
__device__ __forceinline__ void put(const Result<Accumulator<T>>& result, T* to, int64_t row,
                                    int64_t first, int64_t count, int64_t c0, int64_t width,
                                    Scale scale) {
  const Place place;
#pragma unroll
  for (int r = 0; r < kEach; ++r)
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t t = first + place.row(r), c = c0 + g * kTile + place.lane;
      if (t < count && c < width) to[t * row + c] = T(result.sum[r][g] * scale(r));
    }
}

template <class T>
struct Head : Attention<T> {
  using A = Accumulator<T>;
  int64_t bh;

  __device__ __forceinline__ Head(const Attention<T>& of, int64_t index)
      : Attention<T>(of), bh(index) {}

  // The score of a pair that is there, as the softmax has it.
  __device__ __forceinline__ A visible(A dot, int64_t i, int64_t j) const {
    const bool hides = this->is_hidden(bh, j) || (this->causal && j > i);
    return hides ? static_cast<A>(AttentionArgs::kHidden) : dot * this->scale;
  }
  __device__ __forceinline__ A dropped(A x, int64_t i, int64_t j) const {
    if (!this->drops) return x;
    const int64_t e = this->element(bh, i, j);
    const Philox4 words = philox(this->key.now(), static_cast<uint64_t>(e) / 4);
    return x * this->factor(word_of(words, static_cast<int>(e % 4)));
  }
  __device__ __forceinline__ Piece<T> piece_q(int64_t i) const {
    return {this->head(this->q, this->queries, bh), this->q.row, i, this->queries};
  }
  __device__ __forceinline__ Piece<T> piece_dy(int64_t i) const {
    return {this->head(this->dy, this->queries, bh), this->dy.row, i, this->queries};
  }
  __device__ __forceinline__ Piece<T> piece_k(int64_t j) const {
    return {this->head(this->k, this->keys, bh), this->k.row, j, this->keys};
  }
  __device__ __forceinline__ Piece<T> piece_v(int64_t j) const {
    return {this->head(this->v, this->keys, bh), this->v.row, j, this->keys};
  }
  // Keys that queries up to i + kTile may see; those of a row that sees none are all keys.
  __device__ __forceinline__ int64_t keys_for(int64_t i) const {
    return this->causal && !this->hidden && i + kTile < this->keys ? i + kTile : this->keys;
  }
};

// A block has kTile queries of a head.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) attend(Attention<T> problem, int64_t blocks) {
  using A = Accumulator<T>;
  const Head<T> head(problem, blockIdx.x / blocks);
  const int64_t i0 = blockIdx.x % blocks * kTile, keys = head.keys_for(i0);
  Tiles<A>& tiles = block_shared<Tiles<A>>();
  const Place place;
  for (int64_t c0 = 0; c0 < head.width; c0 += kColumns) {
    Result<A> result{};
    A top[kEach], total[kEach] = {}, dot[kEach];
    for (A& t : top) t = static_cast<A>(-INFINITY);
    for (int64_t j0 = 0; j0 < keys; j0 += kTile) {
      dots(head.piece_q(i0), head.piece_k(j0), head.width, tiles, dot);
      const int64_t j = j0 + place.lane;
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const int64_t i = i0 + place.row(r);
        const bool there = i < head.queries && j < keys;
        const A s = j >= keys ? static_cast<A>(-INFINITY) : there ? head.visible(dot[r], i, j) : 0;
        const A higher = greater_or_nan(top[r], warp_fold(s, GreaterOrNan{}));
        const A e = math::exp_nonpositive(s - higher),
                fade = math::exp_nonpositive(top[r] - higher);
        total[r] = total[r] * fade + warp_fold(e, Plus{});
        top[r] = higher;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) result.sum[r][g] *= fade;
        tiles.weights.v[place.row(r)][place.lane] = there ? head.dropped(e, i, j) : 0;
      }
      add_product(tiles.weights, head.piece_v(j0), c0, head.width, tiles, result);
    }
    put(result, head.head(head.y, head.queries, head.bh), head.y.row, i0, head.queries, c0,
        head.width, [&](int r) { return A(1) / total[r]; });
    if (c0 > 0 || place.lane != 0) continue;
    constexpr A low = static_cast<A>(AttentionArgs::kHidden);
    for (int r = 0; r < kEach; ++r)
      if (i0 + place.row(r) < head.queries)
        head.lse[head.bh * head.queries + i0 + place.row(r)] =
            top[r] == low ? low : top[r] + math::log(total[r]);
  }
}

// Per pair: what dropout leaves of its probability, and with the row's mean the gradient of its
// score.
template <class A>
struct Pair {
  A p, dropped, g;
  __device__ __forceinline__ A gradient(A mean, A flow) const { return p * (g - mean) * flow; }
};
template <class T>
__device__ __forceinline__ Pair<Accumulator<T>> pair_of(const Head<T>& head,
                                                        const RowOfScores<Accumulator<T>>& row,
                                                        Accumulator<T> dot, Accumulator<T> dy_dot_v,
                                                        int64_t i, int64_t j) {
  if (i >= head.queries || j >= head.keys) return {0, 0, 0};
  const Accumulator<T> factor = head.dropped(1, i, j);
  const Accumulator<T> p = row.probability(head.visible(dot, i, j));
  return {p, p * factor, dy_dot_v * factor};
}

// dq of kTile queries of a head, and means[B,H,Tq]: of g, weighted by the probabilities.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    query_gradient(Attention<T> problem, int64_t blocks, Accumulator<T>* means) {
  using A = Accumulator<T>;
  const Head<T> head(problem, blockIdx.x / blocks);
  const int64_t i0 = blockIdx.x % blocks * kTile, keys = head.keys_for(i0);
  Tiles<A>& tiles = block_shared<Tiles<A>>();
  const Place place;
  const auto lse = [&](int r) {
    const int64_t i = i0 + place.row(r);
    return i < head.queries ? head.lse[head.bh * head.queries + i] : A(0);
  };
  A dot[kEach], g[kEach], mean[kEach] = {};
  const auto tile = [&](int64_t j0, auto f) {  // f(r, the row, its pair with the lane's key)
    dots(head.piece_q(i0), head.piece_k(j0), head.width, tiles, dot);
    dots(head.piece_dy(i0), head.piece_v(j0), head.width, tiles, g);
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      const RowOfScores<A> row(lse(r), head.keys);
      f(r, row, pair_of(head, row, dot[r], g[r], i0 + place.row(r), j0 + place.lane));
    }
  };
  for (int64_t j0 = 0; j0 < keys; j0 += kTile)
    tile(j0,
         [&](int r, const RowOfScores<A>&, const Pair<A>& pair) { mean[r] += pair.p * pair.g; });
  for (int r = 0; r < kEach; ++r) {
    mean[r] = warp_fold(mean[r], Plus{});
    const int64_t i = i0 + place.row(r);
    if (place.lane == 0 && i < head.queries) means[head.bh * head.queries + i] = mean[r];
  }
  for (int64_t c0 = 0; c0 < head.width; c0 += kColumns) {
    Result<A> result{};
    for (int64_t j0 = 0; j0 < keys; j0 += kTile) {
      tile(j0, [&](int r, const RowOfScores<A>& row, const Pair<A>& pair) {
        tiles.weights.v[place.row(r)][place.lane] = pair.gradient(mean[r], row.flow);
      });
      add_product(tiles.weights, head.piece_k(j0), c0, head.width, tiles, result);
    }
    put(result, head.head(head.dq, head.queries, head.bh), head.dq.row, i0, head.queries, c0,
        head.width, [&](int) { return head.scale; });
  }
}

// dk and dv of kTile keys of a head. A lane has a query here.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    key_gradients(Attention<T> problem, int64_t blocks, const Accumulator<T>* means) {
  using A = Accumulator<T>;
  const Head<T> head(problem, blockIdx.x / blocks);
  const int64_t j0 = blockIdx.x % blocks * kTile;
  Tiles<A>& tiles = block_shared<Tiles<A>>();
  const Place place;
  const int64_t first = head.causal && !head.hidden ? j0 : 0;  // no query before sees these keys
  for (int64_t c0 = 0; c0 < head.width; c0 += kColumns) {
    Result<A> dk{}, dv{};
    for (int64_t i0 = first; i0 < head.queries; i0 += kTile) {
      A dot[kEach], g[kEach];
      dots(head.piece_k(j0), head.piece_q(i0), head.width, tiles, dot);
      dots(head.piece_v(j0), head.piece_dy(i0), head.width, tiles, g);
      const int64_t i = i0 + place.lane, at = head.bh * head.queries + i;
      const RowOfScores<A> row(i < head.queries ? head.lse[at] : 0, head.keys);
      const A mean = i < head.queries ? means[at] : 0;
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const Pair<A> pair = pair_of(head, row, dot[r], g[r], i, j0 + place.row(r));
        tiles.weights.v[place.row(r)][place.lane] = pair.gradient(mean, row.flow);
        tiles.others.v[place.row(r)][place.lane] = pair.dropped;
      }
      add_product(tiles.weights, head.piece_q(i0), c0, head.width, tiles, dk);
      add_product(tiles.others, head.piece_dy(i0), c0, head.width, tiles, dv);
    }
    put(dk, head.head(head.dk, head.keys, head.bh), head.dk.row, j0, head.keys, c0, head.width,
        [&](int) { return head.scale; });
    put(dv, head.head(head.dv, head.keys, head.bh), head.dv.row, j0, head.keys, c0, head.width,
        [](int) { return A(1); });
  }
}

int64_t tiles_of(int64_t n) { return (n + kTile - 1) / kTile; }

}  // namespace

void attention_forward(const CudaContext& ctx, AttentionArgs args) {
  if (args.batch * args.heads * args.queries == 0) return;
  for_float(args.q.x.dtype, "attention_forward", [&]<class T>() {
    const Attention<T> problem(args);
    if constexpr (sizeof(T) == 2)
      if (attend_on_tensor_cores(ctx, problem)) return;
    const int64_t blocks = tiles_of(args.queries);
    launch(attend<T>, {one_block_each(args.batch * args.heads * blocks), kThreads}, ctx, problem,
           blocks);
  });
}

void attention_backward(const CudaContext& ctx, AttentionArgs args) {
  const int64_t heads = args.batch * args.heads;
  if (heads == 0) return;
  for_float(args.q.x.dtype, "attention_backward", [&]<class T>() {
    const Attention<T> problem(args);
    if constexpr (sizeof(T) == 2)
      if (attend_backward_on_tensor_cores(ctx, problem)) return;
    using A = Accumulator<T>;
    const Scratch means(ctx, heads * args.queries * static_cast<int64_t>(sizeof(A)));
    const int64_t blocks_q = tiles_of(args.queries), blocks_k = tiles_of(args.keys);
    if (args.queries > 0)
      launch(query_gradient<T>, {one_block_each(heads * blocks_q), kThreads}, ctx, problem,
             blocks_q, means.as<A>());
    launch(key_gradients<T>, {one_block_each(heads * blocks_k), kThreads}, ctx, problem, blocks_k,
           means.as<A>());
  });
}

}  // namespace pinion::kernels::cuda
