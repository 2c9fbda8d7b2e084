// SPDX-License-Identifier: Apache-2.0
// Reading and accumulating by index: embedding and gather.
#include "pinion/kernels/lookup.h"

#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

PINION_INLINE bool outside(int64_t i, int64_t extent) {
  return static_cast<uint64_t>(i) >= static_cast<uint64_t>(extent);
}

// Occurrences of each id: a list per id, in the order of the ids.
struct Occurrences {
  int32_t* head;  // [vocabulary], -1 where there is none
  int32_t* next;  // [ids]
};

// One row of the gradient: the sum of the rows of dy where the id occurs, each column in a
// register.
template <class T>
PINION_INLINE void sum_occurrences(const Occurrences& list, int64_t id, const T* dy, int64_t cols,
                                   T* dw) {
  constexpr int64_t L = kPacket<T>;
  const int32_t head = list.head[id];
  int64_t c = 0;
  for (; c + 4 * L <= cols; c += 4 * L) {
    Packet<T> acc[4] = {};
    for (int64_t i = head; i >= 0; i = list.next[i])
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[v] += load_packet(dy + i * cols + c + v * L);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) store_packet(dw + c + v * L, acc[v]);
  }
  for (; c < cols; c += L) {
    const int64_t count = smaller(L, cols - c);
    Packet<T> acc = {};
    for (int64_t i = head; i >= 0; i = list.next[i]) acc += load_part(dy + i * cols + c, count);
    store_part(dw + c, acc, count);
  }
}

}  // namespace

void embedding_forward(const CpuContext& ctx, ConstView weight, ConstView ids, View y) {
  const int64_t vocabulary = weight.shape[0];
  const int64_t bytes = weight.cols() * size_of(weight.dtype);
  const int64_t* id = ids.as<int64_t>();
  const auto* from = static_cast<const char*>(weight.data);
  auto* to = static_cast<char*>(y.data);
  const bool stream = worth_streaming(to, ids.numel(), bytes);
  for_rows(ctx, ids.numel(), weight.cols(), [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; ++i) {
      if (outside(id[i], vocabulary)) [[unlikely]]
        fail_lookup("embedding", id[i], vocabulary);
      copy_words(from + id[i] * bytes, bytes, to + i * bytes, stream);
    }
    if (stream) end_streaming();
  });
}

void embedding_backward(const CpuContext& ctx, ConstView ids, ConstView dy, int64_t padding,
                        View dw) {
  const int64_t vocabulary = dw.shape[0], cols = dw.cols(), n = ids.numel();
  const int64_t* id = ids.as<int64_t>();
  if (n > INT32_MAX) [[unlikely]]
    fail_lookup("embedding: number of ids", n, INT32_MAX);
  const Scratch scratch((vocabulary + n) * static_cast<int64_t>(sizeof(int32_t)));
  const Occurrences list{scratch.as<int32_t>(), scratch.as<int32_t>() + vocabulary};
  for (int64_t v = 0; v < vocabulary; ++v) list.head[v] = -1;
  for (int64_t i = n - 1; i >= 0; --i) {  // from the back, so that the lists run forward
    if (id[i] == padding) continue;
    if (outside(id[i], vocabulary)) [[unlikely]]
      fail_lookup("embedding", id[i], vocabulary);
    list.next[i] = list.head[id[i]];
    list.head[id[i]] = static_cast<int32_t>(i);
  }
  for_float(dw.dtype, "embedding_backward", [&]<class T>() {
    const T* from = dy.as<T>();
    T* to = dw.as<T>();
    for_rows(ctx, vocabulary, cols, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t v = begin; v < end; ++v) {
        if (list.head[v] < 0) {
          __builtin_memset(static_cast<void*>(to + v * cols), 0,
                           static_cast<size_t>(cols) * sizeof(T));
        } else {
          sum_occurrences(list, v, from, cols, to + v * cols);
        }
      }
    });
  });
}

void gather(const CpuContext& ctx, ConstView x, ConstView index, View y) {
  const int64_t outer = x.shape[0], extent = x.shape[1], inner = x.shape[2], k = y.shape[1];
  const int64_t* at = index.as<int64_t>();
  for_any(x.dtype, "gather", [&]<class T>() {
    const T* from = x.as<T>();
    T* to = y.as<T>();
    for_rows(ctx, outer * k, inner, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t row = begin; row < end; ++row) {
        const T* slab = from + row / k * extent * inner;
        for (int64_t i = 0; i < inner; ++i) {
          const int64_t j = at[row * inner + i];
          if (outside(j, extent)) [[unlikely]]
            fail_lookup("gather", j, extent);
          to[row * inner + i] = slab[j * inner + i];
        }
      }
    });
  });
}

void gather_backward(const CpuContext& ctx, ConstView index, ConstView dy, View dx) {
  const int64_t outer = dx.shape[0], extent = dx.shape[1], inner = dx.shape[2], k = dy.shape[1];
  const int64_t* at = index.as<int64_t>();
  // Every chunk owns a block of columns of one slab, and so all that may add up in it.
  constexpr int64_t kBlock = 1024;
  const int64_t blocks = chunk_count(inner, kBlock);
  for_float(dx.dtype, "gather_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const T* from = dy.as<T>();
    T* to = dx.as<T>();
    for_rows(ctx, outer * blocks, (extent + k) * smaller(inner, kBlock),
             [=](int64_t begin, int64_t end, int64_t) {
               for (int64_t item = begin; item < end; ++item) {
                 const int64_t o = item / blocks, first = item % blocks * kBlock;
                 const int64_t last = smaller(inner, first + kBlock);
                 T* slab = to + o * extent * inner;
                 for (int64_t j = 0; j < extent; ++j)
                   for (int64_t i = first; i < last; ++i) slab[j * inner + i] = T(A(0));
                 for (int64_t j = 0; j < k; ++j)
                   for (int64_t i = first; i < last; ++i) {
                     const int64_t source = (o * k + j) * inner + i;
                     if (outside(at[source], extent)) [[unlikely]]
                       fail_lookup("gather", at[source], extent);
                     T& sum = slab[at[source] * inner + i];
                     sum = T(static_cast<A>(sum) + static_cast<A>(from[source]));
                   }
               }
             });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
