// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cpu/onednn.h"

#ifdef PINION_WITH_ONEDNN
#include <memory>
#include <vector>

#include "pinion/kernels/cpu/isa.h"
#include "pinion/kernels/cpu/onednn_table.h"

namespace pinion::kernels::onednn {
namespace {

dnnl_data_type_t type_of(DType t) { return t == DType::bf16 ? dnnl_bf16 : dnnl_f32; }

struct Matmul : Primitive {
  Product key;
};

dnnl_memory_desc_t describe(const Table& t, DType dtype, int64_t rows, int64_t cols, int64_t row,
                            int64_t col) {
  dnnl_memory_desc_t md;
  const dnnl_dims_t dims{rows, cols}, strides{row, col};
  check(t.memory_desc_init_by_strides(&md, 2, dims, type_of(dtype), strides),
        "a memory descriptor");
  return md;
}

dnnl_primitive_attr_t attributes(const Table& t, bool accumulate) {
  dnnl_primitive_attr_t attr = onednn::attributes();
  if (!accumulate) return attr;
  dnnl_post_ops_t ops;
  check(t.post_ops_create(&ops), "post-operations");
  check(t.post_ops_append_sum(ops, 1.0f), "the sum post-operation");
  check(t.primitive_attr_set_post_ops(attr, ops), "post-operations");
  t.post_ops_destroy(ops);
  return attr;
}

std::unique_ptr<Matmul> create(const Product& p) {
  const Table& t = table();
  auto out = std::make_unique<Matmul>();
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
  out->create(pd, "a matmul primitive");
  out->set_operand(0, DNNL_ARG_SRC, a);
  out->set_operand(1, DNNL_ARG_WEIGHTS, b);
  out->set_operand(2, DNNL_ARG_DST, y);
  return out;
}

// The calling thread's primitive; its thread-local list goes before the library's static state.
Matmul& find(const Product& p) {
  thread_local std::vector<std::unique_ptr<Matmul>> known;
  for (const auto& m : known)
    if (m->key == p) return *m;
  known.push_back(create(p));
  return *known.back();
}

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
  Matmul& matmul = find(product);
  if (!matmul.run) return false;
  matmul.execute(a, b, y, "matmul");
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
