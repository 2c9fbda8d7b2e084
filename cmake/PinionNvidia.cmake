# SPDX-License-Identifier: Apache-2.0
# Looks for the headers of cuBLASLt, cuDNN and NCCL, in a CUDA toolkit or among NVIDIA's Python
# packages. Nothing links the libraries: they are opened at run time, and the folders found here
# are among those that they are sought in (kernels/cuda/library.h). Without a header the build
# leaves the library's table out.
#
# PINION_NVIDIA_ROOT (cache or environment) names the folder `nvidia` of a Python environment.
set(PINION_NVIDIA_ROOT "" CACHE PATH "Folder of NVIDIA's Python packages: site-packages/nvidia")

# The folders of NVIDIA's packages in the Python that is first on PATH.
function(pinion_python_nvidia out)
  set(${out} "" PARENT_SCOPE)
  find_program(PINION_PYTHON NAMES python3 python)
  mark_as_advanced(PINION_PYTHON)
  if(NOT PINION_PYTHON)
    return()
  endif()
  execute_process(
    COMMAND ${PINION_PYTHON} -c "import importlib.util as u; s = u.find_spec('nvidia'); \
print(';'.join(s.submodule_search_locations) if s and s.submodule_search_locations else '')"
    OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed)
    set(${out} "${folders}" PARENT_SCOPE)
  endif()
endfunction()

# pinion_find_nvlib(NAME HEADER h LIBRARY l WHEEL w VERSION v): PINION_<NAME>_INCLUDE_DIR and
# PINION_<NAME>_LIBRARY. A header and a library from the same place go together, so the places are
# tried one after another for both.
function(pinion_find_nvlib name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "HEADER;LIBRARY;WHEEL;VERSION" "")
  set(roots ${${name}_ROOT} $ENV{${name}_ROOT})
  foreach(root IN LISTS PINION_NVIDIA_ROOT)
    list(APPEND roots ${root}/${arg_WHEEL})
  endforeach()
  if(NOT "$ENV{PINION_NVIDIA_ROOT}" STREQUAL "")
    list(APPEND roots $ENV{PINION_NVIDIA_ROOT}/${arg_WHEEL})
  endif()
  list(APPEND roots ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_ROOT})
  if(CUDAToolkit_BIN_DIR)
    cmake_path(GET CUDAToolkit_BIN_DIR PARENT_PATH toolkit)
    list(APPEND roots ${toolkit})
  endif()
  list(APPEND roots /usr/local/cuda)
  foreach(folder IN LISTS PINION_NVIDIA_PYTHON)
    list(APPEND roots ${folder}/${arg_WHEEL})
  endforeach()
  set(target targets/${CMAKE_SYSTEM_PROCESSOR}-linux)
  # Python packages have the library under its soname only.
  set(names ${arg_LIBRARY} lib${arg_LIBRARY}.so lib${arg_LIBRARY}.so.${arg_VERSION})
  foreach(root IN LISTS roots ITEMS "")
    if(PINION_${name}_INCLUDE_DIR)
      break()
    endif()
    if(root STREQUAL "")  # CMake's own places
      find_path(PINION_${name}_INCLUDE_DIR ${arg_HEADER})
      find_library(PINION_${name}_LIBRARY NAMES ${names} NAMES_PER_DIR)
    else()
      find_path(PINION_${name}_INCLUDE_DIR ${arg_HEADER} PATHS ${root} NO_DEFAULT_PATH
        PATH_SUFFIXES include ${target}/include)
      if(PINION_${name}_INCLUDE_DIR)
        find_library(PINION_${name}_LIBRARY NAMES ${names} NAMES_PER_DIR PATHS ${root}
          NO_DEFAULT_PATH PATH_SUFFIXES lib lib64 ${target}/lib)
      endif()
    endif()
  endforeach()
  mark_as_advanced(PINION_${name}_INCLUDE_DIR PINION_${name}_LIBRARY)
endfunction()

set(PINION_NVLIBS CUBLASLT CUDNN NCCL)
function(pinion_find_nvlibs)
  pinion_python_nvidia(PINION_NVIDIA_PYTHON)
  pinion_find_nvlib(CUBLASLT HEADER cublasLt.h LIBRARY cublasLt WHEEL cu13 VERSION 13)
  pinion_find_nvlib(CUDNN HEADER cudnn.h LIBRARY cudnn WHEEL cudnn VERSION 9)
  pinion_find_nvlib(NCCL HEADER nccl.h LIBRARY nccl WHEEL nccl VERSION 2)
endfunction()

# What a target needs to include kernels/cuda/{cublaslt,cudnn,nccl}.h, as far as they were found.
function(pinion_use_nvlibs target)
  foreach(name IN LISTS PINION_NVLIBS)
    if(NOT PINION_${name}_INCLUDE_DIR)
      continue()
    endif()
    target_compile_definitions(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:PINION_WITH_${name}>)
    # The toolkit's own headers come first, whatever stands beside the library's.
    target_include_directories(${target} SYSTEM PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:${CUDAToolkit_INCLUDE_DIRS}>
      $<$<COMPILE_LANGUAGE:CXX>:${PINION_${name}_INCLUDE_DIR}>)
    if(PINION_${name}_LIBRARY)
      cmake_path(GET PINION_${name}_LIBRARY PARENT_PATH folder)
      target_compile_definitions(${target} PRIVATE
        $<$<COMPILE_LANGUAGE:CXX>:PINION_${name}_FOLDER="${folder}">)
    endif()
  endforeach()
endfunction()

# Lines of the configure summary.
function(pinion_summarise_nvlibs)
  foreach(name IN LISTS PINION_NVLIBS)
    set(found "left out: its header was not found")
    if(PINION_${name}_LIBRARY)
      set(found "${PINION_${name}_LIBRARY}, opened at run time")
    elseif(PINION_${name}_INCLUDE_DIR)
      set(found "its header; the library is sought at run time")
    endif()
    string(SUBSTRING "${name}            " 0 11 title)
    message(STATUS "  ${title} ${found}")
  endforeach()
endfunction()
