// SPDX-License-Identifier: Apache-2.0
// The functions of oneDNN in use, opened on first use, and what its primitives have in common. Only
// for the files kernels/cpu/onednn*.cpp of a build with oneDNN.
#pragma once

#include <dnnl.h>

#include <string>

#include "pinion/kernels/types.h"

namespace pinion::kernels::onednn {

#define PINION_DNNL_FUNCTIONS(f)                                                                  \
  f(engine_create) f(stream_create) f(stream_destroy) f(memory_desc_init_by_strides) f(           \
      memory_desc_init_by_tag) f(memory_desc_get_size) f(memory_create) f(memory_set_data_handle) \
      f(memory_destroy) f(matmul_desc_init) f(dilated_convolution_forward_desc_init)              \
          f(dilated_convolution_backward_data_desc_init)                                          \
              f(dilated_convolution_backward_weights_desc_init) f(reorder_primitive_desc_create)  \
                  f(primitive_attr_create) f(primitive_attr_destroy)                              \
                      f(primitive_attr_set_scratchpad_mode) f(primitive_attr_set_post_ops)        \
                          f(post_ops_create) f(post_ops_destroy) f(post_ops_append_sum)           \
                              f(primitive_desc_create) f(primitive_desc_destroy)                  \
                                  f(primitive_desc_query_md) f(primitive_create)                  \
                                      f(primitive_execute) f(primitive_destroy) f(version)

// The major version is part of the library's name: memory descriptors of version 3 are another
// type.
struct Table {
#define PINION_DNNL(name) decltype(&::dnnl_##name) name = nullptr;
  PINION_DNNL_FUNCTIONS(PINION_DNNL)
#undef PINION_DNNL
  void (*omp_set_num_threads)(int) = nullptr;  // of the OpenMP runtime it is linked with
  dnnl_engine_t engine = nullptr;              // null: there is no oneDNN
  std::string state;                           // version, or why there is none

  Table();

 private:
  std::string open();
};

const Table& table();

// Throws Error (internal) unless it succeeded.
void check(dnnl_status_t status, const char* what);

dnnl_memory_t memory(const dnnl_memory_desc_t& md);  // without memory of its own

// The calling thread's stream; primitives that run in it use this thread alone.
dnnl_stream_t thread_stream();

// A primitive for one thread: it owns its memory objects, but not what they point to.
struct Primitive {
  static constexpr int kOperands = 3;
  dnnl_primitive_t run = nullptr;  // null: not implemented
  int argument[kOperands] = {};    // DNNL_ARG_SRC, ...
  dnnl_memory_t operand[kOperands] = {};
  dnnl_memory_t scratchpad = nullptr;
  int64_t scratchpad_bytes = 0;

  Primitive() = default;
  Primitive(const Primitive&) = delete;
  Primitive& operator=(const Primitive&) = delete;
  ~Primitive();
  // Takes the descriptor over; its attributes must leave scratchpads to the user.
  void create(dnnl_primitive_desc_t pd, const char* what);
  void set_operand(int i, int arg, const dnnl_memory_desc_t& md);
  void execute(const void* a, const void* b, const void* c, const char* what);
};

// Of every primitive: for one thread, and with scratchpads of ours, because in the library's own
// mode a primitive would be tied to the creating thread.
dnnl_primitive_attr_t attributes();

}  // namespace pinion::kernels::onednn
