// SPDX-License-Identifier: Apache-2.0
// Where the library with MPI's functions is sought.
#include "pinion/dist/mpi/mpi_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

constexpr const char* kFile = "libpinion_mpi.so";

std::string program_folder() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  const std::string text(path, size > 0 ? static_cast<size_t>(size) : 0);
  return text.substr(0, text.rfind('/') + 1);
}

const PinionMpi* open_library() {
  std::vector<std::string> places;
  if (const char* chosen = std::getenv("PINION_MPI_LIBRARY"))
    places = {chosen};
  else
    places = {program_folder() + kFile, program_folder() + "../lib/" + kFile, kFile};
  std::string tried;
  for (const std::string& place : places) {
    // Global, because MPI opens parts of itself that look for its functions.
    void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
      tried += cat({"\n  ", dlerror()});
      continue;
    }
    const auto table = reinterpret_cast<decltype(&pinion_mpi)>(dlsym(library, "pinion_mpi"));
    if (table && table()->version == kPinionMpiVersion) return table();
    tried += cat({"\n  ", place, ": of another version"});
  }
  fail(ErrorKind::config,
       {"mpi: expected ", kFile, ", which is built where an MPI is found; tried:", tried});
}

}  // namespace

const PinionMpi& mpi_library() {
  static const PinionMpi* table = open_library();  // tried again after an error
  return *table;
}

}  // namespace pinion::dist
