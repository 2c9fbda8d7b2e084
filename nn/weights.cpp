// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/weights.h"

#include <unordered_map>
#include <unordered_set>

#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion::nn {
namespace {

// The names of a module's filters.
class FilterNames final : public Fields::Visitor {
 public:
  explicit FilterNames(Module& module) {
    Fields all(*this);
    module.fields(all);
  }
  void filters(const std::string& name, Tensor&) override { names_.insert(name); }
  bool has(const std::string& name) const { return names_.count(name) > 0; }

 private:
  std::unordered_set<std::string> names_;
};

Shape in_file(const Shape& s) { return {s[0], s[3], s[1], s[2]}; }

// [K,R,S,C] to [K,C,R,S] and back.
Tensor to_file(const Tensor& t) {
  const Shape& s = t.shape();
  const NoGrad no_grad;
  return transpose(t.alias({s[0], s[1] * s[2], s[3]}), 1, 2).alias(in_file(s));
}
Tensor from_file(const Tensor& t, const Shape& shape) {
  const NoGrad no_grad;
  return transpose(t.alias({shape[0], shape[3], shape[1] * shape[2]}), 1, 2).alias(shape);
}

std::string text_of(const std::vector<int64_t>& shape) {
  std::string out;
  for (int64_t extent : shape) out += (out.empty() ? "" : ",") + std::to_string(extent);
  return "[" + out + "]";
}

bool equal(const std::vector<int64_t>& a, const Shape& b) {
  if (a.size() != static_cast<size_t>(b.rank())) return false;
  for (int i = 0; i < b.rank(); ++i)
    if (a[static_cast<size_t>(i)] != b[i]) return false;
  return true;
}

// Names and shapes by the header alone, so that a large file of something else is not read first.
void check_header(const SafetensorsReader& file, const std::vector<NamedTensor>& into,
                  const FilterNames& filters, const std::string& path) {
  std::unordered_set<std::string_view> names;
  for (const NamedTensor& t : into) {
    names.insert(t.name);
    const SafetensorsEntry* entry = file.find(t.name);
    PINION_REQUIRE(checkpoint, entry, "load_weights: tensor ", t.name, " is missing in ", path);
    const Shape shape = filters.has(t.name) ? in_file(t.tensor.shape()) : t.tensor.shape();
    PINION_REQUIRE(checkpoint, equal(entry->shape, shape), "load_weights: tensor ", t.name,
                   " should have shape ", shape, ", got ", text_of(entry->shape), " in ", path);
  }
  for (const SafetensorsEntry& entry : file.entries())
    PINION_REQUIRE(checkpoint, names.count(entry.name), "load_weights: tensor ", entry.name,
                   " is not expected in ", path);
}

}  // namespace

std::vector<NamedTensor> file_tensors(Module& module) {
  const FilterNames filters(module);
  std::vector<NamedTensor> state = module.state();
  for (NamedTensor& t : state)
    if (filters.has(t.name)) t.tensor = to_file(t.tensor);
  return state;
}

void load_file_tensors(Module& module, const std::vector<NamedTensor>& tensors, const char* who) {
  const FilterNames filters(module);
  const std::vector<NamedTensor> into = module.state();
  std::unordered_map<std::string_view, Shape> shapes;
  for (const NamedTensor& t : into) shapes.insert({t.name, t.tensor.shape()});
  std::vector<NamedTensor> from = tensors;
  for (NamedTensor& t : from) {
    const auto known = shapes.find(t.name);
    if (known == shapes.end() || !filters.has(t.name)) continue;
    PINION_REQUIRE(checkpoint, t.tensor.shape() == in_file(known->second), who, ": tensor ", t.name,
                   " should have shape ", in_file(known->second), ", got ", t.tensor.shape());
    t.tensor = from_file(t.tensor, known->second);
  }
  copy_state(who, into, from);
}

void save_weights(Module& module, const std::string& path, SafetensorsMetadata metadata) {
  metadata.insert({"format", "pt"});
  save_safetensors(path, file_tensors(module), metadata);
}

void load_weights(Module& module, const std::string& path) {
  const SafetensorsReader file(path);
  const std::vector<NamedTensor> into = module.state();
  check_header(file, into, FilterNames(module), path);
  std::vector<NamedTensor> from;
  from.reserve(into.size());
  for (const NamedTensor& t : into) from.push_back({t.name, file.load(*file.find(t.name))});
  load_file_tensors(module, from, ("load_weights: " + path).c_str());
}

}  // namespace pinion::nn
