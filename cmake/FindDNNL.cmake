# SPDX-License-Identifier: Apache-2.0
# Finds the headers of oneDNN: DNNL_FOUND, DNNL_INCLUDE_DIR, DNNL_VERSION, DNNL_VERSION_MAJOR.
# Nothing links the library: Pinion opens it at run time, when it is there. oneDNN's own package
# file is not used because Debian's asks for the OpenCL development files.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h)
find_library(DNNL_LIBRARY dnnl)  # for information only
mark_as_advanced(DNNL_INCLUDE_DIR DNNL_LIBRARY)

if(DNNL_INCLUDE_DIR AND EXISTS ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h)
  set(DNNL_VERSION "")
  foreach(part MAJOR MINOR PATCH)
    file(STRINGS ${DNNL_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h line
      REGEX "^#define DNNL_VERSION_${part} +[0-9]+")
    string(REGEX MATCH "[0-9]+$" DNNL_VERSION_${part} "${line}")
    list(APPEND DNNL_VERSION ${DNNL_VERSION_${part}})
  endforeach()
  list(JOIN DNNL_VERSION "." DNNL_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(DNNL REQUIRED_VARS DNNL_INCLUDE_DIR VERSION_VAR DNNL_VERSION)
