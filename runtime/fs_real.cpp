// SPDX-License-Identifier: Apache-2.0
// The back end that talks to the operating system.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "pinion/runtime/fs.h"

namespace pinion {
namespace {

template <class T>
T or_errno(T result) {
  return result < 0 ? static_cast<T>(-errno) : result;
}

unsigned flags_of(RenameRule rule) {
  return rule == RenameRule::exchange ? RENAME_EXCHANGE : RENAME_NOREPLACE;
}

FileStatus convert(const struct stat& from) {
  const FileKind kind = S_ISREG(from.st_mode)   ? FileKind::regular
                        : S_ISDIR(from.st_mode) ? FileKind::directory
                                                : FileKind::other;
  return {kind, from.st_size};
}

// What openat2 does, for a kernel before 5.6, or a sandbox that does not know the call: folder by
// folder, none of which may be a symbolic link: one is as good as missing then. `path` has no "..".
int open_step_by_step(int directory, const std::string& path, int flags) {
  int at = directory;
  for (size_t begin = 0;;) {
    const size_t slash = path.find('/', begin);
    const std::string name = path.substr(begin, slash - begin);
    const int more = slash == std::string::npos ? 0 : O_DIRECTORY;
    const int fd = or_errno(::openat(at, name.c_str(), flags | more));
    if (at != directory) ::close(at);
    if (fd < 0 || more == 0) return fd;
    at = fd;
    begin = slash + 1;
  }
}

class RealFs final : public Fs {
 public:
  int open(const std::string& path, OpenMode mode) override {
    // O_NONBLOCK: opening a FIFO would wait for its other end. It means nothing to regular files.
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    mode_t permissions = 0666;  // less the process's umask
    switch (mode) {
      case OpenMode::read: flags |= O_RDONLY; break;
      case OpenMode::create_private: permissions = 0600; [[fallthrough]];
      case OpenMode::create: flags |= O_WRONLY | O_CREAT | O_EXCL; break;
      case OpenMode::append: flags |= O_WRONLY | O_CREAT | O_APPEND; break;
      case OpenMode::directory: flags |= O_RDONLY | O_DIRECTORY; break;
    }
    return or_errno(::open(path.c_str(), flags, permissions));
  }
  int open_in(int directory, const std::string& name) override {
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    const long fd = or_errno(::syscall(SYS_openat2, directory, name.c_str(), &how, sizeof how));
    if (fd != -ENOSYS && fd != -EPERM) return static_cast<int>(fd);
    return open_step_by_step(directory, name, static_cast<int>(how.flags));
  }
  int lock(int fd) override { return or_errno(::flock(fd, LOCK_EX | LOCK_NB)); }
  int64_t read(int fd, void* to, size_t bytes, int64_t offset) override {
    return or_errno(::pread(fd, to, bytes, offset));
  }
  int64_t write(int fd, const void* from, size_t bytes) override {
    return or_errno(::write(fd, from, bytes));
  }
  int truncate(int fd, int64_t size) override { return or_errno(::ftruncate(fd, size)); }
  int sync(int fd) override { return or_errno(::fsync(fd)); }
  int close(int fd) override { return or_errno(::close(fd)); }
  int status(int fd, FileStatus& out) override {
    struct stat got {};
    const int result = or_errno(::fstat(fd, &got));
    if (result >= 0) out = convert(got);
    return result;
  }
  int status(const std::string& path, FileStatus& out) override {
    struct stat got {};
    const int result = or_errno(::stat(path.c_str(), &got));
    if (result >= 0) out = convert(got);
    return result;
  }
  int rename(const std::string& from, const std::string& to) override {
    return or_errno(::rename(from.c_str(), to.c_str()));
  }
  int rename2(const std::string& from, const std::string& to, RenameRule rule) override {
    return or_errno(::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags_of(rule)));
  }
  int make_dir(const std::string& path) override { return or_errno(::mkdir(path.c_str(), 0777)); }
  int make_private_dir(const std::string& path) override {
    return or_errno(::mkdir(path.c_str(), 0700));
  }
  int remove_file(const std::string& path) override { return or_errno(::unlink(path.c_str())); }
  int remove_dir(const std::string& path) override { return or_errno(::rmdir(path.c_str())); }
  int list(const std::string& path, std::vector<std::string>& names) override {
    DIR* dir = ::opendir(path.c_str());
    if (!dir) return -errno;
    names.clear();
    errno = 0;
    while (const dirent* entry = ::readdir(dir)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      errno = 0;
    }
    const int error = errno;
    ::closedir(dir);
    return -error;
  }
};

}  // namespace

Fs& real_fs() {
  static RealFs only;
  return only;
}

}  // namespace pinion
