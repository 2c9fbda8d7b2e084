// SPDX-License-Identifier: Apache-2.0
// Fills the tables of cuBLASLt, cuDNN and NCCL: every function is looked up when the library is
// opened, so that a call never meets one that is missing. Where a build had no header of a library,
// its table is left out.
#include "pinion/kernels/cuda/library.h"

#ifdef PINION_WITH_CUBLASLT
#include "pinion/kernels/cuda/cublaslt.h"
#endif
#ifdef PINION_WITH_CUDNN
#include "pinion/kernels/cuda/cudnn.h"
#endif
#ifdef PINION_WITH_NCCL
#include "pinion/kernels/cuda/nccl.h"
#endif

#ifndef PINION_CUBLASLT_FOLDER  // where the configure step found the library
#define PINION_CUBLASLT_FOLDER ""
#endif
#ifndef PINION_CUDNN_FOLDER
#define PINION_CUDNN_FOLDER ""
#endif
#ifndef PINION_NCCL_FOLDER
#define PINION_NCCL_FOLDER ""
#endif

namespace pinion::kernels::cuda {

const LibraryName kCublasLt{"cuBLASLt", "libcublasLt.so", 13, "cu13", PINION_CUBLASLT_FOLDER};
const LibraryName kCudnn{"cuDNN", "libcudnn.so", 9, "cudnn", PINION_CUDNN_FOLDER};
const LibraryName kNccl{"NCCL", "libnccl.so", 2, "nccl", PINION_NCCL_FOLDER};

#ifdef PINION_WITH_CUBLASLT
CublasLt CublasLt::open(const LibraryName& name) {
  const Library library(name);
  CublasLt t;
#define PINION_FUNCTION(f) library.find(t.f, "cublasLt" #f);
  PINION_CUBLASLT_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  library.check_major(static_cast<int>(t.GetVersion() / 10000));  // 130100 is 13.1.0
  t.path = library.path();
  return t;
}
#endif

#ifdef PINION_WITH_CUDNN
Cudnn Cudnn::open(const LibraryName& name) {
  const Library library(name);
  library.open_beside("libcudnn_graph.so.9");
  Cudnn t;
#define PINION_FUNCTION(f) library.find(t.f, "cudnn" #f);
  PINION_CUDNN_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  library.check_major(static_cast<int>(t.GetVersion() / 10000));  // 91900 is 9.19.0
  t.path = library.path();
  t.check(t.GraphVersionCheck(), "libcudnn_graph.so of the same version beside it");
  return t;
}

void Cudnn::fail_status(cudnnStatus_t status, const char* what) const {
  const bool memory = status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
  char why[512] = "";
  GetLastErrorString(why, sizeof why);
  fail(memory ? ErrorKind::out_of_memory : ErrorKind::device,
       {"cuDNN: expected ", what, ", got ", GetErrorString(status), *why ? ": " : "",
        std::string_view(why), " (", path, ")"});
}
#endif

#ifdef PINION_WITH_NCCL
Nccl Nccl::open(const LibraryName& name) {
  const Library library(name);
  Nccl t;
#define PINION_FUNCTION(f) library.find(t.f, "nccl" #f);
  PINION_NCCL_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  const ncclResult_t status = t.GetVersion(&t.version);
  PINION_REQUIRE(device, status == ncclSuccess, "NCCL: expected its version, got ",
                 t.GetErrorString(status));
  library.check_major(t.version / 10000);  // 22809 is 2.28.9
  t.path = library.path();
  return t;
}
#endif

}  // namespace pinion::kernels::cuda
