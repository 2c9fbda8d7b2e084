// SPDX-License-Identifier: Apache-2.0
// Walks over module trees, and the strict copy of named tensors.
#include "pinion/nn/module.h"

#include <unordered_map>

#include "pinion/kernels/kernels.h"

namespace pinion::nn {

void Fields::Visitor::parameter(const std::string&, Tensor&) {}
void Fields::Visitor::filters(const std::string& name, Tensor& tensor) { parameter(name, tensor); }
void Fields::Visitor::buffer(const std::string&, Tensor&) {}
void Fields::Visitor::counter(const std::string&, uint64_t&) {}
void Fields::Visitor::module(const std::string&, Module&) {}

void Fields::operator()(const std::string& name, Tensor& parameter) {
  if (parameter.defined()) visitor_.parameter(prefix_ + name, parameter);
}

void Fields::operator()(const std::string& name, Module& child) {
  visitor_.module(prefix_ + name, child);
  Fields inner(visitor_, prefix_ + name + ".");
  child.fields(inner);
}

void Fields::filters(const std::string& name, Tensor& parameter) {
  if (parameter.defined()) visitor_.filters(prefix_ + name, parameter);
}

void Fields::buffer(const std::string& name, Tensor& tensor) {
  if (tensor.defined()) visitor_.buffer(prefix_ + name, tensor);
}

void Fields::counter(const std::string& name, uint64_t& count) {
  visitor_.counter(prefix_ + name, count);
}

namespace {

// Finds out whether a tensor was met before, by the address of its contents: handles that share a
// tensor share it. Empty tensors have no address to go by and are compared one by one.
class Seen {
 public:
  // The index given to the same handle before, or -1; then `index` is remembered for it.
  int64_t find_or_add(const Tensor& t, int64_t index) {
    auto [at, end] = by_address_.equal_range(t.view().data);
    for (; at != end; ++at)
      if (at->second.tensor.same(t)) return at->second.index;
    by_address_.insert({t.view().data, {t, index}});
    return -1;
  }

 private:
  struct Entry {
    Tensor tensor;
    int64_t index;
  };
  std::unordered_multimap<const void*, Entry> by_address_;
};

template <class Parameter, class Buffer>
class TensorWalk final : public Fields::Visitor {
 public:
  TensorWalk(Parameter parameter, Buffer buffer) : parameter_(parameter), buffer_(buffer) {}
  void parameter(const std::string& name, Tensor& tensor) override { parameter_(name, tensor); }
  void buffer(const std::string& name, Tensor& tensor) override { buffer_(name, tensor); }

 private:
  Parameter parameter_;
  Buffer buffer_;
};

template <class Parameter, class Buffer>
void walk(Module& module, Parameter parameter, Buffer buffer) {
  TensorWalk visitor(parameter, buffer);
  Fields all(visitor);
  module.fields(all);
}

constexpr auto kIgnore = [](const std::string&, Tensor&) {};

class Counters final : public Fields::Visitor {
 public:
  void counter(const std::string& name, uint64_t& count) override {
    found.push_back({name, &count});
  }
  std::vector<std::pair<std::string, uint64_t*>> found;
};

class Mode final : public Fields::Visitor {
 public:
  void module(const std::string&, Module& module) override { found.push_back(&module); }
  std::vector<Module*> found;
};

Counters counters_of(Module& module) {
  Counters visitor;
  Fields all(visitor);
  module.fields(all);
  return visitor;
}

}  // namespace

std::vector<NamedTensor> Module::named_parameters() {
  std::vector<NamedTensor> out;
  Seen seen;
  walk(
      *this,
      [&](const std::string& name, Tensor& t) {
        if (seen.find_or_add(t, 0) < 0) out.push_back({name, t});
      },
      kIgnore);
  return out;
}

std::vector<NamedTensor> Module::named_buffers() {
  std::vector<NamedTensor> out;
  Seen seen;
  walk(*this, kIgnore, [&](const std::string& name, Tensor& t) {
    if (seen.find_or_add(t, 0) < 0) out.push_back({name, t});
  });
  return out;
}

std::vector<Tensor> Module::parameters() {
  std::vector<Tensor> out;
  for (NamedTensor& p : named_parameters()) out.push_back(std::move(p.tensor));
  return out;
}

int64_t Module::parameter_count() {
  int64_t n = 0;
  for (const NamedTensor& p : named_parameters()) n += p.tensor.numel();
  return n;
}

std::vector<NamedTensor> Module::state() {
  std::vector<NamedTensor> out;
  const auto add = [&](const std::string& name, Tensor& t) { out.push_back({name, t}); };
  walk(*this, add, add);
  std::unordered_map<std::string_view, int> count;
  for (const NamedTensor& t : out)
    PINION_CHECK(++count[t.name] == 1, "state: two fields of the module are named ", t.name);
  return out;
}

void Module::load_state(const std::vector<NamedTensor>& state) {
  copy_state("load_state", this->state(), state);
}

std::vector<NamedCounter> Module::counters() {
  std::vector<NamedCounter> out;
  for (const auto& [name, count] : counters_of(*this).found) out.push_back({name, *count});
  return out;
}

void Module::load_counters(const std::vector<NamedCounter>& counters) {
  const Counters mine = counters_of(*this);
  std::unordered_map<std::string_view, uint64_t> given;
  for (const NamedCounter& c : counters)
    PINION_REQUIRE(checkpoint, given.insert({c.name, c.count}).second, "load_counters: counter ",
                   c.name, " is given twice");
  for (const auto& [name, count] : mine.found)
    PINION_REQUIRE(checkpoint, given.count(name), "load_counters: counter ", name, " is missing");
  PINION_REQUIRE(checkpoint, given.size() == mine.found.size(), "load_counters: expected ",
                 mine.found.size(), " counters, got ", given.size());
  for (const auto& [name, count] : mine.found) *count = given[name];
}

// Replaces each tensor by convert(tensor), once per tensor however many names it has.
template <class Convert>
void Module::replace(Convert convert) {
  Seen seen;
  std::vector<Tensor> converted;
  const auto visit = [&](const std::string&, Tensor& t) {
    const int64_t known = seen.find_or_add(t, static_cast<int64_t>(converted.size()));
    if (known >= 0) {
      t = converted[static_cast<size_t>(known)];
      return;
    }
    Tensor next = convert(t);
    if (t.requires_grad() && !next.same(t)) next.requires_grad(true);
    converted.push_back(next);
    t = next;
  };
  walk(*this, visit, visit);
}

void Module::to(Device device) {
  replace([&](const Tensor& t) { return t.to(device); });
}

void Module::to(DType dtype) {
  PINION_CHECK(is_floating(dtype), "to: expected a floating dtype, got ", dtype);
  replace([&](const Tensor& t) -> Tensor {
    if (!is_floating(t.dtype()) || t.dtype() == dtype) return t;
    Tensor y(t.shape(), dtype, t.device());
    on(t.device(), [&](auto& ctx) { kernels::cast(ctx, t, y.mut()); });
    return y;
  });
}

void Module::train(bool on) {
  Mode visitor;
  Fields all(visitor);
  fields(all);
  training_ = on;
  for (Module* m : visitor.found) m->training_ = on;
}

void copy_state(const char* who, const std::vector<NamedTensor>& into,
                const std::vector<NamedTensor>& from) {
  std::unordered_map<std::string_view, const Tensor*> given;
  for (const NamedTensor& t : from) {
    PINION_REQUIRE(checkpoint, t.tensor.defined(), who, ": tensor ", t.name, " is undefined");
    PINION_REQUIRE(checkpoint, given.insert({t.name, &t.tensor}).second, who, ": tensor ", t.name,
                   " is given twice");
  }
  std::vector<Tensor> sources;  // converted before anything is written
  for (const NamedTensor& t : into) {
    const auto found = given.find(t.name);
    PINION_REQUIRE(checkpoint, found != given.end(), who, ": tensor ", t.name, " is missing");
    const Tensor& source = *found->second;
    PINION_REQUIRE(checkpoint, source.shape() == t.tensor.shape(), who, ": tensor ", t.name,
                   " should have shape ", t.tensor.shape(), ", got ", source.shape());
    PINION_REQUIRE(checkpoint,
                   source.dtype() == t.tensor.dtype() ||
                       (is_floating(source.dtype()) && is_floating(t.tensor.dtype())),
                   who, ": tensor ", t.name, " should be ", t.tensor.dtype(), ", got ",
                   source.dtype());
    given.erase(found);
    Tensor converted = source;
    if (source.dtype() != t.tensor.dtype()) {
      converted = Tensor(source.shape(), t.tensor.dtype(), source.device());
      on(source.device(), [&](auto& ctx) { kernels::cast(ctx, source, converted.mut()); });
    }
    sources.push_back(std::move(converted));
  }
  if (!given.empty()) {
    // The first of them in the given order, so that the text does not depend on hashing.
    for (const NamedTensor& t : from)
      PINION_REQUIRE(checkpoint, !given.count(t.name), who, ": tensor ", t.name,
                     " is not expected (", given.size(), " such)");
  }
  for (size_t i = 0; i < into.size(); ++i) {
    Tensor target = into[i].tensor;
    const View to = target.mut();
    copy(target.device(), to.data, sources[i].device(), sources[i].view().data,
         to.numel() * size_of(to.dtype));
  }
}

}  // namespace pinion::nn
