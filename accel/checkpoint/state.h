// SPDX-License-Identifier: Apache-2.0
// What a checkpoint keeps of one object: named tensors, and named numbers and texts beside them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "pinion/runtime/named_tensor.h"

namespace pinion::accel {

using StateValue = std::variant<bool, int64_t, uint64_t, double, std::string>;

// The place of a piece in a tensor that several ranks hold together: elements [offset, offset +
// numel of the piece) of one of `shape`, in row-major order.
struct Slice {
  Shape shape;
  int64_t offset = 0;
};

struct StateTensor {
  std::string name;
  Tensor tensor;               // on any device; flat when it is a slice
  std::optional<Slice> slice;  // none: the whole tensor
};

struct State {
  std::vector<StateTensor> tensors;
  std::map<std::string, StateValue> values;
  // load_state() takes other names than these too: what there is depends on the moment, as with
  // gradients in the middle of an accumulation.
  bool open = false;

  void put(std::string name, Tensor tensor) {
    tensors.push_back({std::move(name), std::move(tensor), {}});
  }
  void put(std::string name, Tensor piece, Slice slice) {
    tensors.push_back({std::move(name), std::move(piece), slice});
  }
  template <class T>
  requires std::is_arithmetic_v<T>
  void put(const std::string& name, T value) {
    if constexpr (std::is_same_v<T, bool>)
      values[name] = value;
    else if constexpr (std::is_floating_point_v<T>)
      values[name] = static_cast<double>(value);
    else if constexpr (std::is_signed_v<T>)
      values[name] = static_cast<int64_t>(value);
    else
      values[name] = static_cast<uint64_t>(value);
  }
  void put(const std::string& name, std::string text) { values[name] = std::move(text); }
  void put(const std::string& name, const char* text) { values[name] = std::string(text); }

  // These throw Error (checkpoint) that names what is missing or of another type. Integers of
  // either sign are one type as far as they fit.
  Tensor tensor(std::string_view name) const;
  bool boolean(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  uint64_t natural(const std::string& name) const;
  double real(const std::string& name) const;
  const std::string& text(const std::string& name) const;

  // The whole tensors, for the state of modules, optimizers and scalers, and back.
  void put_all(const std::vector<NamedTensor>& list);
  std::vector<NamedTensor> whole_tensors() const;

  std::string part;  // opens error texts; set by who loads
};

// An object that can be kept in a checkpoint. The tensors of state() may be views of live memory:
// they are copied before save() returns, or read from the disk into new ones for load_state().
class Checkpointable {
 public:
  virtual ~Checkpointable() = default;
  virtual State state() = 0;
  // Gets what state() of an equal object gave, with exactly these names and shapes unless it is
  // `open`. Throws Error (checkpoint) when the values make no sense here, and then changes nothing.
  virtual void load_state(const State& state) = 0;
  // A run begins and there is no checkpoint: forget what an earlier run left in files.
  virtual void start_fresh() {}
};

}  // namespace pinion::accel
