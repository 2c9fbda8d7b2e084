// SPDX-License-Identifier: Apache-2.0
// Convolutions on a CUDA device need cuDNN, which this build does not open.
#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/kernels_image.h"

namespace pinion::kernels::cuda {
namespace {

[[noreturn]] void fail_without_cudnn() {
  fail(ErrorKind::device, {"conv2d: expected cuDNN for a CUDA device, got a build without it"});
}

}  // namespace

void conv2d_forward(const CudaContext&, ConstView, ConstView, Conv2d, View) {
  fail_without_cudnn();
}
void conv2d_backward_input(const CudaContext&, ConstView, ConstView, Conv2d, View) {
  fail_without_cudnn();
}
void conv2d_backward_weight(const CudaContext&, ConstView, ConstView, Conv2d, View) {
  fail_without_cudnn();
}

}  // namespace pinion::kernels::cuda
