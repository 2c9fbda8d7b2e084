// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a called function must preserve, and takes the other stack's.
extern "C" void cudasim_switch_stack(void** save, void* to);
asm(R"(
.text
.globl cudasim_switch_stack
.hidden cudasim_switch_stack
.type cudasim_switch_stack,@function
cudasim_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cudasim_switch_stack,.-cudasim_switch_stack
)");
#endif

namespace cudasim {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kPitch = kGuardBytes + kStackBytes;

#if defined(__SANITIZE_ADDRESS__)
Fiber* left = nullptr;  // who switched last
#endif

}  // namespace

void Fiber::prepare(char* stack, void (*entry)()) {
  stack_ = stack;
  stack_bytes_ = kStackBytes;
  fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, kStackBytes);
#endif
#if defined(__x86_64__)
  constexpr int kSaved = 6;  // registers that the switch pops
  auto** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // where a return address would be: keeps the alignment of a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSaved; ++i) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  left = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_, to.stack_bytes_);
#endif
#if defined(__x86_64__)
  cudasim_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
  from.arrive();
}

void Fiber::arrive() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
  if (!left->stack_) {
    left->stack_ = bottom;
    left->stack_bytes_ = bytes;
  }
#endif
}

Stacks::~Stacks() {
  if (base_) munmap(base_, count_ * kPitch);
}

bool Stacks::reserve(size_t count) {
  if (count <= count_) return false;
  if (base_) munmap(base_, count_ * kPitch);
  base_ = nullptr;
  count_ = 0;
  void* base = mmap(nullptr, count * kPitch, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(base);
  count_ = count;
  for (size_t i = 0; i < count; ++i) mprotect(base_ + i * kPitch, kGuardBytes, PROT_NONE);
  return true;
}

char* Stacks::operator[](size_t i) const { return base_ + i * kPitch + kGuardBytes; }
int Stacks::owner(const void* p) const {
  const char* at = static_cast<const char*>(p);
  return at >= base_ && at < base_ + count_ * kPitch ? static_cast<int>((at - base_) / kPitch) : -1;
}

}  // namespace cudasim
