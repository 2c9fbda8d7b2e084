// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cpu/onednn.h"

#ifdef PINION_WITH_ONEDNN
#include <dlfcn.h>
#include <dnnl.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pinion/kernels/cpu/isa.h"
#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::onednn {
namespace {

// The C functions in use. The major version is part of the library's name: memory descriptors of
// version 3 are another type.
struct Table {
#define PINION_DNNL(name) decltype(&::dnnl_##name) name = nullptr
  PINION_DNNL(engine_create);
  PINION_DNNL(stream_create);
  PINION_DNNL(memory_desc_init_by_strides);
  PINION_DNNL(memory_desc_get_size);
  PINION_DNNL(memory_create);
  PINION_DNNL(memory_set_data_handle);
  PINION_DNNL(matmul_desc_init);
  PINION_DNNL(primitive_attr_create);
  PINION_DNNL(primitive_attr_destroy);
  PINION_DNNL(primitive_attr_set_scratchpad_mode);
  PINION_DNNL(primitive_attr_set_post_ops);
  PINION_DNNL(post_ops_create);
  PINION_DNNL(post_ops_destroy);
  PINION_DNNL(post_ops_append_sum);
  PINION_DNNL(primitive_desc_create);
  PINION_DNNL(primitive_desc_destroy);
  PINION_DNNL(primitive_desc_query_md);
  PINION_DNNL(primitive_create);
  PINION_DNNL(primitive_execute);
  PINION_DNNL(primitive_destroy);
  PINION_DNNL(memory_destroy);
  PINION_DNNL(stream_destroy);
  PINION_DNNL(version);
#undef PINION_DNNL
  void (*omp_set_num_threads)(int) = nullptr;  // of the OpenMP runtime it is linked with
  dnnl_engine_t engine = nullptr;
  std::string state;  // version, or why there is none

  Table() { state = open(); }

  std::string open() {
    const char* wanted = std::getenv("PINION_ONEDNN");
    if (wanted && std::strcmp(wanted, "0") == 0) return "switched off by PINION_ONEDNN=0";
    void* library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) return std::string("not found: ") + dlerror();
    const auto find = [&](auto& f, const char* name) {
      f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(library, name));
      return f != nullptr;
    };
#define PINION_DNNL(name) find(name, "dnnl_" #name)
    const bool complete =
        PINION_DNNL(engine_create) && PINION_DNNL(stream_create) &&
        PINION_DNNL(memory_desc_init_by_strides) && PINION_DNNL(memory_desc_get_size) &&
        PINION_DNNL(memory_create) && PINION_DNNL(memory_set_data_handle) &&
        PINION_DNNL(matmul_desc_init) && PINION_DNNL(primitive_attr_create) &&
        PINION_DNNL(primitive_attr_destroy) && PINION_DNNL(primitive_attr_set_scratchpad_mode) &&
        PINION_DNNL(primitive_attr_set_post_ops) && PINION_DNNL(post_ops_create) &&
        PINION_DNNL(post_ops_destroy) && PINION_DNNL(post_ops_append_sum) &&
        PINION_DNNL(primitive_desc_create) && PINION_DNNL(primitive_desc_destroy) &&
        PINION_DNNL(primitive_desc_query_md) && PINION_DNNL(primitive_create) &&
        PINION_DNNL(primitive_execute) && PINION_DNNL(primitive_destroy) &&
        PINION_DNNL(memory_destroy) && PINION_DNNL(stream_destroy) && PINION_DNNL(version) &&
        find(omp_set_num_threads, "omp_set_num_threads");
#undef PINION_DNNL
    if (!complete) return "libdnnl.so.2 lacks a function, or is not built for OpenMP";
    omp_set_num_threads(1);
    if (engine_create(&engine, dnnl_cpu, 0) != dnnl_success) {
      engine = nullptr;
      return "libdnnl.so.2 has no CPU engine";
    }
    const dnnl_version_t* v = version();
    return std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
           std::to_string(v->patch);
  }
};

const Table& table() {
  static const Table t;
  return t;
}

void check(dnnl_status_t status, const char* what) {
  PINION_CHECK(status == dnnl_success, "oneDNN: expected ", what, " to succeed, got status ",
               static_cast<int>(status));
}

dnnl_data_type_t type_of(DType t) { return t == DType::bf16 ? dnnl_bf16 : dnnl_f32; }

// A primitive with its memory objects, for one thread.
struct Primitive {
  Product key;
  dnnl_primitive_t run = nullptr;  // null: not implemented
  dnnl_memory_t a = nullptr, b = nullptr, y = nullptr, scratchpad = nullptr;
  int64_t scratchpad_bytes = 0;
};

dnnl_memory_desc_t describe(const Table& t, DType dtype, int64_t rows, int64_t cols, int64_t row,
                            int64_t col) {
  dnnl_memory_desc_t md;
  const dnnl_dims_t dims{rows, cols}, strides{row, col};
  check(t.memory_desc_init_by_strides(&md, 2, dims, type_of(dtype), strides),
        "a memory descriptor");
  return md;
}

dnnl_memory_t memory(const Table& t, const dnnl_memory_desc_t& md) {
  dnnl_memory_t m;
  check(t.memory_create(&m, &md, t.engine, DNNL_MEMORY_NONE), "a memory object");
  return m;
}

// Scratchpads are ours: in the library's own mode a primitive would be tied to the creating thread.
dnnl_primitive_attr_t attributes(const Table& t, bool accumulate) {
  dnnl_primitive_attr_t attr;
  check(t.primitive_attr_create(&attr), "attributes");
  check(t.primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "a scratchpad mode");
  if (!accumulate) return attr;
  dnnl_post_ops_t ops;
  check(t.post_ops_create(&ops), "post-operations");
  check(t.post_ops_append_sum(ops, 1.0f), "the sum post-operation");
  check(t.primitive_attr_set_post_ops(attr, ops), "post-operations");
  t.post_ops_destroy(ops);
  return attr;
}

std::unique_ptr<Primitive> create(const Table& t, const Product& p) {
  auto out = std::make_unique<Primitive>();
  out->key = p;
  const auto a = describe(t, p.dtype, p.m, p.k, p.a_row, p.a_col);
  const auto b = describe(t, p.dtype, p.k, p.n, p.b_row, p.b_col);
  const auto y = describe(t, p.y_type, p.m, p.n, p.ldy, 1);
  dnnl_matmul_desc_t desc;
  check(t.matmul_desc_init(&desc, &a, &b, nullptr, &y), "a matmul descriptor");
  const dnnl_primitive_attr_t attr = attributes(t, p.accumulate);
  dnnl_primitive_desc_t pd = nullptr;
  const dnnl_status_t status = t.primitive_desc_create(&pd, &desc, attr, t.engine, nullptr);
  t.primitive_attr_destroy(attr);
  if (status == dnnl_unimplemented) return out;
  check(status, "a matmul primitive descriptor");
  const dnnl_memory_desc_t* pad = t.primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  out->scratchpad_bytes = static_cast<int64_t>(t.memory_desc_get_size(pad));
  check(t.primitive_create(&out->run, pd), "a matmul primitive");
  out->a = memory(t, a), out->b = memory(t, b), out->y = memory(t, y);
  out->scratchpad = memory(t, *pad);
  t.primitive_desc_destroy(pd);
  return out;
}

struct Thread {
  dnnl_stream_t stream = nullptr;
  std::vector<std::unique_ptr<Primitive>> primitives;

  explicit Thread(const Table& t) {
    t.omp_set_num_threads(1);  // its setting is per thread; a new thread starts with all CPUs
    check(t.stream_create(&stream, t.engine, dnnl_stream_default_flags), "a stream");
  }
  ~Thread() {  // before the library's static state goes, as every thread_local does
    const Table& t = table();
    for (const auto& p : primitives) {
      for (dnnl_memory_t m : {p->a, p->b, p->y, p->scratchpad})
        if (m) t.memory_destroy(m);
      if (p->run) t.primitive_destroy(p->run);
    }
    t.stream_destroy(stream);
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  Primitive& find(const Table& t, const Product& p) {
    for (const auto& known : primitives)
      if (known->key == p) return *known;
    primitives.push_back(create(t, p));
    return *primitives.back();
  }
};

}  // namespace

bool available(Isa isa, DType dtype) {
  // A lower rung than the machine's best is for tests of that rung: oneDNN would not be on it.
  static const Isa best = detect_isa();
  if (isa != best || isa < Isa::avx2) return false;
  // oneDNN has no bf16 below AVX-512.
  if (dtype != DType::f32 && (dtype != DType::bf16 || isa < Isa::avx512)) return false;
  return table().engine != nullptr;
}

bool multiply(const Product& product, const void* a, const void* b, void* y) {
  const Table& t = table();
  thread_local Thread thread(t);
  Primitive& p = thread.find(t, product);
  if (!p.run) return false;
  const Scratch scratch(p.scratchpad_bytes);
  check(t.memory_set_data_handle(p.a, const_cast<void*>(a)), "setting a");
  check(t.memory_set_data_handle(p.b, const_cast<void*>(b)), "setting b");
  check(t.memory_set_data_handle(p.y, y), "setting y");
  check(t.memory_set_data_handle(p.scratchpad, scratch.as<void>()), "setting the scratchpad");
  const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p.a},
                                  {DNNL_ARG_WEIGHTS, p.b},
                                  {DNNL_ARG_DST, p.y},
                                  {DNNL_ARG_SCRATCHPAD, p.scratchpad}};
  check(t.primitive_execute(p.run, thread.stream, 4, args), "matmul");
  return true;
}

const char* version() { return table().state.c_str(); }

}  // namespace pinion::kernels::onednn

#else

namespace pinion::kernels::onednn {

bool available(Isa, DType) { return false; }
bool multiply(const Product&, const void*, const void*, void*) { return false; }
const char* version() { return "left out of this build (PINION_ONEDNN)"; }

}  // namespace pinion::kernels::onednn
#endif
