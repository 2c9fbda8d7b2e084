// SPDX-License-Identifier: Apache-2.0
// Module: a plain struct of tensors and other modules that lists them once, in fields(), under the
// names PyTorch gives them. Parameters, device moves, optimizer groups and weight files derive from
// that list. A module can be copied (sharing its tensors) and moved.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "pinion/runtime/named_tensor.h"

namespace pinion::nn {

class Module;

// One walk over the fields of a module tree. Names come dotted: "encoder.0.weight".
class Fields {
 public:
  // What a walk does with what it meets; each function does nothing unless it is overridden.
  class Visitor {
   public:
    virtual void parameter(const std::string& name, Tensor& tensor);
    virtual void filters(const std::string& name,
                         Tensor& tensor);  // unless overridden: parameter()
    virtual void buffer(const std::string& name, Tensor& tensor);
    virtual void counter(const std::string& name, uint64_t& count);
    virtual void module(const std::string& name, Module& module);  // before the module's own fields

   protected:
    ~Visitor() = default;
  };

  explicit Fields(Visitor& visitor, std::string prefix = {})
      : visitor_(visitor), prefix_(std::move(prefix)) {}

  void operator()(const std::string& name, Tensor& parameter);  // undefined tensors are skipped
  void operator()(const std::string& name, Module& child);
  template <class M>
  void operator()(const std::string& name, std::vector<M>& children) {
    for (size_t i = 0; i < children.size(); ++i)
      (*this)(name + "." + std::to_string(i), children[i]);
  }
  // A parameter [K,R,S,C], which weight files hold as PyTorch does, [K,C,R,S].
  void filters(const std::string& name, Tensor& parameter);
  // Saved with the weights but not trained: running statistics.
  void buffer(const std::string& name, Tensor& tensor);
  // Part of a checkpoint but of no weight file: how often a layer has drawn random numbers.
  void counter(const std::string& name, uint64_t& count);

 private:
  Visitor& visitor_;
  std::string prefix_;
};

using pinion::NamedTensor;

struct NamedCounter {
  std::string name;
  uint64_t count;
};

class Module {
 public:
  virtual ~Module() = default;
  virtual void fields(Fields& f) = 0;

  // In the order of fields(). A tensor tied under two names appears once, under the first.
  std::vector<NamedTensor> named_parameters();
  std::vector<NamedTensor> named_buffers();
  std::vector<Tensor> parameters();
  int64_t parameter_count();  // elements of all parameters, tied ones once

  // Every name with its tensor, parameters and buffers, tied ones under each of their names.
  std::vector<NamedTensor> state();
  // Copies into the module's tensors. Names must match exactly, both ways; shapes must match;
  // dtypes are converted. Throws Error (checkpoint) that names the tensor, and then changes
  // nothing.
  void load_state(const std::vector<NamedTensor>& state);
  std::vector<NamedCounter> counters();
  void load_counters(const std::vector<NamedCounter>& counters);  // as strict as load_state

  // Move or convert every parameter (and, for a dtype, every floating buffer). A tensor that
  // changes is replaced by a new one without gradient: build optimizers afterwards. Ties are kept.
  void to(Device device);
  void to(DType dtype);

  void train(bool on = true);  // this module and all below it; a new module is in training mode
  void eval() { train(false); }
  bool training() const { return training_; }

 private:
  template <class Convert>
  void replace(Convert convert);

  bool training_ = true;
};

// Copies the contents of `from` into the tensors of `into`, matched by name: the strict rule behind
// every load_state. `who` opens the error texts.
void copy_state(const char* who, const std::vector<NamedTensor>& into,
                const std::vector<NamedTensor>& from);

}  // namespace pinion::nn
