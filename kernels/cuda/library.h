// SPDX-License-Identifier: Apache-2.0
// A shared library of NVIDIA's, opened at run time: where it is sought, and its functions. Nothing
// links these libraries, so a program that never uses a CUDA device neither loads nor needs them.
#pragma once

#include <string>

#include "pinion/kernels/check.h"

namespace pinion::kernels::cuda {

// The soname is "file.major": other majors are other interfaces, which the headers of the build do
// not describe.
struct LibraryName {
  const char* name;        // "cuDNN", as error texts say it
  const char* file;        // "libcudnn.so"
  int major;               // 9
  const char* wheel;       // its folder among NVIDIA's Python packages: "cudnn"
  const char* configured;  // the folder that the configure step found, or ""
};
extern const LibraryName kCublasLt, kCudnn, kNccl;

// Sought in this order: among the libraries of the process; $PINION_NVIDIA_ROOT/<wheel>/lib (the
// folder `nvidia` of a Python environment); lib64, lib and targets/<machine>/lib of $CUDA_HOME and
// $CUDA_PATH; where the configure step found it; where the dynamic loader looks; /usr/local/cuda.
// What is open already comes first, for two copies of one library in a process do not get along.
class Library {
 public:
  // Throws Error (device), which names every place, and what lies there of another major version.
  explicit Library(const LibraryName& name);

  const std::string& path() const { return path_; }
  // Throws Error (device) when the library lacks the function.
  template <class F>
  void find(F*& function, const char* symbol) const {
    function = reinterpret_cast<F*>(address(symbol));
  }
  // Opens a part of the library that lies beside it, so that a later search for the part by name
  // meets no other version of it. Throws Error (device) where it is not there.
  void open_beside(const char* file) const;
  // Throws Error (device) unless the library says of itself that it has the expected major version.
  void check_major(int got) const;

 private:
  void* address(const char* symbol) const;

  LibraryName name_;
  void* handle_ = nullptr;  // never closed: tensors of static storage may outlive whoever would
  std::string path_;
};

}  // namespace pinion::kernels::cuda
