// SPDX-License-Identifier: Apache-2.0
// Filling with a number, and conversion between any two element types.
#include "pinion/kernels/convert.h"
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

template <class T>
struct Fill {
  T value;
  __device__ __forceinline__ T operator()() const { return value; }
};

template <class To>
struct Convert {
  template <class From>
  __device__ __forceinline__ To operator()(From x) const {
    return convert<To>(x);
  }
};

}  // namespace

void fill(const CudaContext& ctx, View x, double value) {
  for_any(x.dtype, "fill",
          [&]<class T>() { map_stored(ctx, x.numel(), Fill<T>{convert<T>(value)}, x.as<T>()); });
}

void cast(const CudaContext& ctx, ConstView x, View y) {
  for_any(x.dtype, "cast", [&]<class From>() {
    for_any(y.dtype, "cast", [&]<class To>() {
      const From* from = x.as<From>();
      To* to = y.as<To>();
      if (static_cast<const void*>(from) == to && std::is_same_v<To, From>) return;
      map_stored(ctx, y.numel(), Convert<To>{}, to, from);
    });
  });
}

}  // namespace pinion::kernels::cuda
