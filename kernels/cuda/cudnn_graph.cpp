// SPDX-License-Identifier: Apache-2.0
#ifdef PINION_WITH_CUDNN
#include "pinion/kernels/cuda/cudnn_graph.h"

#include <algorithm>
#include <string>

namespace pinion::kernels::cuda {
namespace {

// Configurations of engines, best first by the library's estimate; empty where there is none. A
// graph without an engine may come back as success with a count of 0, or as not supported.
std::vector<Descriptor> configurations(const Descriptor& graph, const GraphTarget& target,
                                       cudnnBackendHeurMode_t mode) {
  const Cudnn& lib = graph.functions();
  Descriptor heuristics(lib, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (target.properties) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.properties);
  std::vector<Descriptor> found;
  const cudnnStatus_t status = lib.BackendFinalize(heuristics.get());
  if (status / 1000 * 1000 == CUDNN_STATUS_NOT_SUPPORTED) return found;
  lib.check(status, "heuristics for a graph");

  int64_t count = 0;
  const auto results = [&](int64_t asked, void* to, const char* what) {
    lib.check(lib.BackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, asked, &count, to),
              what);
  };
  results(0, nullptr, "the number of engines");
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < count; ++i) {
    found.emplace_back(lib, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(found.back().get());
  }
  if (count > 0) results(count, raw.data(), "the engines of a graph");
  while (static_cast<int64_t>(found.size()) > count) found.pop_back();
  return found;
}

// The notes of one kind that an engine carries.
template <class Note, size_t kMost>
std::vector<Note> notes(const Descriptor& engine, cudnnBackendAttributeName_t name,
                        cudnnBackendAttributeType_t type) {
  std::array<Note, kMost> all{};
  int64_t count = 0;
  const Cudnn& lib = engine.functions();
  lib.check(lib.BackendGetAttribute(engine.get(), name, type, kMost, &count, all.data()),
            "the notes of an engine");
  return {all.begin(), all.begin() + std::min(count, int64_t{kMost})};
}

bool keeps_our_promises(const Descriptor& configuration, bool tensor_cores) {
  const Cudnn& lib = configuration.functions();
  Descriptor engine(lib, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  int64_t count = 0;
  lib.check(lib.BackendGetAttribute(configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                    CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw),
            "the engine of a configuration");
  constexpr size_t kMost = 64;  // of either kind; newer versions of the library know more than ours
  for (const auto note : notes<cudnnBackendNumericalNote_t, kMost>(
           engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE)) {
    if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) return false;
    if (note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) return false;
    if (note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS && !tensor_cores) return false;
    if (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && !tensor_cores) return false;
  }
  const auto behaviour = notes<cudnnBackendBehaviorNote_t, kMost>(
      engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE);
  return std::find(behaviour.begin(), behaviour.end(), CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) ==
         behaviour.end();
}

}  // namespace

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     int64_t count, const void* values) {
  const cudnnStatus_t status = lib_->BackendSetAttribute(it_, name, type, count, values);
  if (status == CUDNN_STATUS_SUCCESS) return;
  lib_->check(status, cat({"attribute ", static_cast<int>(name), " to be taken"}).c_str());
}

Descriptor device_properties(const Cudnn& lib, std::string_view json) {
  Descriptor d(lib, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  const std::string text(json);
  d.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
        static_cast<int64_t>(text.size()) + 1, text.c_str());
  d.finalize("a description of a device");
  return d;
}

Descriptor tensor_descriptor(const Cudnn& lib, int64_t id, cudnnDataType_t type,
                             std::span<const int64_t> dims, std::span<const int64_t> strides,
                             int64_t boundary) {
  Descriptor d(lib, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  d.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, boundary);
  d.finalize("a tensor");
  return d;
}

Descriptor graph_of(const Descriptor& operation, const GraphTarget& target) {
  Descriptor graph(operation.functions(), CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  if (target.handle)
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
  graph.finalize("an operation graph");
  return graph;
}

std::optional<GraphPlan> plan_graph(const Descriptor& graph, const GraphTarget& target,
                                    bool tensor_cores) {
  const Cudnn& lib = graph.functions();
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (std::vector<Descriptor> all = configurations(graph, target, mode);
         Descriptor & configuration : all) {
      if (!keeps_our_promises(configuration, tensor_cores)) continue;
      GraphPlan made{std::move(configuration),
                     Descriptor(lib, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)};
      if (target.handle)
        made.plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
      if (target.properties)
        made.plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.properties);
      made.plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, made.configuration);
      // An engine may turn out not to do it after all; the next one is asked then.
      const cudnnStatus_t status = lib.BackendFinalize(made.plan.get());
      if (status / 1000 * 1000 == CUDNN_STATUS_NOT_SUPPORTED) continue;
      lib.check(status, "a plan");
      int64_t count = 0;
      lib.check(lib.BackendGetAttribute(made.plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                        CUDNN_TYPE_INT64, 1, &count, &made.workspace_bytes),
                "the workspace of a plan");
      return made;
    }
  return std::nullopt;
}

void run_plan(cudnnHandle_t handle, const GraphPlan& plan, std::span<const int64_t> ids,
              std::span<void* const> data, void* workspace) {
  const Cudnn& lib = plan.plan.functions();
  Descriptor pack(lib, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
           static_cast<int64_t>(data.size()), data.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize("the addresses of a plan's tensors");
  lib.check(lib.BackendExecute(handle, plan.plan.get(), pack.get()), "a plan to be launched");
}

}  // namespace pinion::kernels::cuda
#endif
