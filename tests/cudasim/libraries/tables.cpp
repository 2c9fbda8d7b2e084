// SPDX-License-Identifier: Apache-2.0
// In place of kernels/cuda/libraries.cpp: tables of the stand-ins, and what they share.
#include "fake_libraries.h"
#include "pinion/kernels/cuda/cublaslt.h"
#include "pinion/kernels/cuda/cudnn.h"
#include "pinion/kernels/cuda/nccl.h"
#include "pinion/kernels/dispatch.h"

namespace cudasim {

FakeLibraries& fake_libraries() {
  static FakeLibraries all;
  return all;
}

double load(pinion::DType t, const void* p, int64_t i) {
  double value = 0;
  pinion::for_float(t, "load", [&]<class T>() {
    value = static_cast<double>(static_cast<pinion::Accumulator<T>>(static_cast<const T*>(p)[i]));
  });
  return value;
}
void store(pinion::DType t, void* p, int64_t i, double value) {
  pinion::for_float(t, "store", [&]<class T>() {
    static_cast<T*>(p)[i] = T(static_cast<pinion::Accumulator<T>>(value));
  });
}

}  // namespace cudasim

namespace pinion::kernels::cuda {

const CublasLt& cublaslt() {
  static const CublasLt table = [] {
    CublasLt t;
#define PINION_FUNCTION(f) t.f = ::cublasLt##f;
    PINION_CUBLASLT_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
    t.path = "the simulator's";
    return t;
  }();
  PINION_REQUIRE(device, cudasim::fake_libraries().cublaslt, "cuBLASLt: taken away by a test");
  return table;
}

const Cudnn& cudnn() {
  static const Cudnn table = [] {
    Cudnn t;
#define PINION_FUNCTION(f) t.f = ::cudnn##f;
    PINION_CUDNN_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
    t.path = "the simulator's";
    return t;
  }();
  return table;
}

const Nccl& nccl() {
  static const Nccl table = [] {
    Nccl t;
#define PINION_FUNCTION(f) t.f = ::nccl##f;
    PINION_NCCL_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
    t.path = "the simulator's";
    t.GetVersion(&t.version);
    return t;
  }();
  return table;
}

}  // namespace pinion::kernels::cuda
