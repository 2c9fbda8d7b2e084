// SPDX-License-Identifier: Apache-2.0
// The matrix product kernels: shapes and dtypes to GEMM.
#include "pinion/kernels/cpu/gemm.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

template <class T>
PINION_INLINE Strided<const T> operand(const T* data, int64_t cols, bool transpose) {
  return transpose ? Strided<const T>{data, 1, cols} : Strided<const T>{data, cols, 1};
}

template <class T, class Out>
void batched(const CpuContext& ctx, ConstView a, bool ta, ConstView b, bool tb, bool accumulate,
             View y) {
  const int64_t m = y.shape[-2], n = y.shape[-1], k = a.shape[ta ? -2 : -1];
  const int64_t batch = y.shape.rank() == 3 ? y.shape[0] : 1;
  const T *pa = a.as<T>(), *pb = b.as<T>();
  Out* py = y.as<Out>();
  Epilogue<Out> epilogue;
  epilogue.accumulate = accumulate;
  for_rows(ctx, batch, m * n * (k + 1) / 8, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; ++i)
      gemm<T, Out>(ctx, m, n, k, operand(pa + i * m * k, a.shape[-1], ta),
                   operand(pb + i * k * n, b.shape[-1], tb), py + i * m * n, n, epilogue);
  });
}

}  // namespace

void matmul(const CpuContext& ctx, ConstView a, bool ta, ConstView b, bool tb, bool accumulate,
            View y) {
  for_float(a.dtype, "matmul", [&]<class T>() {
    if (y.dtype == a.dtype) return batched<T, T>(ctx, a, ta, b, tb, accumulate, y);
    if constexpr (sizeof(T) == 2) return batched<T, float>(ctx, a, ta, b, tb, accumulate, y);
    fail_dtype("matmul", y.dtype, "the operands' dtype, or f32 over 16-bit operands");
  });
}

void linear_forward(const CpuContext& ctx, ConstView x, ConstView w, ConstView b, Activation act,
                    View y, View pre) {
  for_float(x.dtype, "linear", [&]<class T>() {
    const int64_t k = x.cols(), n = w.shape[0];
    const Epilogue<T> epilogue{b ? b.as<T>() : nullptr, act, false, pre ? pre.as<T>() : nullptr};
    gemm<T, T>(ctx, x.rows(), n, k, operand(x.as<T>(), k, false), operand(w.as<T>(), k, true),
               y.as<T>(), n, epilogue);
  });
}

}  // namespace pinion::kernels::PINION_RUNG
