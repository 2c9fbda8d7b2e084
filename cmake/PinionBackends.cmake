# SPDX-License-Identifier: Apache-2.0
# Looks for what Pinion can use but does not need: CUDA, oneDNN, MPI. AUTO takes what is there, ON
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

set(PINION_WITH_MPI OFF)
if(NOT PINION_MPI STREQUAL "OFF")
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI QUIET COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    set(PINION_WITH_MPI ON)
  elseif(NOT PINION_MPI STREQUAL "AUTO")
    message(FATAL_ERROR "PINION_MPI=ON: no MPI was found (Debian: libopenmpi-dev)")
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
    if(PROJECT_IS_TOP_LEVEL)  # programs run from a bundle of tools/gpu_check, beside its libraries
      set(CMAKE_BUILD_RPATH "$ORIGIN/../lib")
      add_link_options(LINKER:--disable-new-dtags)  # for what those libraries need, too
    endif()
  elseif(NOT PINION_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PINION_CUDA=ON: nvcc was not found; put it on PATH or name it in CUDACXX")
  endif()
endif()

# What a target with CUDA sources is compiled with.
function(pinion_cuda_settings target)
  target_compile_definitions(${target} PUBLIC PINION_WITH_CUDA)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
  # CMake 3.25 knows CUDA dialects up to 17 only, so the flag is spelled out. The suppressed
  # warnings are about host lambdas that functions marked for both sides call, on the host only.
  set(flags -std=c++20 -Xcompiler=-Wall,-Wno-unknown-pragmas
    -diag-suppress=20011,20012,20013,20014,20015)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${flags}>")
  if(PROJECT_IS_TOP_LEVEL)  # for tools/kernel_budgets
    set_property(TARGET ${target} PROPERTY CUDA_COMPILER_LAUNCHER
      ${PROJECT_SOURCE_DIR}/tools/nvcc_report ${CMAKE_CUDA_COMPILER_LAUNCHER})
  endif()
endfunction()

# Files that end in _sm90a.cu have instructions that only this architecture has, and are compiled
# for it alone; the host calls them where the device is one.
function(pinion_add_cuda_sources target)
  set(sources ${ARGN})
  set(sm90a ${ARGN})
  list(FILTER sources EXCLUDE REGEX "_sm90a\\.cu$")
  list(FILTER sm90a INCLUDE REGEX "_sm90a\\.cu$")
  target_sources(${target} PRIVATE ${sources})
  pinion_cuda_settings(${target})
  add_library(${target}_sm90a OBJECT ${sm90a})
  pinion_settings(${target}_sm90a)
  target_include_directories(${target}_sm90a PRIVATE
    ${PROJECT_BINARY_DIR}/include ${PROJECT_BINARY_DIR}/tree)
  set_target_properties(${target}_sm90a PROPERTIES CUDA_ARCHITECTURES 90a-real)
  pinion_cuda_settings(${target}_sm90a)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_sm90a>)
endfunction()

# Adds the sources, definitions and libraries of the backends that were found. The functions of MPI
# are a library of their own, which programs open when they run under mpirun.
function(pinion_add_backends target)
  if(PINION_WITH_MPI)
    add_library(pinion_mpi SHARED dist/mpi/mpi_shim.cpp)
    pinion_settings(pinion_mpi)
    target_include_directories(pinion_mpi PRIVATE ${PROJECT_BINARY_DIR}/include)
    target_link_libraries(pinion_mpi PRIVATE MPI::MPI_CXX)
    set_target_properties(pinion_mpi PROPERTIES CXX_VISIBILITY_PRESET hidden
      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  endif()
  if(PINION_WITH_ONEDNN)
    target_include_directories(${target} SYSTEM PRIVATE ${DNNL_INCLUDE_DIR})
    target_compile_definitions(${target} PRIVATE PINION_WITH_ONEDNN)
  endif()
  if(PINION_WITH_CUDA)
    file(GLOB sources CONFIGURE_DEPENDS
      ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cpp ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
    pinion_add_cuda_sources(${target} ${sources})
    pinion_use_nvlibs(${target})
  endif()
endfunction()
