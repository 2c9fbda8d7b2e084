// SPDX-License-Identifier: Apache-2.0
// cuDNN's graph interface: descriptors that destroy themselves, and the way from an operation graph
// over the library's heuristics to a plan that can be run. Every descriptor is of one table, which
// outlives it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pinion/kernels/cuda/cudnn.h"

namespace pinion::kernels::cuda {

class Descriptor {
 public:
  Descriptor(const Cudnn& lib, cudnnBackendDescriptorType_t type) : lib_(&lib) {
    lib.check(lib.BackendCreateDescriptor(type, &it_), "a descriptor");
  }
  ~Descriptor() {
    if (it_) lib_->BackendDestroyDescriptor(it_);
  }
  Descriptor(Descriptor&& other) noexcept
      : lib_(other.lib_), it_(std::exchange(other.it_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  cudnnBackendDescriptor_t get() const { return it_; }
  const Cudnn& functions() const { return *lib_; }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void* values);
  void set(cudnnBackendAttributeName_t name, int64_t value) {
    set(name, CUDNN_TYPE_INT64, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, std::span<const int64_t> values) {
    set(name, CUDNN_TYPE_INT64, static_cast<int64_t>(values.size()), values.data());
  }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
    set(name, CUDNN_TYPE_DATA_TYPE, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, float value) {
    set(name, CUDNN_TYPE_FLOAT, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.it_);
  }
  void finalize(const char* what) { lib_->check(lib_->BackendFinalize(it_), what); }

 private:
  const Cudnn* lib_;
  cudnnBackendDescriptor_t it_ = nullptr;
};

// Where a graph shall run: on the device of a handle, or on one that is described in text (the
// library's JSON), for plans that are made without a device. One of the two.
struct GraphTarget {
  cudnnHandle_t handle = nullptr;
  const Descriptor* properties = nullptr;
};
// Throws Error (device) for text that the library does not understand.
Descriptor device_properties(const Cudnn& lib, std::string_view json);

// A tensor [dims] of a graph, known by `id`; `boundary` is what its addresses are multiples of.
Descriptor tensor_descriptor(const Cudnn& lib, int64_t id, cudnnDataType_t type,
                             std::span<const int64_t> dims, std::span<const int64_t> strides,
                             int64_t boundary);

Descriptor graph_of(const Descriptor& operation, const GraphTarget& target);

// What can be run, what it was made from, and the device memory that it needs meanwhile.
struct GraphPlan {
  Descriptor configuration, plan;
  int64_t workspace_bytes = 0;
};

// The first plan that the heuristics name, can be made, and computes what our own kernels promise:
// in a fixed order, without rounding inputs or sums below what their types say; `tensor_cores` says
// whether tensor cores may be used. Engines that are compiled at run time are left out: they need a
// compiler, and seconds on first use. None is no error: the heuristics know no engine then.
std::optional<GraphPlan> plan_graph(const Descriptor& graph, const GraphTarget& target,
                                    bool tensor_cores);

// Launches the plan on the handle's stream. ids[i] is at data[i].
void run_plan(cudnnHandle_t handle, const GraphPlan& plan, std::span<const int64_t> ids,
              std::span<void* const> data, void* workspace);

}  // namespace pinion::kernels::cuda
