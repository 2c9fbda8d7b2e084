// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/conv_plan.h"

#ifdef PINION_WITH_CUDNN
#include <mutex>

#include "pinion/kernels/cuda/cudnn_graph.h"
#include "pinion/kernels/cuda/plan_cache.h"
#include "pinion/kernels/cuda/workspace.h"

namespace pinion::kernels::cuda {
namespace {

constexpr size_t kMostPlans = 1024;  // of a device: ResNet-101 has 23 shapes in three directions
constexpr int kMostDevices = 64;
constexpr int64_t kIds[] = {'x', 'w', 'y'};

cudnnDataType_t type_of(DType t) {
  return t == DType::f32    ? CUDNN_DATA_FLOAT
         : t == DType::bf16 ? CUDNN_DATA_BFLOAT16
                            : CUDNN_DATA_HALF;
}

// cuDNN counts dimensions as [N,C,H,W] whatever the order in memory, which strides say: channels
// come last in ours.
Descriptor channels_last(const Cudnn& lib, const ConvProblem& p, int which, int64_t n, int64_t h,
                         int64_t w, int64_t c) {
  const int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
  return tensor_descriptor(lib, kIds[which], type_of(p.dtype), dims, strides, p.boundary[which]);
}

Descriptor convolution(const Cudnn& lib, const Conv2d& c) {
  Descriptor d(lib, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const int64_t dilations[] = {c.dilation, c.dilation}, strides[] = {c.stride, c.stride};
  const int64_t paddings[] = {c.padding, c.padding};
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  d.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  d.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  d.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, int64_t{2});
  d.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, dilations);
  d.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, strides);
  d.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, paddings);
  d.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, paddings);
  d.finalize("a convolution");
  return d;
}

// How the library spells one direction.
struct Spelling {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t alpha, beta, convolution, x, w, y;
};
Spelling spelling_of(ConvPass pass) {
  switch (pass) {
    case ConvPass::forward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y};
    case ConvPass::backward_input:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY};
    case ConvPass::backward_weight: break;
  }
  return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY};
}

std::optional<GraphPlan> make_plan(const Cudnn& lib, const GraphTarget& target,
                                   const ConvProblem& p) {
  const Descriptor x = channels_last(lib, p, 0, p.n, p.h, p.w, p.c);
  const Descriptor w = channels_last(lib, p, 1, p.k, p.r, p.s, p.c);
  const Descriptor y = channels_last(lib, p, 2, p.n, p.ho, p.wo, p.k);
  const Descriptor conv = convolution(lib, p.conv);
  const Spelling is = spelling_of(p.pass);
  Descriptor operation(lib, is.type);
  operation.set(is.convolution, conv);
  operation.set(is.x, x);
  operation.set(is.w, w);
  operation.set(is.y, y);
  operation.set(is.alpha, 1.0f);
  operation.set(is.beta, 0.0f);
  operation.finalize("the operation of a convolution");
  const Descriptor graph = graph_of(operation, target);
  return plan_graph(graph, target, p.dtype != DType::f32 || p.tf32);
}

// Of one device: a handle is for one thread at a time.
struct DeviceState {
  std::mutex mutex;
  cudnnHandle_t handle = nullptr;
  PlanCache<18, std::optional<GraphPlan>> plans{kMostPlans};
};

// Never destroyed: the library may be gone by then.
DeviceState& state_of(int device) {
  static auto* const all = new DeviceState[kMostDevices];
  return all[device];
}

}  // namespace

bool convolve_by_library(const CudaContext& ctx, const ConvProblem& p, const ConvData& d) {
  const Cudnn& lib = cudnn();
  DeviceState& state = state_of(ctx.device);
  const std::lock_guard lock(state.mutex);
  if (!state.handle) {
    cudnnHandle_t handle = nullptr;
    lib.check(lib.Create(&handle), "a handle for the device");
    state.handle = handle;
  }
  const auto plan = state.plans.get(
      {static_cast<int64_t>(p.pass), static_cast<int64_t>(p.dtype), p.n, p.h, p.w, p.c, p.k, p.r,
       p.s, p.ho, p.wo, p.conv.stride, p.conv.padding, p.conv.dilation, p.tf32, p.boundary[0],
       p.boundary[1], p.boundary[2]},
      [&] {
        return std::make_shared<std::optional<GraphPlan>>(make_plan(lib, {state.handle}, p));
      });
  if (!*plan) return false;
  const GraphPlan& it = **plan;
  std::optional<Scratch> workspace;
  if (it.workspace_bytes > 0) workspace.emplace(ctx, it.workspace_bytes);
  lib.check(lib.SetStream(state.handle, ctx.stream), "its stream to be taken");
  run_plan(state.handle, it, kIds, d.data, workspace ? workspace->as<void>() : nullptr);
  return true;
}

struct DevicelessPlanner::State {
  const Cudnn& library;
  Descriptor properties;
};

DevicelessPlanner::DevicelessPlanner(const Cudnn& library, std::string_view json)
    : state_(new State{library, device_properties(library, json)}) {}
DevicelessPlanner::~DevicelessPlanner() = default;

int64_t DevicelessPlanner::workspace_bytes(const ConvProblem& p) const {
  const auto plan = make_plan(state_->library, {nullptr, &state_->properties}, p);
  return plan ? plan->workspace_bytes : -1;
}

}  // namespace pinion::kernels::cuda

#else

namespace pinion::kernels::cuda {

bool convolve_by_library(const CudaContext&, const ConvProblem&, const ConvData&) {
  fail(ErrorKind::device, {"cuDNN: expected a build that knows it, got one that was configured "
                           "where its header was not found"});
}

}  // namespace pinion::kernels::cuda
#endif
