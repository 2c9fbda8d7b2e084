// SPDX-License-Identifier: Apache-2.0
// What the simulator's tests share: device memory with values, runs over many schedules, and the
// expectation that a planted bug is found.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "cuda_runtime.h"

namespace cudasim::testing {

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n), data_(static_cast<T*>(allocate_device(n * sizeof(T)))) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    for (size_t i = 0; i < n_; ++i) data_[i] = values[i];
  }
  ~DeviceArray() { free_device(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  std::vector<T> values() const { return {data_, data_ + n_}; }

 private:
  size_t n_;
  T* data_;
};

// Calls f in forward and reverse order and with a few seeds.
template <class F>
void for_schedules(F f) {
  for (const Order order : {Order::forward, Order::reverse, Order::random})
    for (uint64_t seed = 1; seed <= (order == Order::random ? 8 : 1); ++seed) {
      Options o = options();
      o.order = order;
      o.seed = seed;
      const OptionsScope scope(o);
      SCOPED_TRACE(::testing::Message() << "order " << int(order) << " seed " << seed);
      f();
    }
}

// The Error that f ends with, in any of a few schedules.
template <class F>
std::optional<Error> found_by(F f) {
  std::optional<Error> found;
  for_schedules([&] {
    try {
      if (!found) f();
    } catch (const Error& e) {
      found = e;
    }
  });
  return found;
}

inline void expect_found(const std::optional<Error>& found, Fault fault, const char* text) {
  ASSERT_TRUE(found) << "nothing was found";
  EXPECT_EQ(found->fault(), fault) << found->what();
  EXPECT_NE(std::string(found->what()).find(text), std::string::npos) << found->what();
}

}  // namespace cudasim::testing
