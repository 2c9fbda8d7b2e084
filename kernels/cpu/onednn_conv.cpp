// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cpu/onednn_conv.h"

#ifdef PINION_WITH_ONEDNN
#include <algorithm>
#include <memory>
#include <vector>

#include "pinion/kernels/cpu/onednn_table.h"

namespace pinion::kernels::onednn {
namespace {

// Primitives that a thread keeps, the last used ones: a ResNet-101 has some 25 shapes of
// convolutions, each with three passes, for two batch sizes.
constexpr size_t kKept = 256;

struct Entry {
  Convolution key;
  Primitive run;
  dnnl_memory_desc_t filters;  // as the pass wants them
  Primitive reorder;           // of filters, made on first use
};

dnnl_memory_desc_t images_md(int64_t n, int64_t c, int64_t h, int64_t w) {
  dnnl_memory_desc_t md;
  const dnnl_dims_t dims{n, c, h, w};
  check(table().memory_desc_init_by_tag(&md, 4, dims, dnnl_f32, dnnl_nhwc), "images");
  return md;
}

dnnl_memory_desc_t filters_md(const Convolution& f, dnnl_format_tag_t order) {
  dnnl_memory_desc_t md;
  const dnnl_dims_t dims{f.k, f.c, f.r, f.s};
  check(table().memory_desc_init_by_tag(&md, 4, dims, dnnl_f32, order), "filters");
  return md;
}

// Null: not implemented.
dnnl_primitive_desc_t describe(const void* desc, dnnl_primitive_desc_t hint, const char* what) {
  const dnnl_primitive_attr_t attr = attributes();
  dnnl_primitive_desc_t pd = nullptr;
  const dnnl_status_t status = table().primitive_desc_create(
      &pd, static_cast<const_dnnl_op_desc_t>(desc), attr, table().engine, hint);
  table().primitive_attr_destroy(attr);
  if (status == dnnl_unimplemented) return nullptr;
  check(status, what);
  return pd;
}

// `order` is that of the filters; dnnl_format_kind_any leaves it to oneDNN.
dnnl_primitive_desc_t describe(const Convolution& f, const dnnl_memory_desc_t& filters) {
  const Table& t = table();
  const auto x = images_md(f.images, f.c, f.h, f.w), y = images_md(f.images, f.k, f.p, f.q);
  const Conv2d& m = f.window;
  const dnnl_dims_t strides{m.stride, m.stride}, gaps{m.dilation - 1, m.dilation - 1};
  const dnnl_dims_t around{m.padding, m.padding};
  dnnl_convolution_desc_t desc;
  check(t.dilated_convolution_forward_desc_init(&desc, dnnl_forward_training,
                                                dnnl_convolution_direct, &x, &filters, nullptr, &y,
                                                strides, gaps, around, around),
        "a convolution descriptor");
  const dnnl_primitive_desc_t forward = describe(&desc, nullptr, "a convolution");
  if (f.pass == ConvPass::forward || !forward) return forward;
  if (f.pass == ConvPass::input_gradient)
    check(t.dilated_convolution_backward_data_desc_init(
              &desc, dnnl_convolution_direct, &x, &filters, &y, strides, gaps, around, around),
          "a convolution descriptor");
  else
    check(t.dilated_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &x,
                                                           &filters, nullptr, &y, strides, gaps,
                                                           around, around),
          "a convolution descriptor");
  const dnnl_primitive_desc_t pd = describe(&desc, forward, "a convolution gradient");
  t.primitive_desc_destroy(forward);
  return pd;
}

std::unique_ptr<Entry> create(const Convolution& f, const dnnl_memory_desc_t& filters) {
  const Table& t = table();
  auto out = std::make_unique<Entry>();
  out->key = f;
  const dnnl_primitive_desc_t pd = describe(f, filters);
  if (!pd) return out;
  const bool gradient = f.pass == ConvPass::weight_gradient;
  out->filters = *t.primitive_desc_query_md(
      pd, gradient ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
  out->run.create(pd, "a convolution");
  const bool to_x = f.pass == ConvPass::input_gradient, to_y = f.pass == ConvPass::forward;
  out->run.set_operand(0, to_x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC,
                       images_md(f.images, f.c, f.h, f.w));
  out->run.set_operand(1, gradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, out->filters);
  out->run.set_operand(2, to_y ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST,
                       images_md(f.images, f.k, f.p, f.q));
  return out;
}

// The calling thread's primitive, least recently used ones last. The order of the filters is the
// one that oneDNN chooses for one image: chunks of any number of images share packed filters.
Entry& find(const Convolution& f) {
  thread_local std::vector<std::unique_ptr<Entry>> kept;
  const auto known = std::find_if(kept.begin(), kept.end(), [&](auto& e) { return e->key == f; });
  if (known != kept.end()) {
    std::rotate(kept.begin(), known, known + 1);
    return *kept.front();
  }
  Convolution one = f;
  one.images = 1;
  auto made = create(f, f.images == 1 ? filters_md(f, dnnl_format_tag_any) : find(one).filters);
  if (kept.size() == kKept) kept.pop_back();
  kept.insert(kept.begin(), std::move(made));
  return *kept.front();
}

Entry& find_for_one(Convolution f) {
  f.images = 1;
  return find(f);
}

// Runs the reorder between [k,r,s,c] and the order of the pass.
void reorder(const Convolution& f, const float* from, float* to) {
  const Table& t = table();
  Entry& e = find_for_one(f);
  if (!e.reorder.run) {
    const auto plain = filters_md(f, dnnl_ohwi);
    const bool packing = f.pass != ConvPass::weight_gradient;
    const dnnl_memory_desc_t &source = packing ? plain : e.filters,
                             &target = packing ? e.filters : plain;
    const dnnl_primitive_attr_t attr = attributes();
    dnnl_primitive_desc_t pd = nullptr;
    const dnnl_status_t status =
        t.reorder_primitive_desc_create(&pd, &source, t.engine, &target, t.engine, attr);
    t.primitive_attr_destroy(attr);
    check(status, "a reorder");
    e.reorder.create(pd, "a reorder");
    e.reorder.set_operand(0, DNNL_ARG_FROM, source);
    e.reorder.set_operand(1, DNNL_ARG_TO, target);
  }
  e.reorder.execute(from, to, nullptr, "a reorder");
}

}  // namespace

int64_t packed_size(const Convolution& shape) {
  const Entry& e = find_for_one(shape);
  if (!e.run.run) return 0;
  return static_cast<int64_t>(table().memory_desc_get_size(&e.filters) / sizeof(float));
}

void pack(const Convolution& shape, const float* filters, float* packed) {
  reorder(shape, filters, packed);
}
void unpack(const Convolution& shape, const float* packed, float* filters) {
  reorder(shape, packed, filters);
}

void convolve(const Convolution& shape, const float* x, const float* packed, const float* y) {
  find(shape).run.execute(x, packed, y, "a convolution");
}

}  // namespace pinion::kernels::onednn

#else

namespace pinion::kernels::onednn {

int64_t packed_size(const Convolution&) { return 0; }
void pack(const Convolution&, const float*, float*) {}
void unpack(const Convolution&, const float*, float*) {}
void convolve(const Convolution&, const float*, const float*, const float*) {}

}  // namespace pinion::kernels::onednn
#endif
