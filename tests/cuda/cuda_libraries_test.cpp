// SPDX-License-Identifier: Apache-2.0
// How NVIDIA's libraries are found and opened, on libraries of our own making, and NCCL's table on
// NCCL itself. None of it needs a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#ifdef PINION_WITH_CUDA
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "pinion/kernels/cuda/library.h"
#ifdef PINION_WITH_CUDNN
#include "pinion/kernels/cuda/cudnn.h"
#endif
#ifdef PINION_WITH_NCCL
#include "pinion/kernels/cuda/nccl.h"
#include "pinion/tests/support/paths.h"
#endif

namespace pinion::kernels::cuda {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

// An environment variable with another value while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { before_ ? ::setenv(name_, before_->c_str(), 1) : ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

// A folder tree of its own for each test, with copies of the fake library.
class CudaLibraries : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(::testing::TempDir()) /
            ("pinion_libraries_" + std::to_string(::getpid()) + "_" + test->name());
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // The file as the argument says it, below the root; SONAME or none.
  std::string put(const std::string& path, bool with_soname = false) {
    const fs::path to = root_ / path;
    fs::create_directories(to.parent_path());
    const char* from = with_soname ? "libpinion_fake_open.so.9" : "libpinion_fake.so";
    fs::copy_file(fake_library(from), to);
    return to.string();
  }
  std::string at(const std::string& path) const { return (root_ / path).string(); }

  fs::path root_;
};

LibraryName fake(const char* file = "libpinion_fake.so") { return {"Fake", file, 9, "fake", ""}; }

// What opening it says; "opened PATH" when there is no error.
std::string opening(const LibraryName& name) {
  try {
    return "opened " + Library(name).path();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device) << e.what();
    return e.what();
  }
}

TEST_F(CudaLibraries, PythonPackagesComeBeforeToolkits) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia")), home("CUDA_HOME", at("home"));
  const Variable path("CUDA_PATH", at("path"));
  const std::string in_path = put("path/targets/x86_64-linux/lib/libpinion_fake.so.9");
#if defined(__x86_64__)
  EXPECT_EQ(opening(fake()), "opened " + in_path);
#endif
  EXPECT_EQ(opening(fake()), "opened " + put("path/lib/libpinion_fake.so.9"));
  EXPECT_EQ(opening(fake()), "opened " + put("home/lib64/libpinion_fake.so.9"));
  EXPECT_EQ(opening(fake()), "opened " + put("nvidia/fake/lib/libpinion_fake.so.9"));
}

TEST_F(CudaLibraries, TheConfiguredFolderIsLookedInto) {
  const std::string file = put("configured/libpinion_fake.so.9");
  LibraryName name = fake();
  const std::string folder = at("configured");
  name.configured = folder.c_str();
  EXPECT_EQ(opening(name), "opened " + file);
}

TEST_F(CudaLibraries, WhatIsOpenAlreadyIsTaken) {
  const LibraryName name = fake("libpinion_fake_open.so");
  const std::string first = put("one/fake/lib/libpinion_fake_open.so.9", true);
  put("two/fake/lib/libpinion_fake_open.so.9", true);
  {
    const Variable root("PINION_NVIDIA_ROOT", at("one"));
    EXPECT_EQ(opening(name), "opened " + first);
  }
  const Variable root("PINION_NVIDIA_ROOT", at("two"));
  EXPECT_EQ(opening(name), "opened " + first);
}

TEST_F(CudaLibraries, MissingNamesEveryPlace) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia")), home("CUDA_HOME", at("home"));
  const Variable path("CUDA_PATH", "");
  EXPECT_THAT(
      opening(fake()),
      AllOf(HasSubstr("Fake: expected libpinion_fake.so.9 (PINION_NVIDIA_ROOT or CUDA_HOME say"),
            HasSubstr("none in " + at("nvidia/fake/lib") + ", " + at("home/lib64") + ", " +
                      at("home/lib") + ", "),
            HasSubstr("the dynamic loader's folders, /usr/local/cuda/lib64"),
            Not(HasSubstr("found other versions"))));
}

TEST_F(CudaLibraries, AnotherMajorVersionIsNamed) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia")), home("CUDA_HOME", at("home"));
  const std::string newer = put("nvidia/fake/lib/libpinion_fake.so.10");
  const std::string older = put("home/lib64/libpinion_fake.so.8");
  put("home/lib64/libpinion_fake.sock");  // another thing that begins alike
  EXPECT_THAT(opening(fake()), AllOf(HasSubstr("expected libpinion_fake.so.9"),
                                     EndsWith("; found other versions: " + older + ", " + newer)));
}

TEST_F(CudaLibraries, AFileThatIsNoLibraryIsNamed) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia"));
  fs::create_directories(at("nvidia/fake/lib"));
  const std::string file = at("nvidia/fake/lib/libpinion_fake.so.9");
  std::ofstream(file) << "not a library";
  EXPECT_THAT(opening(fake()), HasSubstr("could not open " + file));
}

TEST_F(CudaLibraries, FunctionsAreFoundOrNamed) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia"));
  const std::string file = put("nvidia/fake/lib/libpinion_fake.so.9");
  const Library library(fake());
  int (*answer)() = nullptr;
  library.find(answer, "pinion_fake_answer");
  EXPECT_EQ(answer(), 42);
  try {
    library.find(answer, "pinion_fake_question");
    FAIL() << "found a function that is not there";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device);
    EXPECT_THAT(e.what(), HasSubstr("Fake: expected the function pinion_fake_question in " + file));
  }
  EXPECT_NO_THROW(library.check_major(9));
  try {
    library.check_major(8);
    FAIL() << "took another major version";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), ("Fake: expected version 9, got version 8 in " + file).c_str());
  }
}

#ifdef PINION_WITH_CUDNN
TEST_F(CudaLibraries, ATableIsWholeOrNotAtAll) {
  const Variable root("PINION_NVIDIA_ROOT", at("nvidia"));
  const std::string file = put("nvidia/fake/lib/libpinion_fake.so.9");
  const auto text = [] {
    try {
      Cudnn::open(fake());
      return std::string("opened");
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::device);
      return std::string(e.what());
    }
  };
  EXPECT_THAT(text(), HasSubstr("Fake: expected its part libcudnn_graph.so.9 beside " + file));
  put("nvidia/fake/lib/libcudnn_graph.so.9");
  EXPECT_THAT(text(), HasSubstr("Fake: expected the function cudnnGetErrorString in " + file));
}
#endif

#ifdef PINION_WITH_NCCL
TEST(NcclTable, SaysItsVersionWithoutADevice) {
  try {
    const Library there(kNccl);
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  const Nccl& table = nccl();
  EXPECT_EQ(table.version / 10000, 2);
  int version = 0;
  EXPECT_EQ(table.GetVersion(&version), ncclSuccess);
  EXPECT_EQ(version, table.version);
  EXPECT_NE(table.GetErrorString(ncclSuccess), nullptr);
}
#endif

}  // namespace
}  // namespace pinion::kernels::cuda

#else

TEST(CudaLibraries, AreOfBuildsWithCuda) { GTEST_SKIP() << "a build without CUDA opens none"; }

#endif
