// SPDX-License-Identifier: Apache-2.0
// Opens oneDNN, and runs its primitives on the calling thread.
#ifdef PINION_WITH_ONEDNN
#include "pinion/kernels/cpu/onednn_table.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::onednn {

Table::Table() { state = open(); }

std::string Table::open() {
  const char* wanted = std::getenv("PINION_ONEDNN");
  if (wanted && std::strcmp(wanted, "0") == 0) return "switched off by PINION_ONEDNN=0";
  void* library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::string("not found: ") + dlerror();
  bool complete = true;
  const auto find = [&](auto& f, const char* name) {
    f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(library, name));
    complete &= f != nullptr;
  };
#define PINION_DNNL(name) find(name, "dnnl_" #name);
  PINION_DNNL_FUNCTIONS(PINION_DNNL)
#undef PINION_DNNL
  find(omp_set_num_threads, "omp_set_num_threads");
  if (!complete) return "libdnnl.so.2 lacks a function, or is not built for OpenMP";
  omp_set_num_threads(1);
  if (engine_create(&engine, dnnl_cpu, 0) != dnnl_success) {
    engine = nullptr;
    return "libdnnl.so.2 has no CPU engine";
  }
  const dnnl_version_t* v = version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

const Table& table() {
  static const Table t;
  return t;
}

void check(dnnl_status_t status, const char* what) {
  PINION_CHECK(status == dnnl_success, "oneDNN: expected ", what, " to succeed, got status ",
               static_cast<int>(status));
}

dnnl_memory_t memory(const dnnl_memory_desc_t& md) {
  dnnl_memory_t m;
  check(table().memory_create(&m, &md, table().engine, DNNL_MEMORY_NONE), "a memory object");
  return m;
}

namespace {

struct Stream {
  dnnl_stream_t stream = nullptr;

  Stream() {
    const Table& t = table();
    t.omp_set_num_threads(1);  // its setting is per thread; a new thread starts with all CPUs
    check(t.stream_create(&stream, t.engine, dnnl_stream_default_flags), "a stream");
  }
  ~Stream() { table().stream_destroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
};

}  // namespace

dnnl_stream_t thread_stream() {
  thread_local const Stream stream;
  return stream.stream;
}

dnnl_primitive_attr_t attributes() {
  const Table& t = table();
  thread_stream();  // descriptors count the threads of OpenMP as well, not only primitives that run
  dnnl_primitive_attr_t attr;
  check(t.primitive_attr_create(&attr), "attributes");
  check(t.primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "a scratchpad mode");
  return attr;
}

Primitive::~Primitive() {
  const Table& t = table();
  for (dnnl_memory_t m : operand)
    if (m) t.memory_destroy(m);
  if (scratchpad) t.memory_destroy(scratchpad);
  if (run) t.primitive_destroy(run);
}

void Primitive::create(dnnl_primitive_desc_t pd, const char* what) {
  const Table& t = table();
  const dnnl_memory_desc_t* pad = t.primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  scratchpad_bytes = static_cast<int64_t>(t.memory_desc_get_size(pad));
  scratchpad = memory(*pad);
  const dnnl_status_t status = t.primitive_create(&run, pd);
  t.primitive_desc_destroy(pd);
  check(status, what);
}

void Primitive::set_operand(int i, int arg, const dnnl_memory_desc_t& md) {
  argument[i] = arg;
  operand[i] = memory(md);
}

void Primitive::execute(const void* a, const void* b, const void* c, const char* what) {
  const Table& t = table();
  const Scratch pad(scratchpad_bytes);
  const void* const data[kOperands] = {a, b, c};
  dnnl_exec_arg_t args[kOperands + 1];
  int count = 0;
  for (int i = 0; i < kOperands; ++i) {
    if (!operand[i]) continue;
    check(t.memory_set_data_handle(operand[i], const_cast<void*>(data[i])), "setting an operand");
    args[count++] = {argument[i], operand[i]};
  }
  check(t.memory_set_data_handle(scratchpad, pad.as<void>()), "setting the scratchpad");
  args[count++] = {DNNL_ARG_SCRATCHPAD, scratchpad};
  check(t.primitive_execute(run, thread_stream(), count, args), what);
}

}  // namespace pinion::kernels::onednn
#endif
