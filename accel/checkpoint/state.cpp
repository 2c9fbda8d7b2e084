// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/state.h"

#include <limits>

namespace pinion::accel {
namespace {

const StateValue& value_of(const State& state, const std::string& name) {
  const auto at = state.values.find(name);
  PINION_REQUIRE(checkpoint, at != state.values.end(), "checkpoint: state '", state.part, ".", name,
                 "' is missing");
  return at->second;
}

[[noreturn]] void fail_type(const State& state, const std::string& name, const char* expected) {
  fail(ErrorKind::checkpoint, {"checkpoint: state '", state.part, ".", name, "' should be ",
                               expected, ", got something else"});
}

}  // namespace

Tensor State::tensor(std::string_view name) const {
  for (const StateTensor& t : tensors)
    if (t.name == name) return t.tensor;
  fail(ErrorKind::checkpoint, {"checkpoint: state '", part, ".", name, "' is missing"});
}

bool State::boolean(const std::string& name) const {
  const auto* value = std::get_if<bool>(&value_of(*this, name));
  return value ? *value : (fail_type(*this, name, "true or false"), false);
}

int64_t State::integer(const std::string& name) const {
  const StateValue& value = value_of(*this, name);
  if (const auto* whole = std::get_if<int64_t>(&value)) return *whole;
  const auto* natural = std::get_if<uint64_t>(&value);
  if (!natural || *natural > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    fail_type(*this, name, "an integer of 64 bits");
  return static_cast<int64_t>(*natural);
}

uint64_t State::natural(const std::string& name) const {
  const StateValue& value = value_of(*this, name);
  if (const auto* natural = std::get_if<uint64_t>(&value)) return *natural;
  const auto* whole = std::get_if<int64_t>(&value);
  if (!whole || *whole < 0) fail_type(*this, name, "an integer >= 0");
  return static_cast<uint64_t>(*whole);
}

double State::real(const std::string& name) const {
  const auto* value = std::get_if<double>(&value_of(*this, name));
  return value ? *value : (fail_type(*this, name, "a real number"), 0.0);
}

const std::string& State::text(const std::string& name) const {
  const auto* value = std::get_if<std::string>(&value_of(*this, name));
  if (!value) fail_type(*this, name, "a text");
  return *value;
}

void State::put_all(const std::vector<NamedTensor>& list) {
  for (const NamedTensor& t : list) put(t.name, t.tensor);
}

std::vector<NamedTensor> State::whole_tensors() const {
  std::vector<NamedTensor> out;
  for (const StateTensor& t : tensors)
    if (!t.slice) out.push_back({t.name, t.tensor});
  return out;
}

}  // namespace pinion::accel
