// SPDX-License-Identifier: Apache-2.0
// What tests of configurations share: an environment of their own, and the text of an error.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "pinion/accel/config/config.h"
#include "pinion/accel/config/schema.h"
#include "pinion/kernels/check.h"

namespace pinion::accel {

// Sets a variable, or takes it away, until the end of the scope.
class VariableGuard {
 public:
  VariableGuard(std::string name, std::optional<std::string> value) : name_(std::move(name)) {
    if (const char* before = getenv(name_.c_str())) before_ = before;
    set(value);
  }
  ~VariableGuard() { set(before_); }
  VariableGuard(const VariableGuard&) = delete;
  VariableGuard& operator=(const VariableGuard&) = delete;

 private:
  void set(const std::optional<std::string>& value) {
    if (value)
      setenv(name_.c_str(), value->c_str(), 1);
    else
      unsetenv(name_.c_str());
  }
  std::string name_;
  std::optional<std::string> before_;
};

// "78 config.yaml:1:1: …", or "" when nothing is thrown.
template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
    return "";
  } catch (const Error& e) {
    return std::to_string(e.exit_code()) + " " + e.what();
  }
}

inline std::string error_of_text(const std::string& text, bool json = false) {
  return error_of([&] {
    Config config;
    config.read_text(text, json ? "c.json" : "c.yaml", json);
    config.check();
  });
}

// What a file says, in one line: "MULTI_GPU 2x1 fp16 zero0 cpu=false notes=0".
inline std::string summary(const Config& c) {
  return (c.has("distributed_type") ? c.text("distributed_type") : "-") + " " +
         (c.has("num_processes") ? c.text("num_processes") : "-") + "x" + c.text("num_machines") +
         " " + c.precision() + " zero" + std::to_string(c.zero_stage()) +
         " cpu=" + c.text("use_cpu") + " notes=" + std::to_string(c.notes().size());
}

}  // namespace pinion::accel
