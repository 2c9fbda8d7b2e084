# SPDX-License-Identifier: Apache-2.0
# Installs the build into an empty prefix, then configures, builds and runs the program of
# tests/house/consumer against it with find_package(pinion), as a user of the library would.
foreach(name BUILD_DIR VERSION GENERATOR COMPILER)
  if(NOT DEFINED ${name})
    message(FATAL_ERROR "install_test: expected -D ${name}=...")
  endif()
endforeach()
set(work ${BUILD_DIR}/install_test)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "install_test: expected status 0, got ${status} from ${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# The consumer must not find its way back into the source tree.
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${work}/prefix)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${work}/build -G ${GENERATOR}
  -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_BUILD_TYPE=${BUILD_TYPE} -D CMAKE_CXX_FLAGS=${FLAGS}
  -D CMAKE_PREFIX_PATH=${work}/prefix -D PINION_VERSION=${VERSION})
run(${CMAKE_COMMAND} --build ${work}/build)
run(${work}/build/consumer)
if(NOT output STREQUAL "y = 32, dy/dx = [4,5,6]\n")
  message(FATAL_ERROR "install_test: expected y = 32, dy/dx = [4,5,6], got ${output}")
endif()
file(REMOVE_RECURSE ${work})
