// SPDX-License-Identifier: Apache-2.0
// Activations and elementary functions, forward and backward.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {

void relu_forward(const CudaContext& ctx, ConstView x, View y) {
  map1(ctx, "relu_forward", formulas::Relu{}, x, y);
}
void relu_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  map2(ctx, "relu_backward", formulas::ReluBackward{}, y, dy, dx);
}

void gelu_forward(const CudaContext& ctx, ConstView x, bool tanh_form, View y) {
  tanh_form ? map1(ctx, "gelu_forward", formulas::GeluTanh{}, x, y)
            : map1(ctx, "gelu_forward", formulas::Gelu{}, x, y);
}
void gelu_backward(const CudaContext& ctx, ConstView x, bool tanh_form, ConstView dy, View dx) {
  tanh_form ? map2(ctx, "gelu_backward", formulas::GeluTanhBackward{}, x, dy, dx)
            : map2(ctx, "gelu_backward", formulas::GeluBackward{}, x, dy, dx);
}

void sigmoid_forward(const CudaContext& ctx, ConstView x, View y) {
  map1(ctx, "sigmoid_forward", formulas::Sigmoid{}, x, y);
}
void sigmoid_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  map2(ctx, "sigmoid_backward", formulas::SigmoidBackward{}, y, dy, dx);
}
void tanh_forward(const CudaContext& ctx, ConstView x, View y) {
  map1(ctx, "tanh_forward", formulas::Tanh{}, x, y);
}
void tanh_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  map2(ctx, "tanh_backward", formulas::TanhBackward{}, y, dy, dx);
}
void exp_forward(const CudaContext& ctx, ConstView x, View y) {
  map1(ctx, "exp_forward", formulas::Exp{}, x, y);
}
void log_forward(const CudaContext& ctx, ConstView x, View y) {
  map1(ctx, "log_forward", formulas::Log{}, x, y);
}

}  // namespace pinion::kernels::cuda
