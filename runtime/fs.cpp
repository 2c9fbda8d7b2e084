// SPDX-License-Identifier: Apache-2.0
// Files over an Fs: repetition of interrupted calls, continuation of short ones, error texts, and
// the order of steps that makes a replacement atomic and durable.
#include "pinion/runtime/fs.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "pinion/runtime/log.h"

namespace pinion {
namespace {

constexpr size_t kPathLimit = 4096;          // bytes of a path shown in a message: PATH_MAX
constexpr size_t kGatherBytes = 256 * 1024;  // pieces below this are gathered before a write

std::atomic<Fs*> current_fs{nullptr};

[[noreturn]] void fail_call(const char* call, const std::string& path, int64_t result) {
  const int error = static_cast<int>(-result);
  const char* name = strerrorname_np(error);
  const char* text = strerrordesc_np(error);
  fail(ErrorKind::io, {call, ": expected success on ", quoted(path, kPathLimit), ", got ",
                       text ? text : "an unknown error", " (", name ? name : "?", ")"});
}

template <class Call>
auto repeated(Call&& call) {
  auto result = call();
  while (result == -EINTR) result = call();
  return result;
}

void require(const char* call, const std::string& path, int64_t result) {
  if (result < 0) fail_call(call, path, result);
}

// A relative path of plain names: no "", "." or ".." between its slashes.
bool stays_below(std::string_view path) {
  if (path.find('\0') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view name = path.substr(begin, end - begin);
    if (name.empty() || name == "." || name == "..") return false;
    begin = end + 1;
  }
  return true;
}

bool is_missing(int64_t result) { return result == -ENOENT || result == -ENOTDIR; }

[[noreturn]] void fail_missing(const char* call, const std::string& path) {
  fail(ErrorKind::missing, {call, ": expected an existing file or directory, got ",
                            quoted(path, kPathLimit), ", which is not there"});
}

const char* name_of(FileKind kind) {
  switch (kind) {
    case FileKind::regular: return "a regular file";
    case FileKind::directory: return "a directory";
    case FileKind::other: break;
  }
  return "a FIFO, socket or device";
}

// A name beside `path` that no other writer uses, on this host or another. It does not contain the
// file's own name, which may already be as long as names can be.
std::string passing_name(const std::string& path) {
  PINION_REQUIRE(usage, !path.empty() && path.back() != '/',
                 "write: expected the name of a file, got ", quoted(path, kPathLimit));
  static std::atomic<uint64_t> count{0};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return cat({parent_dir(path), "/.pinion-", static_cast<long>(getpid()), "-", now.tv_sec, "-",
              now.tv_nsec, "-", count.fetch_add(1, std::memory_order_relaxed), ".tmp"});
}

}  // namespace

Fs& fs() {
  Fs* current = current_fs.load(std::memory_order_acquire);
  return current ? *current : real_fs();
}

FsGuard::FsGuard(Fs& back_end) : previous_(current_fs.exchange(&back_end)) {}
FsGuard::~FsGuard() { current_fs.store(previous_); }

File::File(const std::string& path, OpenMode mode) : fs_(&fs()), path_(path) {
  PINION_REQUIRE(usage, path.find('\0') == std::string::npos,
                 "open: expected a path without NUL bytes, got ", quoted(path, kPathLimit));
  const int fd = repeated([&] { return fs_->open(path, mode); });
  const bool reads = mode == OpenMode::read || mode == OpenMode::directory;
  if (reads && is_missing(fd)) fail_missing("open", path);
  require("open", path, fd);
  fd_ = fd;
  if (mode == OpenMode::read || mode == OpenMode::append) require_regular();  // else open checked
}

File::File(const File& directory, const std::string& name)
    : fs_(directory.fs_), path_(directory.path_ + "/" + name) {
  PINION_REQUIRE(data, stays_below(name), "open: expected the path of a file below ",
                 quoted(directory.path_, kPathLimit), ", got ", quoted(name, kPathLimit));
  const int fd = repeated([&] { return fs_->open_in(directory.fd_, name); });
  if (is_missing(fd)) fail_missing("open", path_);
  PINION_REQUIRE(data, fd != -ELOOP,
                 "open: expected a regular file, got a symbolic link: ", quoted(path_, kPathLimit));
  require("open", path_, fd);
  fd_ = fd;
  require_regular();
}

void File::require_regular() {
  FileStatus status;
  const int result = repeated([&] { return fs_->status(fd_, status); });
  if (result >= 0 && status.kind == FileKind::regular) return;
  fs_->close(std::exchange(fd_, -1));
  require("status", path_, result);
  fail(ErrorKind::data, {"open: expected a regular file, got ", name_of(status.kind), ": ",
                         quoted(path_, kPathLimit)});
}

File::File(File&& other) noexcept
    : fs_(other.fs_), fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fs_, other.fs_);
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) fs_->close(fd_);
}

int64_t File::size() const {
  FileStatus status;
  require("status", path_, repeated([&] { return fs_->status(fd_, status); }));
  return status.size;
}

size_t File::read_some(void* to, size_t bytes, int64_t offset) const {
  size_t done = 0;
  while (done < bytes) {
    const int64_t result = repeated([&] {
      return fs_->read(fd_, static_cast<char*>(to) + done, bytes - done,
                       offset + static_cast<int64_t>(done));
    });
    require("read", path_, result);
    if (result == 0) break;
    done += static_cast<size_t>(result);
  }
  return done;
}

void File::read(void* to, size_t bytes, int64_t offset) const {
  const size_t got = read_some(to, bytes, offset);
  PINION_REQUIRE(data, got == bytes, "read: expected ", bytes, " bytes at offset ", offset, " of ",
                 quoted(path_, kPathLimit), ", got ", got);
}

void File::write(const void* from, size_t bytes) {
  size_t done = 0;
  while (done < bytes) {
    const int64_t result = repeated(
        [&] { return fs_->write(fd_, static_cast<const char*>(from) + done, bytes - done); });
    // A device that takes nothing and gives no reason would otherwise keep us here.
    require("write", path_, result == 0 ? -EIO : result);
    done += static_cast<size_t>(result);
  }
}

void File::truncate(int64_t size) {
  require("truncate", path_, repeated([&] { return fs_->truncate(fd_, size); }));
}

bool File::try_lock() {
  const int result = repeated([&] { return fs_->lock(fd_); });
  if (result == -EWOULDBLOCK) return false;
  require("flock", path_, result);
  return true;
}

void File::sync() {
  const int result = repeated([&] { return fs_->sync(fd_); });
  // Some network file systems cannot sync a directory, and say that the call makes no sense.
  if (result != -EINVAL) require("fsync", path_, result);
}

void File::close() {
  if (fd_ < 0) return;
  const int result = fs_->close(std::exchange(fd_, -1));
  // Linux has released the descriptor when close is interrupted; again would close another file.
  if (result != -EINTR) require("close", path_, result);
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), file_(passing_name(path_), OpenMode::create) {}

AtomicFile::~AtomicFile() {
  if (renamed_) return;
  try {
    file_.close();
  } catch (const Error&) {  // the error that brought us here is the one to report
  }
  fs().remove_file(file_.path());
}

void AtomicFile::write(const void* from, size_t bytes) {
  if (buffer_.size() + bytes > kGatherBytes) flush();
  if (bytes > kGatherBytes)
    file_.write(from, bytes);
  else
    buffer_.append(static_cast<const char*>(from), bytes);
}

void AtomicFile::flush() {
  file_.write(buffer_);
  buffer_.clear();
}

void AtomicFile::commit() {
  flush();
  file_.sync();
  file_.close();
  File directory(parent_dir(path_), OpenMode::directory);  // opened while failing costs nothing
  require("rename", path_, fs().rename(file_.path(), path_));
  renamed_ = true;
  directory.sync();
}

std::string read_file(const std::string& path, int64_t max_bytes, ErrorKind too_large) {
  const File file(path, OpenMode::read);
  const int64_t size = file.size();
  const auto check = [&](int64_t got) {
    if (got > max_bytes)
      fail(too_large, {"read: expected at most ", max_bytes, " bytes in ", quoted(path, kPathLimit),
                       ", got ", got, " or more"});
  };
  check(size);
  // The size is a hint: files of /proc say 0, and another process may be writing. One byte more
  // than expected tells whether the end was reached.
  std::string bytes;
  constexpr size_t kStep = 64 * 1024;
  for (size_t want = static_cast<size_t>(size) + 1;; want = bytes.size() + kStep) {
    const size_t had = bytes.size();
    bytes.resize(want);
    const size_t got = file.read_some(bytes.data() + had, want - had, static_cast<int64_t>(had));
    bytes.resize(had + got);
    check(static_cast<int64_t>(bytes.size()));
    if (had + got < want) return bytes;
  }
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

bool exists(const std::string& path) {
  FileStatus status;
  const int result = repeated([&] { return fs().status(path, status); });
  if (is_missing(result)) return false;
  require("status", path, result);
  return true;
}

FileStatus status_of(const std::string& path) {
  FileStatus status;
  const int result = repeated([&] { return fs().status(path, status); });
  if (is_missing(result)) fail_missing("status", path);
  require("status", path, result);
  return status;
}

std::vector<std::string> list_dir(const std::string& path) {
  std::vector<std::string> names;
  const int result = fs().list(path, names);
  if (result == -ENOENT) fail_missing("list", path);
  require("list", path, result);
  std::sort(names.begin(), names.end());
  return names;
}

void make_dirs(const std::string& path) {
  PINION_REQUIRE(usage, !path.empty(), "mkdir: expected the name of a directory, got ''");
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    const int result = repeated([&] { return fs().make_dir(part); });
    if (result < 0) {  // an existing directory may answer EEXIST, EISDIR or EROFS
      FileStatus status;
      const int looked = fs().status(part, status);
      PINION_REQUIRE(io, looked < 0 || status.kind == FileKind::directory, "mkdir: expected ",
                     quoted(path), " to lie below directories, but ", quoted(part), " is a file");
      if (looked < 0) fail_call("mkdir", part, result);
    }
    if (end == std::string::npos) return;
  }
}

void rename_file(const std::string& from, const std::string& to) {
  const int result = fs().rename(from, to);
  if (result < 0) fail_call("rename", from + " -> " + to, result);
}

void rename_file(const std::string& from, const std::string& to, RenameRule rule) {
  int result = fs().rename2(from, to, rule);
  // Network file systems do not know the rule. Of directories, rename replaces none with contents.
  if ((result == -EINVAL || result == -ENOSYS) && rule == RenameRule::no_replace)
    result = exists(to) ? -EEXIST : fs().rename(from, to);
  if (result < 0) fail_call("renameat2", from + " -> " + to, result);
}

void make_private_dir(const std::string& path) {
  require("mkdir", path, repeated([&] { return fs().make_private_dir(path); }));
}

void remove_file(const std::string& path) {
  const int result = repeated([&] { return fs().remove_file(path); });
  if (!is_missing(result)) require("unlink", path, result);
}

void remove_dir(const std::string& path) {
  const int result = repeated([&] { return fs().remove_dir(path); });
  if (!is_missing(result)) require("rmdir", path, result);
}

void sync_dir(const std::string& path) { File(path, OpenMode::directory).sync(); }

std::string parent_dir(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace pinion
