# SPDX-License-Identifier: Apache-2.0
# pinion_add_rungs(target): compiles the kernel files of kernels/cpu once per rung of the ISA ladder
# (kernels/cpu/rung.h says why) and puts the objects into the target's archive.

# Files of kernels/cpu that hold no kernels and are compiled once, for the baseline.
set(PINION_NON_RUNG_FILES parallel isa scratch onednn onednn_conv onednn_table)

set(PINION_AVX2_FLAGS -mavx2 -mfma -mf16c)
set(PINION_AVX512_FLAGS ${PINION_AVX2_FLAGS} -mavx512f -mavx512vl -mavx512bw -mavx512dq
  -mprefer-vector-width=512)
set(PINION_AMX_FLAGS ${PINION_AVX512_FLAGS} -mavx512bf16 -mamx-tile -mamx-bf16)

function(pinion_add_rung target rung vector_bytes)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "SOURCES;FLAGS")
  if(NOT arg_SOURCES)
    return()
  endif()
  set(objects pinion_rung_${rung})
  add_library(${objects} OBJECT ${arg_SOURCES})
  pinion_settings(${objects})
  target_include_directories(${objects} PRIVATE ${PROJECT_BINARY_DIR}/include)
  target_compile_definitions(${objects} PRIVATE
    PINION_RUNG=rung_${rung} PINION_VECTOR_BYTES=${vector_bytes}
    $<$<BOOL:${PINION_WITH_CUDA}>:PINION_WITH_CUDA>)
  # Optimised in every configuration: an inline function that is not inlined would be emitted with
  # the rung's instructions under a name that all rungs share. Debug builds are to have the bits of
  # release builds: GCC fuses products and sums among its expensive optimisations, not at -O1.
  set(debug -O1 $<$<CXX_COMPILER_ID:GNU>:-fexpensive-optimizations>)
  set(optimise -O3)
  if(rung STREQUAL "scalar" AND PINION_LADDER)
    set(optimise -O1)  # it runs on machines older than AVX2, and in tests
  endif()
  target_compile_options(${objects} PRIVATE ${arg_FLAGS}
    "$<IF:$<CONFIG:Debug>,${debug},${optimise}>" -ffp-contract=fast -fno-math-errno
    -fno-trapping-math -Wno-psabi)
  if(NOT rung STREQUAL "scalar")  # the same text again: checking its behaviour once is enough
    set_target_properties(${objects} PROPERTIES CXX_CLANG_TIDY "")
    target_compile_options(${objects} PRIVATE $<$<CONFIG:Debug>:-fno-sanitize=undefined>)
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  set_property(GLOBAL APPEND PROPERTY PINION_RUNG_TARGETS ${objects})
endfunction()

function(pinion_add_rungs target)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cpu/*.cpp)
  set(kernels ${sources})
  list(FILTER kernels EXCLUDE REGEX "_amx\\.cpp$")
  set(amx ${sources})
  list(FILTER amx INCLUDE REGEX "_amx\\.cpp$")
  foreach(name IN LISTS PINION_NON_RUNG_FILES)
    set(file ${PROJECT_SOURCE_DIR}/kernels/cpu/${name}.cpp)
    if(file IN_LIST kernels)
      list(REMOVE_ITEM kernels ${file})
      target_sources(${target} PRIVATE ${file})
    endif()
  endforeach()
  set(PINION_LADDER NO)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(PINION_LADDER YES)
  endif()
  pinion_add_rung(${target} scalar 16 SOURCES ${kernels})
  if(PINION_LADDER)
    pinion_add_rung(${target} avx2 32 SOURCES ${kernels} FLAGS ${PINION_AVX2_FLAGS})
    pinion_add_rung(${target} avx512 64 SOURCES ${kernels} FLAGS ${PINION_AVX512_FLAGS})
    pinion_add_rung(${target} amx 64 SOURCES ${amx} FLAGS ${PINION_AMX_FLAGS})
  endif()
endfunction()
