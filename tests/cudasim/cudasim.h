// SPDX-License-Identifier: Apache-2.0
// The CUDA simulator's interface to tests: runs a kernel on the CPU as fibers, with checks that a
// GPU does not make. One thread of the machine runs everything, so a run is a function of its seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "vector_types.h"

namespace cudasim {

// A place in a kernel's source; as a default argument it is the caller's.
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Site& o) const {
    return line == o.line && (file == o.file || std::strcmp(file, o.file) == 0);
  }
};

enum class Fault : uint8_t {
  launch,      // a configuration that no device takes
  mask,        // a warp operation whose mask is wrong
  divergence,  // threads that should meet wait at different places, or one of them has left
  deadlock,    // nobody can run
  alignment,   // a vector access or asynchronous copy off its boundary
  bounds,      // a write past the end of device or shared memory, found afterwards
  pointer,     // a pointer argument that is not device memory
  shared,      // more shared memory than a block may have
  trap,        // the kernel gave up
  async,       // a tile, a barrier in shared memory or a product of a warp group used wrongly
  race,        // two accesses that nothing orders, one of them a write
};

// What the simulator found. The text names block, thread, warp, lane, file and line.
class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& text, Site site, uint3 block, uint3 thread)
      : std::runtime_error(text), fault_(fault), site_(site), block_(block), thread_(thread) {}
  Fault fault() const { return fault_; }
  Site site() const { return site_; }
  uint3 block() const { return block_; }
  uint3 thread() const { return thread_; }

 private:
  Fault fault_;
  Site site_;
  uint3 block_, thread_;
};

enum class Order : uint8_t { random, forward, reverse };

// Of the whole process. The environment gives the start: CUDASIM_SEED=n, and
// CUDASIM_ORDER=random|forward|reverse.
struct Options {
  Order order = Order::random;
  uint64_t seed = 1;
  size_t shared_limit = 227 << 10;  // bytes per block: the opt-in maximum of sm_90
};
Options& options();

// Other options while it lives.
class OptionsScope {
 public:
  explicit OptionsScope(const Options& o) : before_(options()) { options() = o; }
  ~OptionsScope() { options() = before_; }
  OptionsScope(const OptionsScope&) = delete;
  OptionsScope& operator=(const OptionsScope&) = delete;

 private:
  Options before_;
};

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  bool cooperative = false;  // all blocks are resident, at most 32768 threads
};

// Calls entry(closure) once per CUDA thread, to the end. Throws Error.
void run(const LaunchShape& shape, void (*entry)(void*), void* closure, size_t closure_bytes);

// Throws Error (launch) for what run() would not take.
void check_shape(const LaunchShape& shape);

// Exact in size, aligned to 256 bytes, filled with 0xFF: NaN to every floating type.
void* allocate_device(size_t bytes);
void free_device(void* data);
// Whether `bytes` from p on lie in one allocation; p may be the end of one when bytes is 0.
bool is_device_memory(const void* p, size_t bytes);
// How many allocations are live, for tests of leaks.
size_t live_allocations();

// How warps used memory in one line of a kernel, by accesses of one size. A request is what the
// lanes of a warp access together.
struct LineTraffic {
  std::string line;  // "file.cu:12"
  bool shared, writes;
  size_t bytes;  // of a lane
  uint64_t requests;
  uint64_t units;  // 32-byte sectors of device memory; passes over the banks of shared memory
  uint64_t least;  // that requests for so many bytes can do with
};
// Counts while it lives, where kernels report their accesses (lint.cpp). Atomics are left out.
class TrafficMeter {
 public:
  TrafficMeter();
  ~TrafficMeter();
  TrafficMeter(const TrafficMeter&) = delete;
  TrafficMeter& operator=(const TrafficMeter&) = delete;
  std::vector<LineTraffic> lines() const;  // of the launches that have ended
};

// A kernel with its arguments. Little of it is template, for every kernel is another type.
class Call {
 public:
  explicit Call(size_t bytes) : bytes_(bytes) {}  // of the object
  virtual ~Call() = default;
  void run(const LaunchShape& shape);

 protected:
  virtual void thread() = 0;
  static void check_argument(const void* pointer);
  template <class T>
  static void check_argument(const T& value) {
    if constexpr (std::is_pointer_v<T>) check_argument(static_cast<const void*>(value));
  }

 private:
  virtual void check_arguments() = 0;

  size_t bytes_;
};
template <class... P>
class CallOf final : public Call {
 public:
  explicit CallOf(void (*kernel)(P...), P... arguments)
      : Call(sizeof(CallOf)), kernel_(kernel), arguments_(arguments...) {}

 private:
  void thread() override { std::apply(kernel_, arguments_); }
  void check_arguments() override {
    std::apply([](const auto&... a) { (check_argument(a), ...); }, arguments_);
  }

  void (*kernel_)(P...);
  std::tuple<P...> arguments_;
};

// Runs a kernel at once, past the streams.
template <class... P, class... A>
void run_kernel(void (*kernel)(P...), const LaunchShape& shape, A&&... arguments) {
  CallOf<P...>(kernel, static_cast<P>(arguments)...).run(shape);
}

}  // namespace cudasim
