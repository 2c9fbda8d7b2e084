// SPDX-License-Identifier: Apache-2.0
// The stand-in for cuBLASLt: column-major products with the epilogues in use. An algorithm carries
// a digest of what it was chosen for, so that one that is used for another shape is refused.
#include <cublasLt.h>

#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "fake_libraries.h"
#include "pinion/kernels/formulas.h"

using cudasim::fake_libraries;
using pinion::DType;

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* extra = nullptr;
  int64_t extra_ld = 0;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  int64_t rows, cols, ld;
  int32_t batch = 1;
  int64_t apart = 0;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t reduction = 7;
  uint32_t boundary[4] = {256, 256, 256, 256};  // of a, b, c, d
};

namespace cudasim {
namespace {

constexpr size_t kNeeded = 12345;  // bytes of workspace that the stand-in asks for

DType dtype_of(cudaDataType t) {
  return t == CUDA_R_32F ? DType::f32 : t == CUDA_R_16BF ? DType::bf16 : DType::f16;
}

cublasStatus_t refuse(const std::string& why) {
  fake_libraries().wrong = "cuBLASLt: " + why;
  return CUBLAS_STATUS_INVALID_VALUE;
}

template <class T>
bool take(T& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof to) return false;
  std::memcpy(&to, value, sizeof to);
  return true;
}

// A product as it was described.
struct Product {
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, d;

  int64_t m() const { return desc.transpose_a ? a.cols : a.rows; }
  int64_t k() const { return desc.transpose_a ? a.rows : a.cols; }
  int64_t n() const { return desc.transpose_b ? b.rows : b.cols; }
  bool has_bias() const { return desc.epilogue & CUBLASLT_EPILOGUE_BIAS; }
  bool has_gelu() const { return desc.epilogue & CUBLASLT_EPILOGUE_GELU; }
  bool has_extra() const { return desc.epilogue & 128; }

  std::string wrong() const {
    if (d.rows != m() || d.cols != n() || (desc.transpose_b ? b.cols : b.rows) != k())
      return "the matrices do not fit";
    for (const auto& x : {a, b, d}) {
      if (x.ld < x.rows) return "a leading dimension is below the rows";
      if (x.batch != d.batch) return "batches differ";
      if (x.batch > 1 && x.apart < x.ld * x.cols) return "matrices of a batch overlap";
    }
    if (a.type != b.type || (d.type != a.type && d.type != CUDA_R_32F)) return "types do not fit";
    if (has_bias() && !desc.bias) return "no pointer to the bias";
    if (has_extra() && (!desc.extra || desc.extra_ld % 8 != 0 || desc.extra_ld < m()))
      return "what GELU sees has no room";
    return "";
  }
  // The boundary that its addresses may be off by, in the order a, b, d.
  uint64_t digest(const uint32_t* boundary) const {
    uint64_t h = 0;
    for (const int64_t v :
         {int64_t{desc.compute}, int64_t{desc.transpose_a}, int64_t{desc.transpose_b},
          int64_t{desc.epilogue}, int64_t{a.type}, int64_t{d.type}, a.rows, a.cols, b.rows, b.cols,
          int64_t{d.batch}, int64_t{boundary[0]}, int64_t{boundary[1]}, int64_t{boundary[3]}})
      h = (h ^ static_cast<uint64_t>(v)) * 0x9e3779b97f4a7c15u + 1;
    return h;
  }
};

bool reaches(const void* p, const cublasLtMatrixLayoutOpaque_t& x) {
  const int64_t last = (x.batch - 1) * x.apart + (x.cols - 1) * x.ld + x.rows;
  return is_device_memory(p, static_cast<size_t>(last * pinion::size_of(dtype_of(x.type))));
}

// Sums of f32 in the order of k, as one column of the result after the other.
void multiply(const Product& p, const void* a, const void* b, float beta, void* d) {
  const DType in = dtype_of(p.a.type), out = dtype_of(p.d.type);
  const int64_t m = p.m(), n = p.n(), k = p.k();
  const auto at = [](const cublasLtMatrixLayoutOpaque_t& x, bool transposed, int64_t i, int64_t j) {
    return transposed ? j + i * x.ld : i + j * x.ld;
  };
  std::vector<float> left(static_cast<size_t>(m * k)), right(static_cast<size_t>(k));
  for (int64_t z = 0; z < p.d.batch; ++z) {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t l = 0; l < k; ++l)
        left[static_cast<size_t>(i * k + l)] =
            static_cast<float>(load(in, a, z * p.a.apart + at(p.a, p.desc.transpose_a != 0, i, l)));
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l)
        right[static_cast<size_t>(l)] =
            static_cast<float>(load(in, b, z * p.b.apart + at(p.b, p.desc.transpose_b != 0, l, j)));
      for (int64_t i = 0; i < m; ++i) {
        float sum = 0;
        for (int64_t l = 0; l < k; ++l)
          sum += left[static_cast<size_t>(i * k + l)] * right[static_cast<size_t>(l)];
        const int64_t to = z * p.d.apart + i + j * p.d.ld;
        if (beta != 0) sum += beta * static_cast<float>(load(out, d, to));
        if (p.has_bias()) sum += static_cast<float>(load(out, p.desc.bias, i));
        if (p.has_extra()) store(out, p.desc.extra, i + j * p.desc.extra_ld, sum);
        if (p.has_gelu()) sum = pinion::kernels::formulas::GeluTanh{}(sum);
        store(out, d, to, sum);
      }
    }
  }
}

}  // namespace
}  // namespace cudasim

using namespace cudasim;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130100; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return "CUBLAS_STATUS_SUCCESS";
  return status == CUBLAS_STATUS_INVALID_VALUE ? fake_libraries().wrong.c_str()
                                               : "CUBLAS_STATUS_NOT_SUPPORTED";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return refuse("scales are f32");
  *desc = new cublasLtMatmulDescOpaque_t{compute};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  const auto set = [&](auto& to) {
    return take(to, value, bytes) ? CUBLAS_STATUS_SUCCESS : refuse("the size of an attribute");
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(desc->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(desc->transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(desc->bias);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return set(desc->extra);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return set(desc->extra_ld);
  }
  return refuse("an attribute of a product");
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, static_cast<int64_t>(rows),
                                             static_cast<int64_t>(cols), ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  const bool taken = attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT
                         ? take(layout->batch, value, bytes)
                         : take(layout->apart, value, bytes);
  return taken ? CUBLAS_STATUS_SUCCESS : refuse("the size of an attribute");
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  bool taken = false;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    taken = take(preference->workspace, value, bytes);
  else if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    taken = take(preference->reduction, value, bytes);
  else
    taken = take(preference->boundary[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                 value, bytes);
  return taken ? CUBLAS_STATUS_SUCCESS : refuse("the size of a preference");
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* count) {
  ++fake_libraries().product_plans;
  const Product p{*desc, *a, *b, *d};
  if (const std::string wrong = p.wrong(); !wrong.empty()) return refuse(wrong);
  if (c != d || asked < 1) return refuse("the result is not added to itself");
  // Sums whose order or rounding another schedule would change.
  const uint32_t unordered =
      CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
  if (preference->reduction & unordered) return refuse("sums in the type of the result");
  *count = 0;
  if (fake_libraries().refuse_products || preference->workspace < kNeeded)
    return CUBLAS_STATUS_SUCCESS;
  *count = 1;
  results[0] = {};
  results[0].algo.data[0] = p.digest(preference->boundary);
  for (int i = 0; i < 4; ++i) results[0].algo.data[1 + i] = preference->boundary[i];
  results[0].workspaceSize = kNeeded;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const Product p{*desc, *a_layout, *b_layout, *d_layout};
  uint32_t boundary[4];
  for (int i = 0; i < 4; ++i) boundary[i] = static_cast<uint32_t>(algo->data[1 + i]);
  if (const std::string wrong = p.wrong(); !wrong.empty()) return refuse(wrong);
  if (p.digest(boundary) != algo->data[0]) return refuse("an algorithm for another product");
  const void* const pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (reinterpret_cast<uintptr_t>(pointers[i]) % boundary[i] != 0)
      return refuse("an address off the boundary that was promised");
  if (!reaches(a, p.a) || !reaches(b, p.b) || !reaches(d, p.d) || c != d)
    return refuse("a matrix that is not in one block of device memory");
  const int64_t element = pinion::size_of(dtype_of(p.d.type));
  if (p.has_bias() && !is_device_memory(p.desc.bias, static_cast<size_t>(p.m() * element)))
    return refuse("a bias that is not in device memory");
  if (p.has_extra() &&
      !is_device_memory(p.desc.extra, static_cast<size_t>(p.desc.extra_ld * p.n() * element)))
    return refuse("what GELU sees is not in device memory");
  if (workspace_bytes < kNeeded || !is_device_memory(workspace, workspace_bytes))
    return refuse("the workspace");
  float scale = 0, add = 0;
  std::memcpy(&scale, alpha, sizeof scale);
  std::memcpy(&add, beta, sizeof add);
  if (scale != 1) return refuse("a scale");
  ++fake_libraries().products;
  enqueue_work(stream, [=] {
    std::memset(workspace, 0xFF, kNeeded);  // who still uses it reads NaN
    multiply(p, a, b, add, d);
  });
  return CUBLAS_STATUS_SUCCESS;
}
