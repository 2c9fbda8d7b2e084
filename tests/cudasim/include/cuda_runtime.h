// SPDX-License-Identifier: Apache-2.0
// Stand-in for the CUDA header of this name: the device language as plain C++, by calls into the
// simulator. There is no __shared__: kernels take shared memory from kernels/cuda/device.cuh, which
// gives every block its own, filled with NaN.
#pragma once

#ifdef __CUDACC__
#error "nvcc must see the toolkit's cuda_runtime.h, not the simulator's"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../device_calls.h"
#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

#define CUDASIM_SITE cudasim::Site site = cudasim::Site::here()

// --- barriers ---

inline void __syncthreads(CUDASIM_SITE) {
  cudasim::block_barrier(0, 0, false, "__syncthreads", site);
}
inline int __syncthreads_count(int predicate, CUDASIM_SITE) {
  return cudasim::block_barrier(0, 0, predicate != 0, "__syncthreads_count", site);
}
inline int __syncthreads_or(int predicate, CUDASIM_SITE) {
  return cudasim::block_barrier(0, 0, predicate != 0, "__syncthreads_or", site) != 0;
}
inline int __syncthreads_and(int predicate, CUDASIM_SITE) {
  return cudasim::block_barrier(0, 0, predicate == 0, "__syncthreads_and", site) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDASIM_SITE) {
  cudasim::warp_operation({"__syncwarp", nullptr, true}, mask, nullptr, site);
}
inline void __threadfence() { cudasim::fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned, CUDASIM_SITE) { cudasim::pause(site); }
[[noreturn]] inline void __trap(CUDASIM_SITE) {
  cudasim::fail(cudasim::Fault::trap, "__trap()", site);
}

// --- warp operations ---

namespace cudasim {

template <class T>
struct Shuffled {
  T given, taken;
  int from;
  Site site;

  static void execute(void* const* operands, uint32_t mask) {
    for_lanes(mask, [&](int l) {
      auto& self = *static_cast<Shuffled*>(operands[l]);
      if (!(mask >> self.from & 1))
        fail(Fault::mask,
             "shuffle: lane " + std::to_string(l) + " reads lane " + std::to_string(self.from) +
                 ", which is not in the mask",
             self.site);
      self.taken = static_cast<Shuffled*>(operands[self.from])->given;
    });
  }
};
template <class T>
T shuffle(const char* name, uint32_t mask, T value, int from, Site site) {
  Shuffled<T> s{value, value, from, site};
  warp_operation({name, Shuffled<T>::execute}, mask, &s, site);
  return s.taken;
}

// Every lane of the mask gets fold(all values in the order of lanes).
template <class T, class Fold>
T fold_lanes(const char* name, uint32_t mask, T value, Site site) {
  const auto execute = [](void* const* operands, uint32_t lanes) {
    T total = *static_cast<T*>(operands[__builtin_ctz(lanes)]);
    for_lanes(lanes & (lanes - 1),
              [&](int l) { total = Fold{}(total, *static_cast<T*>(operands[l])); });
    for_lanes(lanes, [&](int l) { *static_cast<T*>(operands[l]) = total; });
  };
  warp_operation({name, execute}, mask, &value, site);
  return value;
}
struct Plus {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Least {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Greatest {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

inline uint32_t vote(const char* name, uint32_t mask, bool yes, Site site) {
  return fold_lanes<uint32_t, Or>(name, mask, static_cast<uint32_t>(yes) << lane(), site);
}

template <class T>
struct Matched {
  T value;
  uint32_t equal;

  static void execute(void* const* operands, uint32_t mask) {
    for_lanes(mask, [&](int l) {
      auto& self = *static_cast<Matched*>(operands[l]);
      self.equal = 0;
      for_lanes(mask, [&](int k) {
        const bool same = static_cast<Matched*>(operands[k])->value == self.value;
        self.equal |= static_cast<uint32_t>(same) << k;
      });
    });
  }
};

// The first lane of the calling lane's group of `width`.
inline int group_of(int width) { return lane() & ~(width - 1); }

}  // namespace cudasim

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32, CUDASIM_SITE) {
  const int base = cudasim::group_of(width);
  return cudasim::shuffle("__shfl_sync", mask, v, base | (from & (width - 1)), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, CUDASIM_SITE) {
  const int self = cudasim::lane(), from = self - static_cast<int>(by);
  const bool inside = from >= cudasim::group_of(width);
  return cudasim::shuffle("__shfl_up_sync", mask, v, inside ? from : self, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, CUDASIM_SITE) {
  const int self = cudasim::lane(), from = self + static_cast<int>(by);
  const bool inside = from < cudasim::group_of(width) + width;
  return cudasim::shuffle("__shfl_down_sync", mask, v, inside ? from : self, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, CUDASIM_SITE) {
  const int self = cudasim::lane(), from = self ^ bits;
  const bool inside = from < cudasim::group_of(width) + width;
  return cudasim::shuffle("__shfl_xor_sync", mask, v, inside ? from : self, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDASIM_SITE) {
  return cudasim::vote("__ballot_sync", mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, CUDASIM_SITE) {
  return cudasim::vote("__any_sync", mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDASIM_SITE) {
  return cudasim::vote("__all_sync", mask, predicate == 0, site) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUDASIM_SITE) {
  cudasim::Matched<T> m{value, 0};
  cudasim::warp_operation({"__match_any_sync", cudasim::Matched<T>::execute}, mask, &m, site);
  return m.equal;
}
template <class T>
T __reduce_add_sync(unsigned mask, T v, CUDASIM_SITE) {
  return cudasim::fold_lanes<T, cudasim::Plus>("__reduce_add_sync", mask, v, site);
}
template <class T>
T __reduce_min_sync(unsigned mask, T v, CUDASIM_SITE) {
  return cudasim::fold_lanes<T, cudasim::Least>("__reduce_min_sync", mask, v, site);
}
template <class T>
T __reduce_max_sync(unsigned mask, T v, CUDASIM_SITE) {
  return cudasim::fold_lanes<T, cudasim::Greatest>("__reduce_max_sync", mask, v, site);
}

// --- atomics: nothing comes between the read and the write of one ---

// Its accesses are reported by hand.
#define CUDASIM_UNSEEN __attribute__((no_sanitize("thread")))

#define CUDASIM_ATOMIC(name, result)                                     \
  template <class T>                                                     \
  CUDASIM_UNSEEN T name(T* p, std::type_identity_t<T> v, CUDASIM_SITE) { \
    cudasim::touch_atomically(p, sizeof(T), site);                       \
    const T old = *p;                                                    \
    *p = (result);                                                       \
    return old;                                                          \
  }
CUDASIM_ATOMIC(atomicAdd, static_cast<T>(old + v))
CUDASIM_ATOMIC(atomicSub, static_cast<T>(old - v))
CUDASIM_ATOMIC(atomicMax, old < v ? v : old)
CUDASIM_ATOMIC(atomicMin, v < old ? v : old)
CUDASIM_ATOMIC(atomicExch, v)
CUDASIM_ATOMIC(atomicAnd, static_cast<T>(old& v))
CUDASIM_ATOMIC(atomicOr, static_cast<T>(old | v))
CUDASIM_ATOMIC(atomicXor, static_cast<T>(old ^ v))
CUDASIM_ATOMIC(atomicInc, old >= v ? T{0} : static_cast<T>(old + 1))
#undef CUDASIM_ATOMIC
template <class T>
CUDASIM_UNSEEN T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v,
                           CUDASIM_SITE) {
  cudasim::touch_atomically(p, sizeof(T), site);
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}

// --- arithmetic ---

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

#undef CUDASIM_SITE
