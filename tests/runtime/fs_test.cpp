// SPDX-License-Identifier: Apache-2.0
// Files: what is read and written, what is refused, and that a failure at any call of an atomic
// write leaves the old file or the new one, and nothing beside it.
#include "pinion/runtime/fs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pinion/tests/support/fs_testing.h"

namespace pinion {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Fs, ReadsWhatWasWritten) {
  const TempDir dir;
  std::string bytes(700'000, '\0');  // more than is gathered, and not a multiple of anything
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, bytes.size()}) {
    write_file_atomic(dir / "a", bytes.substr(0, size));
    EXPECT_EQ(read_file(dir / "a", 1 << 20), bytes.substr(0, size));
  }
  EXPECT_THAT(list_dir(dir.path()), ElementsAre("a"));
}

TEST(Fs, AtomicFileGathersPiecesInOrder) {
  const TempDir dir;
  std::string expected;
  AtomicFile file(dir / "a");
  for (int i = 0; i < 1000; ++i) {
    const std::string piece(static_cast<size_t>(i % 7 == 0 ? 300'000 / (i + 1) : i), 'a' + i % 26);
    file.write(piece);
    expected += piece;
  }
  EXPECT_FALSE(exists(dir / "a"));
  file.commit();
  EXPECT_EQ(read_file(dir / "a", 1 << 30), expected);
}

TEST(Fs, AtomicFileWithoutCommitLeavesNothing) {
  const TempDir dir;
  { AtomicFile(dir / "a").write("text"); }
  EXPECT_TRUE(list_dir(dir.path()).empty());
}

TEST(Fs, AtomicWriteTakesTheLongestName) {
  const TempDir dir;
  const std::string name(255, 'n');  // NAME_MAX
  write_file_atomic(dir / name, "text");
  EXPECT_EQ(read_file(dir / name, 10), "text");
}

TEST(Fs, AtomicWriteSyncsTheFileThenRenamesThenSyncsTheDirectory) {
  const TempDir dir;
  FaultyFs faulty;
  const FsGuard guard(faulty);
  write_file_atomic(dir / "a", "text");
  std::vector<std::string> names;
  for (const FaultyFs::Call& call : faulty.calls()) names.push_back(call.name);
  EXPECT_THAT(names,
              ElementsAre("open", "write", "sync", "close", "open", "rename", "sync", "close"));
  EXPECT_EQ(faulty.calls()[6].path, dir.path());
}

TEST(Fs, FailureAtAnyCallLeavesTheOldFileOrTheNewOne) {
  check_every_failure([](const std::string& path) { write_file_atomic(path, "new"); });
}

TEST(Fs, ShortWritesAndReadsAreContinued) {
  const TempDir dir;
  const std::string bytes(500'000, 'x');
  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.shorten_call("write", 1);
  write_file_atomic(dir / "a", bytes);
  EXPECT_TRUE(faulty.fired());
  faulty.shorten_call("read", 1);
  EXPECT_EQ(read_file(dir / "a", 1 << 20), bytes);
  EXPECT_TRUE(faulty.fired());
}

TEST(Fs, FailureAfterAShortWriteLeavesTheOldFile) {
  const TempDir dir;
  write_file_atomic(dir / "a", "old");
  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.shorten_call("write", 1);
  faulty.and_then("write", 2, ENOSPC);
  EXPECT_EQ(error_of([&] { write_file_atomic(dir / "a", std::string(1000, 'x')); }).kind(),
            ErrorKind::io);
  EXPECT_EQ(read_file(dir / "a", 10), "old");
  EXPECT_THAT(list_dir(dir.path()), ElementsAre("a"));
}

TEST(Fs, ErrorsNameOperationPathAndReason) {
  const TempDir dir;
  const Error missing = error_of([&] { read_file(dir / "none", 10); });
  EXPECT_EQ(missing.kind(), ErrorKind::missing);
  EXPECT_EQ(missing.what(), "open: expected an existing file or directory, got '" + (dir / "none") +
                                "', which is not there");
  write_file_atomic(dir / "a", "0123456789");
  EXPECT_EQ(error_of([&] { read_file(dir / "a/b", 10); }).kind(), ErrorKind::missing);
  const Error large = error_of([&] { read_file(dir / "a", 9); });
  EXPECT_EQ(large.kind(), ErrorKind::data);
  EXPECT_THAT(large.what(), HasSubstr("expected at most 9 bytes in '"));
  EXPECT_EQ(error_of([&] { read_file(dir / "a", 9, ErrorKind::config); }).kind(),
            ErrorKind::config);
  const Error io = error_of([&] { write_file_atomic(dir / "none/a", ""); });
  EXPECT_EQ(io.kind(), ErrorKind::io);
  EXPECT_THAT(io.what(), HasSubstr("open: expected success on '" + (dir / "none/.pinion-")));
  EXPECT_THAT(io.what(), HasSubstr("No such file or directory (ENOENT)"));
  char byte[20];
  const File file(dir / "a", OpenMode::read);
  const Error ended = error_of([&] { file.read(byte, 8, 5); });
  EXPECT_EQ(ended.kind(), ErrorKind::data);
  EXPECT_THAT(ended.what(), HasSubstr("read: expected 8 bytes at offset 5 of"));
  EXPECT_EQ(file.read_some(byte, 8, 5), 5u);
}

TEST(Fs, PathsInErrorsAreEscapedAndCheckedForNul) {
  EXPECT_THAT(error_of([] { read_file("/no\n\x1b[31m", 1); }).what(), HasSubstr("/no\\n\\x1b[31m"));
  EXPECT_EQ(error_of([] { read_file(std::string("/etc/passwd\0.png", 16), 1 << 20); }).kind(),
            ErrorKind::usage);
  EXPECT_EQ(error_of([] { write_file_atomic("", ""); }).kind(), ErrorKind::usage);
  EXPECT_EQ(error_of([] { write_file_atomic("/tmp/", ""); }).kind(), ErrorKind::usage);
}

TEST(Fs, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const TempDir dir;
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  alarm(20);  // ends the test if opening waits
  for (const std::string& path : {dir / "fifo", dir.path(), std::string("/dev/null")}) {
    const Error error = error_of([&] { read_file(path, 10); });
    EXPECT_EQ(error.kind(), ErrorKind::data);
    EXPECT_THAT(error.what(), HasSubstr("expected a regular file, got a "));
  }
  EXPECT_EQ(error_of([&] { File(dir / "fifo", OpenMode::append); }).kind(), ErrorKind::io);
  const int reader = open((dir / "fifo").c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(error_of([&] { File(dir / "fifo", OpenMode::append); }).kind(), ErrorKind::data);
  close(reader);
  alarm(0);
  EXPECT_EQ(error_of([&] { write_file_atomic(dir.path(), "x"); }).kind(), ErrorKind::io);
  EXPECT_THAT(list_dir(dir.path()), ElementsAre("fifo"));
}

TEST(Fs, ReadsFilesThatHideTheirSize) {
  EXPECT_THAT(read_file("/proc/self/status", 1 << 20), HasSubstr("Pid:"));
  EXPECT_EQ(error_of([] { read_file("/proc/self/status", 16); }).kind(), ErrorKind::data);
}

TEST(Fs, AppendsAndTruncates) {
  const TempDir dir;
  File first(dir / "log", OpenMode::append), second(dir / "log", OpenMode::append);
  first.write("one\n");
  second.write("two\n");
  first.write("three\n");
  EXPECT_EQ(first.size(), 14);
  EXPECT_EQ(read_file(dir / "log", 100), "one\ntwo\nthree\n");
  second.truncate(4);
  first.write("four\n");
  first.sync();
  first.close();
  EXPECT_FALSE(first.is_open());
  EXPECT_EQ(read_file(dir / "log", 100), "one\nfour\n");
}

TEST(Fs, MovedFilesCloseOnce) {
  const TempDir dir;
  const size_t before = open_descriptors();
  {
    File a(dir / "a", OpenMode::append), b(dir / "b", OpenMode::append);
    File c = std::move(a);
    b = std::move(c);
    b.write("text");
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(read_file(dir / "a", 10), "text");
}

TEST(Fs, MakesListsAndRemovesDirectories) {
  const TempDir dir;
  make_dirs(dir / "a/b/c");
  make_dirs(dir / "a/b/c");  // may exist
  make_dirs(dir / "a//d/");
  write_file_atomic(dir / "a/file", "x");
  EXPECT_THAT(list_dir(dir / "a"), ElementsAre("b", "d", "file"));
  EXPECT_EQ(status_of(dir / "a").kind, FileKind::directory);
  EXPECT_EQ(status_of(dir / "a/file").size, 1);
  const Error blocked = error_of([&] { make_dirs(dir / "a/file/x"); });
  EXPECT_EQ(blocked.kind(), ErrorKind::io);
  EXPECT_THAT(blocked.what(), HasSubstr("mkdir"));
  rename_file(dir / "a/file", dir / "a/other");
  EXPECT_FALSE(exists(dir / "a/file"));
  EXPECT_EQ(error_of([&] { rename_file(dir / "a/file", dir / "a/x"); }).kind(), ErrorKind::io);
  EXPECT_EQ(error_of([&] { remove_dir(dir / "a"); }).kind(), ErrorKind::io);  // not empty
  remove_file(dir / "a/other");
  remove_file(dir / "a/other");  // nothing to do
  remove_dir(dir / "a/d");
  remove_dir(dir / "a/d");
  sync_dir(dir / "a");
  EXPECT_THAT(list_dir(dir / "a"), ElementsAre("b"));
  EXPECT_EQ(error_of([&] { list_dir(dir / "none"); }).kind(), ErrorKind::missing);
  EXPECT_EQ(error_of([&] { status_of(dir / "none"); }).kind(), ErrorKind::missing);
}

TEST(Fs, ParentDir) {
  EXPECT_EQ(parent_dir("name"), ".");
  EXPECT_EQ(parent_dir("/name"), "/");
  EXPECT_EQ(parent_dir("a/b/c"), "a/b");
}

TEST(Fs, GuardRestoresThePreviousBackEnd) {
  FaultyFs outer, inner;
  const FsGuard first(outer);
  {
    const FsGuard second(inner);
    EXPECT_EQ(&fs(), &inner);
  }
  EXPECT_EQ(&fs(), &outer);
}

TEST(Fs, LocksBelongToOneOpenFile) {
  const TempDir dir;
  File first(dir / "lock", OpenMode::append);
  EXPECT_TRUE(first.try_lock());
  EXPECT_TRUE(first.try_lock());  // its own
  File second(dir / "lock", OpenMode::append);
  EXPECT_FALSE(second.try_lock());
  first.close();
  EXPECT_TRUE(second.try_lock());
}

TEST(Fs, RenamesByARule) {
  const TempDir dir;
  make_private_dir(dir / "a");
  EXPECT_EQ(error_of([&] { make_private_dir(dir / "a"); }).kind(), ErrorKind::io);
  make_dirs(dir / "b");
  write_file_atomic(dir / "a/x", "1");
  write_file_atomic(dir / "b/x", "2");
  EXPECT_THAT(error_of([&] { rename_file(dir / "a", dir / "b", RenameRule::no_replace); }).what(),
              testing::HasSubstr("EEXIST"));
  rename_file(dir / "a", dir / "b", RenameRule::exchange);
  EXPECT_EQ(read_file(dir / "a/x", 10), "2");
  EXPECT_EQ(read_file(dir / "b/x", 10), "1");
  rename_file(dir / "a", dir / "c", RenameRule::no_replace);
  EXPECT_THAT(list_dir(dir.path()), testing::ElementsAre("b", "c"));
  EXPECT_EQ(error_of([&] { rename_file(dir / "b", dir / "no", RenameRule::exchange); }).kind(),
            ErrorKind::io);
}

// A network file system, which knows no rules.
TEST(Fs, RenamesWithoutReplacingWhereTheRuleIsNotKnown) {
  const TempDir dir;
  make_dirs(dir / "a");
  make_dirs(dir / "b");
  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.fail_call("rename2", 1, EINVAL);
  EXPECT_THAT(error_of([&] { rename_file(dir / "a", dir / "b", RenameRule::no_replace); }).what(),
              testing::HasSubstr("EEXIST"));
  faulty.fail_call("rename2", 1, EINVAL);
  rename_file(dir / "a", dir / "c", RenameRule::no_replace);
  EXPECT_THAT(list_dir(dir.path()), testing::ElementsAre("b", "c"));
}

TEST(Fs, OpensInADirectoryAndNowhereElse) {
  const TempDir dir;
  make_dirs(dir / "in/sub");
  write_file_atomic(dir / "out", "secret");
  write_file_atomic(dir / "in/file", "text");
  std::filesystem::create_symlink("../out", dir / "in/link");
  std::filesystem::create_symlink("file", dir / "in/near");
  const File in(dir / "in", OpenMode::directory);
  const File file(in, "file");
  EXPECT_EQ(file.size(), 4);
  EXPECT_EQ(file.path(), dir / "in/file");
  write_file_atomic(dir / "in/sub/deep", "below");
  EXPECT_EQ(File(in, "sub/deep").size(), 5);
  std::filesystem::create_symlink("..", dir / "in/up");
  std::filesystem::create_symlink("sub", dir / "in/same");
  for (const char* name : {"../out", "sub/../../out", "/etc/passwd", "..", ".", "", "sub/",
                           "sub//deep", "./file", "link", "near", "up/out", "same/deep", "sub"})
    EXPECT_EQ(error_of([&] { File(in, name); }).kind(), ErrorKind::data) << name;
  for (const char* name : {"none", "sub/x", "none/x", "file/x"})
    EXPECT_EQ(error_of([&] { File(in, name); }).kind(), ErrorKind::missing) << name;
}

}  // namespace
}  // namespace pinion
