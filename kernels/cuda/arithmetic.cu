// SPDX-License-Identifier: Apache-2.0
// Element-wise arithmetic and selection.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

// The number that a tensor of one element holds, read where the kernel runs.
struct DeviceNumber {
  const void* data;
  DType dtype;

  __device__ __forceinline__ double read() const {
    switch (dtype) {
      case DType::f64: return *static_cast<const double*>(data);
      case DType::bf16: return float(*static_cast<const BFloat16*>(data));
      case DType::f16: return float(*static_cast<const Half*>(data));
      default: return *static_cast<const float*>(data);
    }
  }
};

template <class T>
struct ScaleBy {
  DeviceNumber scale;
  __device__ __forceinline__ T operator()(T x) const {
    using A = Accumulator<T>;
    return T(static_cast<A>(x) * static_cast<A>(scale.read()));
  }
};

template <class T>
struct MaskedFill {
  T value;
  __device__ __forceinline__ T operator()(T x, bool masked) const { return masked ? value : x; }
};

}  // namespace

void add(const CudaContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "add", formulas::Add{}, a, b, y);
}
void subtract(const CudaContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "subtract", formulas::Subtract{}, a, b, y);
}
void multiply(const CudaContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "multiply", formulas::Multiply{}, a, b, y);
}
void divide(const CudaContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "divide", formulas::Divide{}, a, b, y);
}
void divide_backward_b(const CudaContext& ctx, ConstView a, ConstView b, ConstView dy, View db) {
  for_float(db.dtype, "divide_backward_b", [&]<class T>() {
    map(ctx, db.numel(), formulas::DivideBackwardB{}, db.as<T>(), a.as<T>(), b.as<T>(), dy.as<T>());
  });
}

void affine(const CudaContext& ctx, ConstView x, double scale, double shift, View y) {
  map1(ctx, "affine", formulas::Affine{scale, shift}, x, y);
}
void scale_by(const CudaContext& ctx, ConstView x, ConstView s, View y) {
  for_float(y.dtype, "scale_by", [&]<class T>() {
    map_stored(ctx, y.numel(), ScaleBy<T>{{s.data, s.dtype}}, y.as<T>(), x.as<T>());
  });
}
void clamp(const CudaContext& ctx, ConstView x, double lo, double hi, View y) {
  map1(ctx, "clamp", formulas::Clamp{lo, hi}, x, y);
}

void masked_fill(const CudaContext& ctx, ConstView x, ConstView mask, double value, View y) {
  for_float(y.dtype, "masked_fill", [&]<class T>() {
    const T filler = T(static_cast<Accumulator<T>>(value));
    map_stored(ctx, y.numel(), MaskedFill<T>{filler}, y.as<T>(), x.as<T>(), mask.as<bool>());
  });
}

}  // namespace pinion::kernels::cuda
