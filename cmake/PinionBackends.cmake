# SPDX-License-Identifier: Apache-2.0
# Looks for what Pinion can use but does not need: CUDA and oneDNN. AUTO takes what is there, ON
# fails where it is not; cmake/PinionSummary.cmake says what was chosen.
include(PinionNvidia)

set(PINION_WITH_ONEDNN OFF)
if(NOT PINION_ONEDNN STREQUAL "OFF")
  find_package(DNNL 2.6)
  if(DNNL_FOUND)
    set(PINION_WITH_ONEDNN ON)
  elseif(NOT PINION_ONEDNN STREQUAL "AUTO")
    message(FATAL_ERROR "PINION_ONEDNN=ON: the headers of oneDNN 2.6 or newer were not found "
      "(Debian: libdnnl-dev)")
  endif()
endif()

set(PINION_WITH_CUDA OFF)
if(NOT PINION_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    pinion_find_nvlibs()
    set(PINION_WITH_CUDA ON)
  elseif(NOT PINION_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PINION_CUDA=ON: nvcc was not found; put it on PATH or name it in CUDACXX")
  endif()
endif()

# Adds the sources, definitions and libraries of the backends that were found.
function(pinion_add_backends target)
  if(PINION_WITH_ONEDNN)
    target_include_directories(${target} SYSTEM PRIVATE ${DNNL_INCLUDE_DIR})
    target_compile_definitions(${target} PRIVATE PINION_WITH_ONEDNN)
  endif()
  if(PINION_WITH_CUDA)
    file(GLOB sources CONFIGURE_DEPENDS
      ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cpp ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
    target_sources(${target} PRIVATE ${sources})
    target_compile_definitions(${target} PUBLIC PINION_WITH_CUDA)
    target_link_libraries(${target} PUBLIC CUDA::cudart_static)
    pinion_use_nvlibs(${target})
    # CMake 3.25 knows CUDA dialects up to 17 only, so the flag is spelled out. The suppressed
    # warnings are about host lambdas that functions marked for both sides call, on the host only.
    set(flags -std=c++20 -Xcompiler=-Wall,-Wno-unknown-pragmas
      -diag-suppress=20011,20012,20013,20014,20015)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${flags}>")
  endif()
endfunction()
