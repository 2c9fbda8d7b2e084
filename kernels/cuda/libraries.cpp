// SPDX-License-Identifier: Apache-2.0
// The process's libraries of NVIDIA's, opened by whoever first needs one. The simulator has tables
// of its own in place of this file.
#ifdef PINION_WITH_CUBLASLT
#include "pinion/kernels/cuda/cublaslt.h"
#endif
#ifdef PINION_WITH_CUDNN
#include "pinion/kernels/cuda/cudnn.h"
#endif
#ifdef PINION_WITH_NCCL
#include "pinion/kernels/cuda/nccl.h"
#endif

namespace pinion::kernels::cuda {

#ifdef PINION_WITH_CUBLASLT
const CublasLt& cublaslt() {
  static const CublasLt table = CublasLt::open(kCublasLt);
  return table;
}
#endif
#ifdef PINION_WITH_CUDNN
const Cudnn& cudnn() {
  static const Cudnn table = Cudnn::open(kCudnn);
  return table;
}
#endif
#ifdef PINION_WITH_NCCL
const Nccl& nccl() {
  static const Nccl table = Nccl::open(kNccl);
  return table;
}
#endif

}  // namespace pinion::kernels::cuda
