// SPDX-License-Identifier: Apache-2.0
// Stacks of their own within one thread, and the switch between them: by hand on x86-64 (13 ns),
// by ucontext elsewhere. The address sanitizer is told of every switch.
#pragma once

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cudasim {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr size_t kStackBytes = 256 << 10;  // its red zones make frames larger
#else
inline constexpr size_t kStackBytes = 64 << 10;
#endif

class Fiber {
 public:
  // The first switch to it calls entry(), which never returns, on the given stack.
  void prepare(char* stack, void (*entry)());
  // Leaves `from` for `to`; comes back when somebody switches to `from`.
  static void switch_to(Fiber& from, Fiber& to);
  // The first call of entry().
  void arrive();

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;  // the sanitizer's
  // The lowest address; that of the thread's own stack is found on the first switch.
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
};

// Stacks in one reservation, with a page below each that nobody may touch.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  // At least `count` stacks; true when the old ones are gone.
  bool reserve(size_t count);
  char* operator[](size_t i) const;
  // The stack that p lies in, or -1.
  int owner(const void* p) const;

 private:
  char* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace cudasim
