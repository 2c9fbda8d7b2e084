// SPDX-License-Identifier: Apache-2.0
// The stand-in for cuDNN: descriptors that check what they are given, heuristics that also name
// engines which nobody should take, and convolutions on the host.
#include <cudnn.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "fake_libraries.h"

namespace cudasim {
namespace {

using pinion::DType;

// Engines, in the order in which the heuristics name them.
enum Engine : int64_t {
  kUnordered,  // adds in another order each time
  kCompiled,   // is compiled when it is planned
  kRounding,   // rounds its sums
  kUnfit,      // turns out not to be able to
  kTensorCores,
  kPlain,
};
constexpr int64_t kWorkspace = 4321;  // bytes

struct Value {
  cudnnBackendAttributeType_t type;
  int64_t count = 0;
  std::vector<char> bytes;
};

struct Object {
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<int, Value> values;
  std::map<int, std::shared_ptr<Object>> parts;  // descriptors among the values
  int64_t engine = -1;                           // of engines, configurations and plans

  template <class T>
  std::vector<T> all(int name) const {
    std::vector<T> out;
    const auto at = values.find(name);
    if (at == values.end()) return out;
    out.resize(at->second.bytes.size() / sizeof(T));
    std::memcpy(out.data(), at->second.bytes.data(), out.size() * sizeof(T));
    return out;
  }
  template <class T>
  T one(int name, T otherwise = {}) const {
    const std::vector<T> v = all<T>(name);
    return v.size() == 1 ? v[0] : otherwise;
  }
  const Object* part(int name) const {
    const auto at = parts.find(name);
    return at == parts.end() ? nullptr : at->second.get();
  }
};
// What a descriptor points to; plans share what they were made from.
using Handle = std::shared_ptr<Object>;
Object& object(cudnnBackendDescriptor_t d) { return **static_cast<Handle*>(d); }

cudnnStatus_t refuse(const std::string& why) {
  fake_libraries().wrong = why;
  return CUDNN_STATUS_BAD_PARAM;
}
cudnnStatus_t unsupported(const std::string& why) {
  fake_libraries().wrong = why;
  return CUDNN_STATUS_NOT_SUPPORTED;
}

size_t size_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_CHAR:
    case CUDNN_TYPE_BOOLEAN: return 1;
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    default: return 4;
  }
}

// The attributes that a descriptor has, a range of names each.
bool belongs(cudnnBackendDescriptorType_t type, int name) {
  switch (type) {
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: return name / 100 == 1;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return name / 100 == 2;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return name / 100 == 4;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return name >= 700 && name <= 705;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      return name >= 706 && name <= 711;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      return name >= 712 && name <= 717;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return name / 100 == 8;
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: return name / 100 == 9;
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: return name / 100 == 10;
    default: return false;
  }
}

// A convolution as an operation describes it.
struct Convolution {
  int64_t pass = 0;  // 0 forward, 1 gradient of the input, 2 of the weight
  const Object *conv = nullptr, *x = nullptr, *w = nullptr, *y = nullptr;
  float alpha = 0, beta = 0;

  explicit Convolution(const Object& op) {
    switch (op.type) {
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        *this = {0, op, 702, 704, 703, 705, 700};
        return;
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        *this = {1, op, 708, 710, 709, 711, 706};
        return;
      default: *this = {2, op, 714, 716, 715, 717, 712};
    }
  }
  Convolution(int64_t which, const Object& op, int of_conv, int of_x, int of_w, int of_y, int scale)
      : pass(which),
        conv(op.part(of_conv)),
        x(op.part(of_x)),
        w(op.part(of_w)),
        y(op.part(of_y)),
        alpha(op.one<float>(scale)),
        beta(op.one<float>(scale + 1)) {}

  // Says what does not fit, or nothing.
  std::string wrong() const {
    if (!conv || !x || !w || !y) return "an operation lacks a part";
    if (alpha != 1 || beta != 0) return "the scales of an operation";
    const auto dx = x->all<int64_t>(902), dw = w->all<int64_t>(902), dy = y->all<int64_t>(902);
    if (dx.size() != 4 || dw.size() != 4 || dy.size() != 4) return "a tensor without 4 extents";
    if (dx[1] != dw[1] || dx[0] != dy[0] || dw[0] != dy[1]) return "extents do not fit";
    for (int i = 0; i < 2; ++i) {
      const auto at = static_cast<size_t>(i);
      const int64_t span = geometry(102)[at] * (dw[2 + at] - 1) + 1;
      const int64_t room = dx[2 + at] + geometry(104)[at] + geometry(105)[at] - span;
      if (room < 0 || dy[2 + at] != room / geometry(103)[at] + 1) return "extents of the result";
    }
    const std::set<int64_t> ids{id(x), id(w), id(y)};
    return ids.size() == 3 ? "" : "ids are not distinct";
  }
  std::vector<int64_t> geometry(int name) const { return conv->all<int64_t>(name); }
  static int64_t id(const Object* t) { return t->one<int64_t>(906, -1); }
};

DType dtype_of(const Object& tensor) {
  const auto t = tensor.one<cudnnDataType_t>(901);
  return t == CUDNN_DATA_FLOAT ? DType::f32 : t == CUDNN_DATA_HALF ? DType::f16 : DType::bf16;
}

float to_tf32(float v) {
  uint32_t bits = 0;
  std::memcpy(&bits, &v, sizeof bits);
  bits = (bits + 0x1000) & ~0x1fffu;  // 10 bits behind the leading one
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The sums of one convolution, in f32; every pair of elements that meet is visited once.
void convolve(const Convolution& c, bool tf32, const std::map<int64_t, void*>& data) {
  const Object* const operands[] = {c.x, c.w, c.y};
  const int written = c.pass == 0 ? 2 : c.pass == 1 ? 0 : 1;
  const auto at = [](const std::vector<int64_t>& strides, int64_t i, int64_t j, int64_t k,
                     int64_t l) {
    return i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3];
  };
  std::vector<int64_t> strides[3];
  std::vector<float> values[3];
  for (int i = 0; i < 3; ++i) {
    strides[i] = operands[i]->all<int64_t>(903);
    int64_t size = 1;
    for (const int64_t d : operands[i]->all<int64_t>(902)) size *= d;
    values[i].resize(static_cast<size_t>(size));  // dense, in whatever order
    for (int64_t e = 0; e < size && i != written; ++e) {
      const auto v = static_cast<float>(
          load(dtype_of(*operands[i]), data.at(Convolution::id(operands[i])), e));
      values[i][static_cast<size_t>(e)] = tf32 ? to_tf32(v) : v;
    }
  }
  const auto dw = c.w->all<int64_t>(902), dx = c.x->all<int64_t>(902), dy = c.y->all<int64_t>(902);
  const auto dilation = c.geometry(102), stride = c.geometry(103), before = c.geometry(105);
  for (int64_t n = 0; n < dy[0]; ++n)
    for (int64_t i = 0; i < dy[2]; ++i)
      for (int64_t j = 0; j < dy[3]; ++j)
        for (int64_t r = 0; r < dw[2]; ++r)
          for (int64_t s = 0; s < dw[3]; ++s) {
            const int64_t h = i * stride[0] - before[0] + r * dilation[0];
            const int64_t v = j * stride[1] - before[1] + s * dilation[1];
            if (h < 0 || h >= dx[2] || v < 0 || v >= dx[3]) continue;
            for (int64_t k = 0; k < dw[0]; ++k)
              for (int64_t ch = 0; ch < dw[1]; ++ch) {
                float& x = values[0][static_cast<size_t>(at(strides[0], n, ch, h, v))];
                float& w = values[1][static_cast<size_t>(at(strides[1], k, ch, r, s))];
                float& y = values[2][static_cast<size_t>(at(strides[2], n, k, i, j))];
                (written == 2   ? y
                 : written == 0 ? x
                                : w) += written == 2   ? x * w
                                        : written == 0 ? y * w
                                                       : x * y;
              }
          }
  for (size_t e = 0; e < values[written].size(); ++e)
    store(dtype_of(*operands[written]), data.at(Convolution::id(operands[written])),
          static_cast<int64_t>(e), values[written][e]);
}

cudnnStatus_t finalize(Object& o) {
  switch (o.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: {
      const auto strides = o.all<int64_t>(903);
      if (o.all<int64_t>(902).size() != strides.size() || o.one<int64_t>(900) < 1)
        return refuse("a tensor");
      break;
    }
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
      if (o.one<int64_t>(106) != 2 || o.one<cudnnDataType_t>(100) != CUDNN_DATA_FLOAT ||
          o.one<cudnnConvolutionMode_t>(101) != CUDNN_CROSS_CORRELATION)
        return refuse("a convolution");
      for (const int name : {102, 103, 104, 105})
        if (o.all<int64_t>(name).size() != 2) return refuse("the geometry of a convolution");
      break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      if (const std::string wrong = Convolution(o).wrong(); !wrong.empty()) return refuse(wrong);
      break;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      if (!o.part(801) || !o.values.count(800)) return refuse("a graph");
      break;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: {
      if (!o.part(201)) return refuse("heuristics without a graph");
      const bool fallback = o.one<cudnnBackendHeurMode_t>(200) == CUDNN_HEUR_MODE_FALLBACK;
      if (fallback && fake_libraries().refuse_convolutions) return unsupported("no engine");
      if (!fallback) ++fake_libraries().convolution_plans;
      break;
    }
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
      const Object* const configuration = o.part(401);
      if (!configuration || !o.values.count(400)) return refuse("a plan");
      o.engine = configuration->engine;
      if (o.engine == kUnfit) return unsupported("this engine does not take it");
      break;
    }
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      if (o.all<int64_t>(1000).size() != o.all<void*>(1001).size()) return refuse("addresses");
      break;
    default: return refuse("a descriptor of this type");
  }
  o.finalized = true;
  return CUDNN_STATUS_SUCCESS;
}

std::vector<Engine> engines(const Object& heuristics) {
  if (fake_libraries().refuse_convolutions) return {};
  if (heuristics.one<cudnnBackendHeurMode_t>(200) == CUDNN_HEUR_MODE_FALLBACK) return {kPlain};
  return {kUnordered, kCompiled, kRounding, kUnfit, kTensorCores};
}

// Copies a list to the caller, as much as there is room for.
template <class T>
void give(const std::vector<T>& list, int64_t asked, int64_t* count, void* to) {
  *count = static_cast<int64_t>(list.size());
  for (int64_t i = 0; i < asked && i < *count; ++i)
    static_cast<T*>(to)[i] = list[static_cast<size_t>(i)];
}

cudnnStatus_t results_of(const Object& heuristics, int64_t asked, int64_t* count, void* to) {
  const std::vector<Engine> all = engines(heuristics);
  *count = static_cast<int64_t>(all.size());
  for (int64_t i = 0; i < asked && i < *count; ++i) {
    Object& configuration = object(static_cast<cudnnBackendDescriptor_t*>(to)[i]);
    if (configuration.type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR) return refuse("room for results");
    configuration.engine = all[static_cast<size_t>(i)];
    configuration.parts[201] = heuristics.parts.at(201);
    configuration.finalized = true;
  }
  return CUDNN_STATUS_SUCCESS;
}

}  // namespace
}  // namespace cudasim

using namespace cudasim;

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

size_t cudnnGetVersion() { return 91900; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_SUCCESS         ? "CUDNN_STATUS_SUCCESS"
         : status == CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED"
                                                : "CUDNN_STATUS_BAD_PARAM";
}
void cudnnGetLastErrorString(char* text, size_t bytes) {
  std::snprintf(text, bytes, "%s", fake_libraries().wrong.c_str());
}
cudnnStatus_t cudnnGraphVersionCheck() { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = new cudnnContext;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Handle(new Object{type});
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Handle*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void* values) {
  Object& o = object(descriptor);
  if (o.finalized) return refuse("an attribute after its descriptor was finalized");
  if (!belongs(o.type, name)) return refuse("an attribute of another descriptor");
  const auto* from = static_cast<const char*>(values);
  o.values[name] = {type, count, {from, from + static_cast<size_t>(count) * size_of(type)}};
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    const Handle part =
        *static_cast<Handle*>(*static_cast<const cudnnBackendDescriptor_t*>(values));
    if (count != 1 || !part->finalized) return refuse("a part that is not finalized");
    o.parts[name] = part;
  }
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t asked, int64_t* count,
                                       void* values) {
  Object& o = object(descriptor);
  if (!o.finalized) return refuse("a question before its descriptor was finalized");
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: return results_of(o, asked, count, values);
    case CUDNN_ATTR_ENGINECFG_ENGINE: {
      Object& engine = object(*static_cast<cudnnBackendDescriptor_t*>(values));
      engine.engine = o.engine;
      engine.finalized = true;
      *count = 1;
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE: {
      std::vector<cudnnBackendNumericalNote_t> notes;
      if (o.engine == kUnordered) notes.push_back(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
      if (o.engine == kRounding) notes.push_back(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
      if (o.engine != kPlain) notes.push_back(CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
      give(notes, asked, count, values);
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE: {
      std::vector<cudnnBackendBehaviorNote_t> notes;
      if (o.engine == kCompiled) notes.push_back(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
      give(notes, asked, count, values);
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
      give(std::vector<int64_t>{kWorkspace}, asked, count, values);
      return CUDNN_STATUS_SUCCESS;
    default: return refuse("a question");
  }
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return finalize(object(descriptor));
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  const Object &it = object(plan), &given = object(pack);
  if (!it.finalized || !given.finalized) return refuse("a launch before it was finalized");
  if (it.engine != kTensorCores && it.engine != kPlain) return refuse("an engine nobody wants");
  const Handle operation = it.part(401)->part(201)->parts.at(801);
  const Convolution c(*operation);
  const auto ids = given.all<int64_t>(1000);
  const auto pointers = given.all<void*>(1001);
  std::map<int64_t, void*> data;
  for (size_t i = 0; i < ids.size(); ++i) data[ids[i]] = pointers[i];
  for (const Object* tensor : {c.x, c.w, c.y}) {
    void* const p = data[Convolution::id(tensor)];
    int64_t bytes = pinion::size_of(dtype_of(*tensor));
    for (const int64_t d : tensor->all<int64_t>(902)) bytes *= d;
    if (!is_device_memory(p, static_cast<size_t>(bytes)))
      return refuse("a tensor that is not in one block of device memory");
    if (reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(tensor->one<int64_t>(900)) != 0)
      return refuse("an address off the boundary that was promised");
  }
  void* const workspace = given.one<void*>(1003);
  if (!is_device_memory(workspace, kWorkspace)) return refuse("the workspace");
  if (!handle->stream) return refuse("no stream");
  const bool tf32 = it.engine == kTensorCores && dtype_of(*c.x) == DType::f32;
  ++fake_libraries().convolutions;
  enqueue_work(handle->stream, [=] {
    std::memset(workspace, 0xFF, kWorkspace);  // who still uses it reads NaN
    convolve(Convolution(*operation), tf32, data);
  });
  return CUDNN_STATUS_SUCCESS;
}
