// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace pinion::kernels::cuda {
namespace {

#if defined(__aarch64__)
constexpr const char* kTarget = "sbsa-linux";
#else
constexpr const char* kTarget = "x86_64-linux";
#endif

std::string soname(const LibraryName& name) { return cat({name.file, ".", name.major}); }

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

void add_toolkit(std::vector<std::string>& folders, const std::string& root) {
  for (const std::string& lib :
       {std::string("lib64"), std::string("lib"), std::string("targets/") + kTarget + "/lib"})
    folders.push_back(root + "/" + lib);
}

// The folders to look into before and after the dynamic loader's own.
struct Folders {
  std::vector<std::string> before, after;
};

Folders folders_of(const LibraryName& name) {
  Folders f;
  if (const char* root = variable("PINION_NVIDIA_ROOT"))
    f.before.push_back(cat({root, "/", name.wheel, "/lib"}));
  for (const char* toolkit : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* root = variable(toolkit)) add_toolkit(f.before, root);
  if (*name.configured) f.before.emplace_back(name.configured);
  add_toolkit(f.after, "/usr/local/cuda");
  return f;
}

// Files of the library in a folder, with any version or none behind their name.
void add_others(std::vector<std::string>& others, const std::string& folder,
                const LibraryName& name) {
  DIR* const dir = opendir(folder.c_str());
  if (!dir) return;
  const size_t length = std::strlen(name.file);
  while (const dirent* entry = readdir(dir)) {
    const char* rest = entry->d_name + length;
    if (std::strncmp(entry->d_name, name.file, length) != 0) continue;
    if ((*rest && *rest != '.') || soname(name) == entry->d_name) continue;
    others.push_back(folder + "/" + entry->d_name);
  }
  closedir(dir);
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& p : parts) text += (text.empty() ? "" : ", ") + p;
  return text;
}

[[noreturn]] void fail_missing(const LibraryName& name, const Folders& folders,
                               const std::vector<std::string>& refused) {
  std::vector<std::string> places = folders.before, others;
  places.emplace_back("the dynamic loader's folders");
  places.insert(places.end(), folders.after.begin(), folders.after.end());
  for (const std::string& place : places) add_others(others, place, name);
  std::sort(others.begin(), others.end());
  std::string got = refused.empty() ? "" : "; could not open " + joined(refused);
  if (!others.empty()) got += "; found other versions: " + joined(others);
  fail(ErrorKind::device,
       {name.name, ": expected ", soname(name),
        " (PINION_NVIDIA_ROOT or CUDA_HOME say where), got ", "none in ", joined(places), got});
}

// The path of an open library, as the loader knows it.
std::string path_of(void* handle, const std::string& otherwise) {
  char folder[4096];  // PATH_MAX
  if (dlinfo(handle, RTLD_DI_ORIGIN, folder) != 0) return otherwise;
  return std::string(folder) + "/" + otherwise.substr(otherwise.rfind('/') + 1);
}

}  // namespace

Library::Library(const LibraryName& name) : name_(name) {
  const std::string file = soname(name);
  const Folders folders = folders_of(name);
  std::vector<std::string> refused;
  const auto open = [&](const std::string& path, int flags) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
    if (!handle_ && path != file) refused.emplace_back(dlerror());
    return handle_ != nullptr;
  };
  const auto open_in = [&](const std::vector<std::string>& list) {
    return std::any_of(list.begin(), list.end(), [&](const std::string& folder) {
      const std::string path = folder + "/" + file;
      return access(path.c_str(), F_OK) == 0 && open(path, 0);
    });
  };
  if (!open(file, RTLD_NOLOAD) && !open_in(folders.before) && !open(file, 0) &&
      !open_in(folders.after))
    fail_missing(name, folders, refused);
  path_ = path_of(handle_, file);
}

void* Library::address(const char* symbol) const {
  void* const found = dlsym(handle_, symbol);
  PINION_REQUIRE(device, found, name_.name, ": expected the function ", symbol, " in ", path_,
                 ", got none: the library is damaged, or older than Pinion needs");
  return found;
}

void Library::open_beside(const char* file) const {
  const std::string part = path_.substr(0, path_.rfind('/') + 1) + file;
  PINION_REQUIRE(device, dlopen(part.c_str(), RTLD_NOW | RTLD_LOCAL), name_.name,
                 ": expected its part ", file, " beside ", path_, ", got ", dlerror());
}

void Library::check_major(int got) const {
  PINION_REQUIRE(device, got == name_.major, name_.name, ": expected version ", name_.major,
                 ", got version ", got, " in ", path_);
}

}  // namespace pinion::kernels::cuda
