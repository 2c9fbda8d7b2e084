# SPDX-License-Identifier: Apache-2.0
# pinion_settings(target): the language level, code generation and warnings that every target of
# this project is compiled with. None of it reaches a program that links the library.

option(PINION_WERROR "Treat warnings as errors" OFF)

# What __FILE__ says in an error text: "runtime/tensor.cpp", wherever the tree and the build folder
# lie, and whether or not a compiler launcher made the paths relative.
file(RELATIVE_PATH PINION_RELATIVE_SOURCE_DIR ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR})
set(PINION_PREFIX_MAPS
  -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=
  -fmacro-prefix-map=${PINION_RELATIVE_SOURCE_DIR}=
  -fmacro-prefix-map=include/pinion/=)

function(pinion_settings target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;${PINION_PREFIX_MAPS}>
    # Options are given as {.lr = 0.1}: what is left out has its default.
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>
    # Thread-local variables at a fixed offset, also from within a shared library that embeds us.
    $<$<COMPILE_LANGUAGE:CXX>:-ftls-model=initial-exec>
    # Position-independent code may otherwise not inline functions of its own file. The two warnings
    # are wrong about std::string in GCC 12 (its bugs 105651 and 105329).
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-semantic-interposition;-Wno-restrict>
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-stringop-overflow>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${PINION_WERROR}>>:-Werror>)
endfunction()
