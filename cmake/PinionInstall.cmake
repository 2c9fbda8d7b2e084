# SPDX-License-Identifier: Apache-2.0
# Installs the library, its headers and the package file that find_package(pinion) reads.
include(CMakePackageConfigHelpers)

set(PINION_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/pinion)
install(TARGETS pinion EXPORT pinionTargets)
install(FILES pinion.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pinion)
install(DIRECTORY ${PINION_FOLDERS} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pinion
  FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh")
install(EXPORT pinionTargets NAMESPACE pinion:: DESTINATION ${PINION_CMAKE_DIR})
configure_package_config_file(cmake/pinionConfig.cmake.in pinionConfig.cmake
  INSTALL_DESTINATION ${PINION_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(pinionConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/pinionConfig.cmake ${PROJECT_BINARY_DIR}/pinionConfigVersion.cmake
  cmake/FindLibYaml.cmake cmake/FindNettle.cmake DESTINATION ${PINION_CMAKE_DIR})
if(TARGET pinion_mpi)
  install(TARGETS pinion_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
if(TARGET simple_train)
  install(TARGETS simple_train accelerate_train pinion_cli)
endif()
