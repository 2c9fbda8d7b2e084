// SPDX-License-Identifier: Apache-2.0
// The one way to files. Every file operation goes through an Fs, so that a test can make any call
// fail; what most code wants are File, AtomicFile and the functions at the end of this page.
// Errors are missing (an input is not there), data (it is no regular file, too large, or ends
// early) and io (everything else); each names the operation, the path and what the system said.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/kernels/check.h"

namespace pinion {

enum class OpenMode : uint8_t {
  read,            // an existing file
  create,          // to write; the file must not exist yet
  create_private,  // the same for the eyes of this user only
  append,          // to write at the end, whatever it is by then; created when it is not there
  directory,       // only to sync it
};

enum class FileKind : uint8_t { regular, directory, other };
// What renameat2 does beyond rename.
enum class RenameRule : uint8_t {
  no_replace,  // the new name must not exist
  exchange,    // both names must exist, and change places
};
struct FileStatus {
  FileKind kind = FileKind::other;
  int64_t size = 0;
};

// A back end: one virtual function per system call, with its meaning and nothing added. A result
// below zero is -errno; read and write may do less than they were asked.
class Fs {
 public:
  virtual ~Fs() = default;
  virtual int open(const std::string& path, OpenMode mode) = 0;  // a descriptor; never waits
  // A file below the open directory, to read; symbolic links on the way are refused.
  virtual int open_in(int directory, const std::string& name) = 0;
  virtual int lock(int fd) = 0;  // whole, exclusive, until closed; -EWOULDBLOCK when taken
  virtual int64_t read(int fd, void* to, size_t bytes, int64_t offset) = 0;
  virtual int64_t write(int fd, const void* from, size_t bytes) = 0;
  virtual int truncate(int fd, int64_t size) = 0;
  virtual int sync(int fd) = 0;
  virtual int close(int fd) = 0;
  virtual int status(int fd, FileStatus& out) = 0;
  virtual int status(const std::string& path, FileStatus& out) = 0;
  virtual int rename(const std::string& from, const std::string& to) = 0;
  virtual int rename2(const std::string& from, const std::string& to, RenameRule rule) = 0;
  virtual int make_dir(const std::string& path) = 0;
  virtual int make_private_dir(const std::string& path) = 0;  // for this user only
  virtual int remove_file(const std::string& path) = 0;
  virtual int remove_dir(const std::string& path) = 0;  // an empty one
  virtual int list(const std::string& path, std::vector<std::string>& names) = 0;
};

Fs& real_fs();  // the operating system
Fs& fs();       // the process's current back end: the real one but in tests

// Makes `back_end` the current one, for every thread, while the guard lives.
class FsGuard {
 public:
  explicit FsGuard(Fs& back_end);
  ~FsGuard();
  FsGuard(const FsGuard&) = delete;
  FsGuard& operator=(const FsGuard&) = delete;

 private:
  Fs* previous_;
};

// An open regular file (or directory, to sync it). A FIFO, device or socket is refused, not waited
// for. Interrupted calls are repeated, short ones continued.
class File {
 public:
  File(const std::string& path, OpenMode mode);
  // The file at a path below an open directory, to read. "/a", "a//b", "." and ".." are refused,
  // and no symbolic link is followed: nothing outside the directory is ever opened.
  File(const File& directory, const std::string& name);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();  // closes, and cannot report an error: close() what was written

  const std::string& path() const { return path_; }
  bool is_open() const { return fd_ >= 0; }
  int64_t size() const;
  // Up to `bytes` bytes from `offset`; fewer only at the end of the file.
  size_t read_some(void* to, size_t bytes, int64_t offset) const;
  // Exactly `bytes` bytes.
  void read(void* to, size_t bytes, int64_t offset) const;
  void write(const void* from, size_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  void truncate(int64_t size);
  bool try_lock();  // exclusive, until closed; false when another open file holds it
  void sync();      // on failure the data is lost: write a new file, do not sync this one again
  void close();

 private:
  void require_regular();

  Fs* fs_;
  int fd_ = -1;
  std::string path_;
};

// A file that appears whole or not at all: written beside its place under a passing name, made
// durable, then renamed. Without commit() nothing is left. If the very last step fails, which makes
// the directory durable, commit() throws and the path holds the whole new contents.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* from, size_t bytes);  // small pieces are gathered
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  void commit();

 private:
  void flush();

  std::string path_;
  File file_;  // under the passing name
  std::string buffer_;
  bool renamed_ = false;
};

// The whole file; one of more than max_bytes bytes is an error of kind `too_large`.
std::string read_file(const std::string& path, int64_t max_bytes,
                      ErrorKind too_large = ErrorKind::data);
void write_file_atomic(const std::string& path, std::string_view bytes);

bool exists(const std::string& path);  // of any kind
FileStatus status_of(const std::string& path);
std::vector<std::string> list_dir(const std::string& path);  // names, sorted, without . and ..
void make_dirs(const std::string& path);                     // with its parents; may exist
void rename_file(const std::string& from, const std::string& to);  // replaces `to`
// To a name that does not exist; or the two names change places.
void rename_file(const std::string& from, const std::string& to, RenameRule rule);
void make_private_dir(const std::string& path);   // must not exist; its parent must
void remove_file(const std::string& path);        // nothing when it is not there
void remove_dir(const std::string& path);         // an empty one; nothing when it is not there
void sync_dir(const std::string& path);           // makes names created, renamed or removed durable
std::string parent_dir(const std::string& path);  // "." for a bare name

}  // namespace pinion
