# SPDX-License-Identifier: Apache-2.0
# Compiles through ccache where it is installed. Paths under the tree are made relative, so that
# build folders share results. In depend mode, so that a precompiled header is not found again when
# only a comment of a header in it has changed: `#pragma once` compares files whole.
find_program(PINION_CCACHE ccache)
mark_as_advanced(PINION_CCACHE)
if(PINION_CCACHE AND PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
    CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros ${PINION_CCACHE})
endif()
