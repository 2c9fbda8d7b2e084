// SPDX-License-Identifier: Apache-2.0
// pinion config as people meet it: its questions on a pseudo-terminal, its flags without one.
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config_testing.h"
#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/accel/checkpoint/parts.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"
#include "pinion/tests/support/paths.h"

namespace pinion::accel {
namespace {

// `pinion config --config_file=PATH` on a terminal of its own.
class Session {
 public:
  explicit Session(const std::string& path) {
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      const std::string flag = "--config_file=" + path;
      execl(in_build("pinion").c_str(), "pinion", "config", flag.c_str(), nullptr);
      _exit(127);
    }
  }
  ~Session() {
    if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
    close(terminal_);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Waits until the program has printed `question` since the last answer, then types.
  void answer(const std::string& question, const std::string& keys) {
    while (output_.find(question, seen_) == output_.npos)
      if (!read_more()) FAIL() << "waiting for '" << question << "', got:\n" << output_;
    seen_ = output_.size();
    ASSERT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  int finish() {
    while (read_more()) {
    }
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& output() const { return output_; }

 private:
  bool read_more() {
    pollfd fd{terminal_, POLLIN, 0};
    if (poll(&fd, 1, 30'000) <= 0) return false;
    char bytes[4096];
    const ssize_t n = read(terminal_, bytes, sizeof bytes);
    if (n > 0) output_.append(bytes, static_cast<size_t>(n));
    return n > 0;
  }

  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string output_;
  size_t seen_ = 0;
};

std::string contents(const std::string& path) { return read_file(path, 1 << 20); }

TEST(ConfigCommand, AsksAndWritesWhatWasAnswered) {
  const TempDir dir;
  const std::string path = dir / "answers.yaml";
  Session session(path);
  session.answer("2 several GPUs", "j");              // to several CPU ranks
  session.answer("> 1 several CPU ranks", "\x1b[B");  // to several GPUs
  session.answer("> 2 several GPUs", "k\r");          // and back
  session.answer("How many machines? [1]: ", "two\n");
  session.answer("expected an integer from 1 to 65536\r\nHow many machines? [1]: ", "2\n");
  session.answer("address of machine 0", "10.0.0.1\n");
  session.answer("Which port", "\n");
  session.answer("Which of them", "2\n");
  session.answer("expected less than num_machines, got 2", "1\n");
  session.answer("mpirun", "perhaps\n");
  session.answer("expected yes or no, got 'perhaps'", "NO\n");
  session.answer("ZeRO", "y\n");
  session.answer("> 2 optimizer state and gradients", "1\r");
  session.answer("micro-batches", "4\n");
  session.answer("norm of the gradient", "yes\n");
  session.answer("To which norm? [1]", "0.5\n");
  session.answer("How many ranks", "3\n");
  session.answer("expected a multiple of num_machines, got 3", "4\n");
  session.answer("CPUs of its own", "no\n");
  session.answer("> 0 no", "\x1b[A\r");  // up from the first is the last
  EXPECT_EQ(session.finish(), 0) << session.output();
  EXPECT_NE(session.output().find("wrote " + path), std::string::npos);
  EXPECT_EQ(contents(path),
            "compute_environment: LOCAL_MACHINE\n"
            "debug: false\n"
            "deepspeed_config:\n"
            "  gradient_accumulation_steps: 4\n"
            "  gradient_clipping: 0.5\n"
            "  zero_stage: 1\n"
            "distributed_type: DEEPSPEED\n"
            "downcast_bf16: false\n"
            "enable_cpu_affinity: false\n"
            "gpu_ids: all\n"
            "machine_rank: 1\n"
            "main_process_ip: 10.0.0.1\n"
            "main_process_port: 29500\n"
            "mixed_precision: bf16\n"
            "num_machines: 2\n"
            "num_processes: 4\n"
            "rdzv_backend: static\n"
            "same_network: false\n"
            "tpu_use_cluster: false\n"
            "tpu_use_sudo: false\n"
            "use_cpu: true\n");
}

TEST(ConfigCommand, EnterTakesTheDefaults) {
  const TempDir dir;
  const std::string path = dir / "answers.json";
  Session session(path);
  session.answer("> 0 one device", "\r");
  session.answer("CPU only", "\n");
  session.answer("> 0 no", "\r");
  EXPECT_EQ(session.finish(), 0) << session.output();
  Config config;
  config.read_file(path);
  config.check();
  EXPECT_EQ(summary(config), "NO 1x1 no zero0 cpu=false notes=0");
}

TEST(ConfigCommand, StoppingWritesNothing) {
  for (const char* key : {"\x03", "\x04"}) {  // Ctrl-C, Ctrl-D
    const TempDir dir;
    Session session(dir / "answers.yaml");
    session.answer("> 0 one device", key);
    EXPECT_EQ(session.finish(), 64);
    EXPECT_NE(session.output().find("nothing was written"), std::string::npos);
    EXPECT_FALSE(exists(dir / "answers.yaml"));
  }
}

// --- without a terminal --------------------------------------------------------------------------

struct Outcome {
  int code;
  std::string output;
};

Outcome run(const std::string& arguments) {
  const std::string command = in_build("pinion") + " " + arguments + " </dev/null 2>&1";
  FILE* pipe = popen(command.c_str(), "r");  // NOLINT: the arguments are the test's own
  std::string output;
  for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) output += static_cast<char>(c);
  return {WEXITSTATUS(pclose(pipe)), output};
}

TEST(ConfigCommand, TakesAnswersByFlags) {
  const TempDir dir;
  const VariableGuard home("HF_HOME", dir / "home");
  const std::string path = dir / "home/accelerate/default_config.yaml";
  EXPECT_EQ(run("config").code, 64);
  EXPECT_FALSE(exists(path));
  const Outcome good = run("config --num-processes=2 --cpu --mixed_precision bf16");
  EXPECT_EQ(good.code, 0) << good.output;
  Config config;
  EXPECT_TRUE(config.read_default_file());
  config.check();
  EXPECT_EQ(summary(config), "MULTI_CPU 2x1 bf16 zero0 cpu=true notes=0");
  if (cuda_device_count() == 0) {  // what is written starts here
    EXPECT_EQ(run("config --num-processes=2").code, 0);
    EXPECT_NE(contents(path).find("distributed_type: MULTI_CPU\n"), std::string::npos);
  }
  EXPECT_EQ(run("config --num_processes two").output,
            "pinion: --num_processes: expected an integer from 1 to 65536, got 'two'\n");
  EXPECT_EQ(run("config --machine_rank 3").code, 64);
  EXPECT_EQ(run("config --nonsense 3").code, 64);
}

TEST(ConfigCommand, DefaultLeavesWhatIsThereAndUpdateCompletesIt) {
  const TempDir dir;
  const std::string path = dir / "c.yaml", flag = " --config_file " + path;
  EXPECT_EQ(run("config default --mixed_precision bf16" + flag).code, 0);
  const std::string first = contents(path);
  EXPECT_NE(first.find("mixed_precision: bf16\n"), std::string::npos);
  const Outcome again = run("config default" + flag);
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.output.find("is there already"), std::string::npos);
  EXPECT_EQ(contents(path), first);
  write_file_atomic(path, "distributed_type: MULTI_CPU\nfp16: true\n");
  EXPECT_EQ(run("config update" + flag).code, 0);
  EXPECT_NE(contents(path).find("mixed_precision: fp16\nnum_machines: 1\n"), std::string::npos);
  write_file_atomic(path, "nonsense: 1\n");
  const Outcome bad = run("config update" + flag);
  EXPECT_EQ(bad.code, 78);
  EXPECT_EQ(bad.output, "pinion: " + path + ":1:1: expected a known key, got 'nonsense'\n");
  EXPECT_EQ(contents(path), "nonsense: 1\n");
}

TEST(OtherCommands, TestRunsItselfOnRanks) {
  const TempDir dir;
  const VariableGuard home("HF_HOME", dir / "home");
  for (const char* ranks : {"1", "3"}) {
    const Outcome good = run(std::string("test --num_processes ") + ranks);
    EXPECT_EQ(good.code, 0) << good.output;
    EXPECT_NE(good.output.find("ok: training on all ranks gives"), std::string::npos);
    EXPECT_NE(good.output.find("ready for training"), std::string::npos) << good.output;
    EXPECT_NE(good.output.find(std::string("(") + ranks + " rank"), std::string::npos);
  }
  EXPECT_EQ(run("test --num_processes 0").code, 64);
  EXPECT_EQ(run("test --config_file " + dir / "none.yaml").code, 66);
}

TEST(OtherCommands, MergeWeightsJoinsThePiecesOfACheckpoint) {
  const TempDir dir;
  const Tensor weight = Tensor::of<float>({1, 2, 3, 4}, {2, 2});
  FunctionPart part(
      [&] {
        State state;
        for (const int64_t at : {0, 2})
          state.put("weight", weight.alias({4}).rows(at, at + 2), {{2, 2}, at});
        return state;
      },
      [](const State&) {});
  Checkpoints checkpoints({.root = dir / "run"});
  checkpoints.add("model", part, {.placement = Placement::sharded});
  checkpoints.save(7);
  const Outcome merged = run("merge-weights " + dir / "run/step-7 " + dir / "out");
  EXPECT_EQ(merged.code, 0) << merged.output;
  const SafetensorsReader file(dir / "out/model.safetensors");
  const Tensor got = file.load(*file.find("weight"));
  EXPECT_EQ(got.shape(), weight.shape());
  EXPECT_EQ(got.values<float>(), weight.values<float>());
  write_file_atomic(dir / "run/step-7/shard-0.safetensors", "");
  EXPECT_EQ(run("merge-weights " + dir / "run/step-7 " + dir / "out").code, 80);
}

TEST(OtherCommands, SayWhatTheyFindOrWhatIsWrong) {
  const TempDir dir;
  const VariableGuard home("HF_HOME", dir / "home");
  const Outcome env = run("env");
  EXPECT_EQ(env.code, 0);
  for (const char* line : {"pinion:", "CPU:", "oneDNN:", "mpirun:", "configuration: none at"})
    EXPECT_NE(env.output.find(line), std::string::npos) << line;
  const Outcome sizes = run("estimate-memory --layers 10,32,2");
  EXPECT_EQ(sizes.code, 0);
  EXPECT_EQ(sizes.output.substr(0, 14), "418 parameters");
  EXPECT_EQ(run("estimate-memory --layers 10,,2").code, 64);
  EXPECT_EQ(run("estimate-memory").code, 64);
  EXPECT_EQ(run("estimate-memory " + dir / "none.safetensors").code, 66);
  EXPECT_EQ(run("merge-weights " + dir / "none " + dir / "out").code, 66);
  EXPECT_EQ(run("merge-weights").code, 64);
}

}  // namespace
}  // namespace pinion::accel
