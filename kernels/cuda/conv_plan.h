// SPDX-License-Identifier: Apache-2.0
// One convolution as numbers, and its plan in cuDNN. Free of cuDNN's header.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {

enum class ConvPass : uint8_t { forward, backward_input, backward_weight };

// x [n,h,w,c], weight [k,r,s,c], y [n,ho,wo,k]; two of them are read and the third is written.
struct ConvProblem {
  ConvPass pass;
  DType dtype;
  int64_t n, h, w, c, k, r, s, ho, wo;
  Conv2d conv;
  bool tf32 = false;
  int64_t boundary[3] = {16, 16, 16};  // bytes, of the addresses of x, weight and y
};

// Device addresses of x, weight and y.
struct ConvData {
  void* data[3];
};

// By cuDNN, on the context's stream. False, and nothing done, where it has no engine for the
// problem. Throws Error (device) where cuDNN is missing, out of memory, or fails.
bool convolve_by_library(const CudaContext& ctx, const ConvProblem& p, const ConvData& d);

// By our own kernels (conv_direct.cu): of any type and shape, and slow.
void convolve_directly(const CudaContext& ctx, const ConvProblem& p, const ConvData& d);

struct Cudnn;  // kernels/cuda/cudnn.h

// What cuDNN would do on the device that `json` describes, without one.
class DevicelessPlanner {
 public:
  DevicelessPlanner(const Cudnn& library, std::string_view json);
  ~DevicelessPlanner();
  DevicelessPlanner(const DevicelessPlanner&) = delete;
  DevicelessPlanner& operator=(const DevicelessPlanner&) = delete;
  // Of the plan that convolve_by_library would run, or -1 where there is none.
  int64_t workspace_bytes(const ConvProblem& p) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pinion::kernels::cuda
