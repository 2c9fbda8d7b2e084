// SPDX-License-Identifier: Apache-2.0
// What tests of files need: a directory that goes away, and a back end that records every call and
// fails or shortens the one it is told to.
#pragma once

#include <gmock/gmock.h>
#include <stdlib.h>
#include <string.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "pinion/runtime/fs.h"

namespace pinion {

class TempDir {
 public:
  TempDir() {
    std::string pattern = std::filesystem::temp_directory_path() / "pinion-test-XXXXXX";
    if (!mkdtemp(pattern.data())) fail(ErrorKind::io, {"mkdtemp failed on ", pattern});
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class FaultyFs final : public Fs {
 public:
  struct Call {
    std::string name;  // open, read, write, truncate, sync, close, status, rename, mkdir, ...
    std::string path;
  };
  const std::vector<Call>& calls() const { return calls_; }

  // Call k (from 1) of the named operation, or of all operations for "any", fails with `error`.
  void fail_call(std::string name, int k, int error) {
    faults_ = {{std::move(name), k, error}};
    calls_.clear();
    fired_at_ = 0;
  }
  // Likewise, beside the faults already set.
  void and_then(std::string name, int k, int error) {
    faults_.push_back({std::move(name), k, error});
  }
  // Read or write k does half of what it is asked.
  void shorten_call(std::string name, int k) { fail_call(std::move(name), k, 0); }
  bool fired() const { return fired_at_ > 0; }
  const Call& fired_call() const { return calls_[fired_at_ - 1]; }

  int open(const std::string& path, OpenMode mode) override {
    if (const int error = next("open", path)) return error;
    const int fd = base_.open(path, mode);
    if (fd >= 0) paths_[fd] = path;
    return fd;
  }
  int open_in(int directory, const std::string& name) override {
    const std::string path = paths_[directory] + "/" + name;
    if (const int error = next("open_in", path)) return error;
    const int fd = base_.open_in(directory, name);
    if (fd >= 0) paths_[fd] = path;
    return fd;
  }
  int lock(int fd) override {
    const int error = next("lock", paths_[fd]);
    return error ? error : base_.lock(fd);
  }
  int64_t read(int fd, void* to, size_t bytes, int64_t offset) override {
    if (const int error = next("read", paths_[fd])) return error;
    return base_.read(fd, to, shortened(bytes), offset);
  }
  int64_t write(int fd, const void* from, size_t bytes) override {
    if (const int error = next("write", paths_[fd])) return error;
    return base_.write(fd, from, shortened(bytes));
  }
  int truncate(int fd, int64_t size) override {
    const int error = next("truncate", paths_[fd]);
    return error ? error : base_.truncate(fd, size);
  }
  int sync(int fd) override {
    const int error = next("sync", paths_[fd]);
    return error ? error : base_.sync(fd);
  }
  int close(int fd) override {  // Linux releases the descriptor even when it reports an error
    const int error = next("close", paths_[fd]);
    const int result = base_.close(fd);
    return error ? error : result;
  }
  int status(int fd, FileStatus& out) override {
    const int error = next("status", paths_[fd]);
    return error ? error : base_.status(fd, out);
  }
  int status(const std::string& path, FileStatus& out) override {
    const int error = next("status", path);
    return error ? error : base_.status(path, out);
  }
  int rename(const std::string& from, const std::string& to) override {
    const int error = next("rename", to);
    return error ? error : base_.rename(from, to);
  }
  int rename2(const std::string& from, const std::string& to, RenameRule rule) override {
    const int error = next("rename2", to);
    return error ? error : base_.rename2(from, to, rule);
  }
  int make_private_dir(const std::string& path) override {
    const int error = next("mkdir", path);
    return error ? error : base_.make_private_dir(path);
  }
  int make_dir(const std::string& path) override {
    const int error = next("mkdir", path);
    return error ? error : base_.make_dir(path);
  }
  int remove_file(const std::string& path) override {
    const int error = next("unlink", path);
    return error ? error : base_.remove_file(path);
  }
  int remove_dir(const std::string& path) override {
    const int error = next("rmdir", path);
    return error ? error : base_.remove_dir(path);
  }
  int list(const std::string& path, std::vector<std::string>& names) override {
    const int error = next("list", path);
    return error ? error : base_.list(path, names);
  }

 private:
  struct Fault {
    std::string name;
    int countdown = 0;  // fires when it reaches zero
    int error = 0;      // 0: shortens instead
  };

  // Records the call; the negative error when it is the one to fail.
  int next(const char* name, const std::string& path) {
    calls_.push_back({name, path});
    shorten_ = false;
    int error = 0;
    for (Fault& fault : faults_) {
      const bool counts = fault.name == "any" || fault.name == name;
      if (!counts || fault.countdown == 0 || --fault.countdown > 0) continue;
      fired_at_ = calls_.size();
      shorten_ = fault.error == 0;
      error = fault.error;
    }
    return -error;
  }
  size_t shortened(size_t bytes) const { return shorten_ && bytes > 1 ? bytes / 2 : bytes; }

  Fs& base_ = real_fs();
  std::vector<Call> calls_;
  std::map<int, std::string> paths_;
  std::vector<Fault> faults_;
  size_t fired_at_ = 0;
  bool shorten_ = false;
};

// Descriptors that this process has open: equal before and after where nothing leaks.
inline size_t open_descriptors() { return list_dir("/proc/self/fd").size(); }

// The error of a call that must throw one; kind and text are then for the test to check.
template <class F>
Error error_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorKind::internal, "no error was thrown");
}

// Runs save(path) over an existing file with call k of the back end failing, for every k and
// several reasons. Whatever happens, the file must be the old or the new one, whole; nothing may
// stand beside it, no descriptor may stay open, and the error must name operation, path and reason.
template <class Save>
void check_every_failure(const Save& save) {
  const TempDir dir;
  const std::string path = dir / "a";
  save(path);
  const std::string fresh = read_file(path, 1 << 30);
  int failures = 0;
  for (const int reason : {ENOSPC, EIO, EDQUOT, EROFS, EINTR}) {
    for (int k = 1;; ++k) {
      SCOPED_TRACE(testing::Message() << strerror(reason) << " at call " << k);
      ASSERT_LT(k, 1000);
      write_file_atomic(path, "old");
      const size_t descriptors = open_descriptors();
      FaultyFs faulty;
      faulty.fail_call("any", k, reason);
      bool thrown = false;
      try {
        const FsGuard guard(faulty);
        save(path);
      } catch (const Error& error) {
        thrown = true;
        EXPECT_EQ(error.kind(), ErrorKind::io);
        EXPECT_THAT(error.what(), testing::HasSubstr(faulty.fired_call().path));
        EXPECT_THAT(error.what(), testing::HasSubstr(strerror(reason)));
      }
      EXPECT_EQ(open_descriptors(), descriptors);
      EXPECT_THAT(list_dir(dir.path()), testing::ElementsAre("a"));
      const std::string now = read_file(path, 1 << 30);
      EXPECT_TRUE(now == fresh || (thrown && now == "old"));
      if (!faulty.fired()) break;
      const FaultyFs::Call& fired = faulty.fired_call();
      // Only what follows the rename may fail with the new file in place.
      EXPECT_TRUE(!thrown || now == "old" || fired.path == dir.path());
      // Interruptions are repeated, except of a rename, which may have happened. The directory was
      // only synced: its close has nothing to report.
      const bool harmless = (reason == EINTR && fired.name != "rename") ||
                            (fired.name == "close" && fired.path == dir.path());
      EXPECT_EQ(thrown, !harmless);
      failures += thrown;
    }
  }
  EXPECT_GE(failures, 4 * 7);  // open, write, sync, close, open, rename and sync at the least
}

}  // namespace pinion
