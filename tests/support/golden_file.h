// SPDX-License-Identifier: Apache-2.0
// Reads the values that tools/make_golden*.py stored.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "paths.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::testing {

class GoldenFile {
 public:
  explicit GoldenFile(const std::string& name)
      : reader_(in_source("tests/golden/") + name + ".safetensors") {}

  Tensor load(const std::string& key) const {
    const SafetensorsEntry* entry = reader_.find(key);
    PINION_CHECK(entry, "golden file: no values named ", key);
    return reader_.load(*entry);
  }
  template <class T>
  std::vector<T> values(const std::string& key) const {
    return load(key).values<T>();
  }

 private:
  SafetensorsReader reader_;
};

// The kind of the Error that f throws and its text; fails the test when it throws none.
template <class F>
std::string error_text(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "expected an Error, got none";
  return {};
}

}  // namespace pinion::testing
