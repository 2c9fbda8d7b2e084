// SPDX-License-Identifier: Apache-2.0
// Stand-in for the CUB header of this name: the algorithm as one thread of a kernel on the stream,
// with CUB's protocol. Its working memory is what the caller brought, as on a device.
#pragma once

#include <cstdint>

#include "../launch_single.h"

namespace cub {
namespace detail {

// Merges ever longer runs of positions, from one half of the storage into the other.
template <class Key, class Value>
void merge_sort(const Key* keys, Key* sorted, const Value* values, Value* moved, int64_t n,
                int64_t* storage) {
  int64_t *from = storage, *to = storage + n;
  for (int64_t i = 0; i < n; ++i) from[i] = i;
  for (int64_t run = 1; run < n; run *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * run) {
      const int64_t middle = begin + run < n ? begin + run : n;
      const int64_t end = middle + run < n ? middle + run : n;
      for (int64_t at = begin, a = begin, b = middle; at < end; ++at) {
        const bool left = a < middle && (b == end || !(keys[from[b]] < keys[from[a]]));
        to[at] = left ? from[a++] : from[b++];
      }
    }
    int64_t* const swap = from;
    from = to, to = swap;
  }
  for (int64_t i = 0; i < n; ++i) sorted[i] = keys[from[i]], moved[i] = values[from[i]];
}

}  // namespace detail

struct DeviceRadixSort {
  // By all bits of the keys.
  template <class Key, class Value>
  static cudaError_t SortPairs(void* storage, size_t& bytes, const Key* keys, Key* sorted,
                               const Value* values, Value* moved, int64_t n, int begin_bit,
                               int end_bit, cudaStream_t stream) {
    if (begin_bit != 0 || end_bit != static_cast<int>(8 * sizeof(Key)))
      return cudaErrorInvalidValue;
    const size_t needed = 2 * static_cast<size_t>(n) * sizeof(int64_t);
    if (detail::only_asks(storage, bytes, needed)) return cudaSuccess;
    if (bytes < needed) return cudaErrorInvalidValue;
    return detail::launch_single(stream, detail::merge_sort<Key, Value>, keys, sorted, values,
                                 moved, n, static_cast<int64_t*>(storage));
  }
};

}  // namespace cub
