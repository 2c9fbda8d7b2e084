// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/matmul_library.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "pinion/kernels/cuda/plan_cache.h"
#include "pinion/kernels/cuda/tf32.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"

#ifdef PINION_WITH_CUBLASLT
#include "pinion/kernels/cuda/cublaslt.h"
#endif

namespace pinion::kernels::cuda {
namespace {

thread_local bool own_products_only = false;

}  // namespace

OwnProductsOnly::OwnProductsOnly() : before_(std::exchange(own_products_only, true)) {}
OwnProductsOnly::~OwnProductsOnly() { own_products_only = before_; }

#ifdef PINION_WITH_CUBLASLT
namespace {

constexpr int64_t kLeast = 64;           // in each extent; below it our own kernels are as fast
constexpr size_t kWorkspace = 32 << 20;  // bytes: what NVIDIA advises for Hopper
constexpr size_t kMostPlans = 1024;
constexpr int kMostDevices = 64;

void check(cublasStatus_t status, const char* what) {
  PINION_REQUIRE(device, status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: expected ", what, ", got ",
                 cublaslt().GetStatusName(status));
}

// One of the library's objects, made and destroyed by functions of the table.
template <class T, auto kDestroy>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (it_) (cublaslt().*kDestroy)(it_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* out() { return &it_; }
  operator T() const { return it_; }  // NOLINT: handed to the library as it is

 private:
  T it_ = nullptr;
};
using Operation = Owned<cublasLtMatmulDesc_t, &CublasLt::MatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &CublasLt::MatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &CublasLt::MatmulPreferenceDestroy>;

// The numbers that a plan depends on; a column-major reader's names. Row-major y = a b is
// column-major y^T = b^T a^T: the library's A is our b, and its rows are our columns.
struct ProductKey {
  int64_t batch, m, n, k, transpose_a, transpose_b, accumulate, dtype, y_type, epilogue, tf32;
  int64_t boundary_a, boundary_b, boundary_y, boundary_extra;  // bytes: of addresses
};
constexpr size_t kWords = sizeof(ProductKey) / sizeof(int64_t);
using Plans = PlanCache<kWords + 1, struct ProductPlan>;

struct ProductPlan {
  bool usable = false;  // else the library has no algorithm for it
  std::mutex mutex;     // of the pointers in `operation`
  Operation operation;
  Layout a, b, y;
  cublasLtMatmulAlgo_t algorithm{};
};

cudaDataType_t type_of(DType t) {
  return t == DType::f32 ? CUDA_R_32F : t == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

// What the library may rely on of an address: it has kernels for these boundaries.
int64_t boundary(const void* p) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  for (const int64_t bytes : {256, 16, 8, 4})
    if (at % static_cast<uintptr_t>(bytes) == 0) return bytes;
  return 2;
}

template <class T>
void set(const Operation& o, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublaslt().MatmulDescSetAttribute(o, attribute, &value, sizeof value),
        "an attribute of a product to be taken");
}
template <class T>
void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check(cublaslt().MatmulPreferenceSetAttribute(p, attribute, &value, sizeof value),
        "a preference to be taken");
}

// A column-major matrix [rows, cols] that lies densely, and `batch` of them one after another.
void describe(Layout& layout, int64_t dtype, int64_t rows, int64_t cols, int64_t batch) {
  const CublasLt& lt = cublaslt();
  check(lt.MatrixLayoutCreate(layout.out(), type_of(static_cast<DType>(dtype)),
                              static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows),
        "a matrix layout");
  if (batch == 1) return;
  const auto count = static_cast<int32_t>(batch);
  const int64_t apart = rows * cols;
  const char* const what = "an attribute of a matrix layout to be taken";
  check(
      lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
      what);
  check(lt.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &apart,
                                    sizeof apart),
        what);
}

void set_pointers(const Operation& o, const LibraryProduct& p, int64_t epilogue) {
  if (epilogue & CUBLASLT_EPILOGUE_BIAS) set(o, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
  if ((epilogue & CUBLASLT_EPILOGUE_GELU_AUX) == CUBLASLT_EPILOGUE_GELU_AUX)
    set(o, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.pre.data);
}

// The first algorithm of the library's heuristics, which depend on nothing but the shape and the
// device. Partial sums of a split k may only be added in f32 and in a pass of their own. With a
// bias there may be none: that pass would add it in the result's type.
void choose(cublasLtHandle_t handle, const ProductKey& s, ProductPlan& plan) {
  Preference preference;
  check(cublaslt().MatmulPreferenceCreate(preference.out()), "preferences");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspace});
  const uint32_t split = s.epilogue & CUBLASLT_EPILOGUE_BIAS
                             ? CUBLASLT_REDUCTION_SCHEME_NONE
                             : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, split);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(s.boundary_b));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(s.boundary_a));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(s.boundary_y));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(s.boundary_y));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublaslt().MatmulAlgoGetHeuristic(
      handle, plan.operation, plan.a, plan.b, plan.y, plan.y, preference, 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0))
    return;
  check(status, "algorithms for a product");
  plan.usable = found.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = found.algo;
}

std::shared_ptr<ProductPlan> make_plan(cublasLtHandle_t handle, const ProductKey& s,
                                       const LibraryProduct& p) {
  auto plan = std::make_shared<ProductPlan>();
  const cublasComputeType_t compute = s.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  check(cublaslt().MatmulDescCreate(plan->operation.out(), compute, CUDA_R_32F), "a product");
  const auto op = [](int64_t transpose) {
    return static_cast<int32_t>(transpose ? CUBLAS_OP_T : CUBLAS_OP_N);
  };
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, op(s.transpose_b));
  set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, op(s.transpose_a));
  set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(s.epilogue));
  if ((s.epilogue & CUBLASLT_EPILOGUE_GELU_AUX) == CUBLASLT_EPILOGUE_GELU_AUX)
    set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.n);
  set_pointers(plan->operation, p, s.epilogue);  // the heuristics look at their boundaries
  describe(plan->a, s.dtype, s.transpose_b ? s.k : s.n, s.transpose_b ? s.n : s.k, s.batch);
  describe(plan->b, s.dtype, s.transpose_a ? s.m : s.k, s.transpose_a ? s.k : s.m, s.batch);
  describe(plan->y, s.y_type, s.n, s.m, s.batch);
  choose(handle, s, *plan);
  return plan;
}

// Never destroyed: the library may be gone by then.
cublasLtHandle_t handle_of(int device) {
  static std::once_flag* const once = new std::once_flag[kMostDevices];
  static cublasLtHandle_t handles[kMostDevices] = {};
  std::call_once(once[device],
                 [&] { check(cublaslt().Create(&handles[device]), "a handle for the device"); });
  return handles[device];
}

Plans& plans() {
  static auto* const all = new Plans(kMostPlans);
  return *all;
}

struct State {
  bool usable = false;
  std::string text;
};

const State& state() {
  static const State found = [] {
    const char* wanted = std::getenv("PINION_CUBLASLT");
    if (wanted && std::strcmp(wanted, "0") == 0)
      return State{false, "cuBLASLt: switched off by PINION_CUBLASLT=0"};
    try {
      const auto version = static_cast<int>(cublaslt().GetVersion());
      return State{true, cat({"cuBLASLt ", version / 10000, ".", version / 100 % 100, ".",
                              version % 100, " (", cublaslt().path, ")"})};
    } catch (const Error& e) {
      return State{false, e.what()};
    }
  }();
  return found;
}

bool suits(const LibraryProduct& p) {
  constexpr int64_t kMost = INT32_MAX;
  if (!is_floating(p.a.dtype) || p.a.dtype == DType::f64) return false;
  if (p.y.dtype != p.a.dtype && p.y.dtype != DType::f32) return false;
  return std::min({p.m, p.n, p.k}) >= kLeast && std::max({p.m, p.n, p.k, p.batch}) <= kMost &&
         p.batch > 0;
}

// What the library can do in the same pass. It does not say what its ReLU makes of NaN, which ours
// keeps, and its GELU is the tanh form; a matrix of what GELU sees needs rows of 16 bytes.
int64_t epilogue_of(const LibraryProduct& p) {
  int64_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  if (p.bias) epilogue = CUBLASLT_EPILOGUE_BIAS;
  if (p.act != Activation::gelu_tanh || (p.pre && p.n % 8 != 0)) return epilogue;
  const int64_t gelu = p.pre ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU;
  return p.bias ? gelu | CUBLASLT_EPILOGUE_BIAS : gelu;
}

ProductKey key_of(const LibraryProduct& p, int64_t epilogue) {
  ProductKey s{p.batch, p.m, p.n, p.k, p.transpose_a, p.transpose_b, p.accumulate};
  s.dtype = static_cast<int64_t>(p.a.dtype), s.y_type = static_cast<int64_t>(p.y.dtype);
  s.epilogue = epilogue;
  s.tf32 = p.a.dtype == DType::f32 && tf32().matmul;
  s.boundary_a = boundary(p.a.data), s.boundary_b = boundary(p.b.data);
  s.boundary_y = boundary(p.y.data);
  s.boundary_extra = std::min(boundary(p.bias.data), boundary(p.pre.data));
  return s;
}

bool run(const CudaContext& ctx, const LibraryProduct& p) {
  const int64_t epilogue = epilogue_of(p);
  const ProductKey s = key_of(p, epilogue);
  Plans::Key key{ctx.device};
  std::memcpy(&key[1], &s, sizeof s);
  const cublasLtHandle_t handle = handle_of(ctx.device);
  const std::shared_ptr<ProductPlan> plan =
      plans().get(key, [&] { return make_plan(handle, s, p); });
  if (!plan->usable) return false;
  const Scratch workspace(ctx, kWorkspace);
  const float one = 1, beta = p.accumulate ? 1 : 0;
  const std::lock_guard lock(plan->mutex);
  set_pointers(plan->operation, p, epilogue);
  check(cublaslt().Matmul(handle, plan->operation, &one, p.b.data, plan->a, p.a.data, plan->b,
                          &beta, p.y.data, plan->y, p.y.data, plan->y, &plan->algorithm,
                          workspace.as<void>(), kWorkspace, ctx.stream),
        "a product to be launched");
  return true;
}

}  // namespace

const std::string& product_library() { return state().text; }

bool multiply_by_library(const CudaContext& ctx, const LibraryProduct& p) {
  if (own_products_only || !suits(p) || !state().usable) return false;
  const bool in_epilogue = p.act == Activation::none || (epilogue_of(p) & CUBLASLT_EPILOGUE_GELU);
  if (in_epilogue) return run(ctx, p);
  LibraryProduct linear = p;
  linear.act = Activation::none;
  linear.pre = {};
  if (p.pre) linear.y = p.pre;
  if (!run(ctx, linear)) return false;
  if (p.act == Activation::relu)
    relu_forward(ctx, linear.y, p.y);
  else
    gelu_forward(ctx, linear.y, p.act == Activation::gelu_tanh, p.y);
  return true;
}

#else

bool multiply_by_library(const CudaContext&, const LibraryProduct&) { return false; }
const std::string& product_library() {
  static const std::string text = "cuBLASLt: left out, its header was not there to build with";
  return text;
}

#endif

}  // namespace pinion::kernels::cuda
