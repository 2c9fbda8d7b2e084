// SPDX-License-Identifier: Apache-2.0
// What `pinion launch` makes of flags and of a machine, without starting anything: the plan, the
// environment of ranks, the line for mpirun, and which of several failures is the cause.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "pinion/accel/error_record.h"
#include "pinion/accel/launch/environment.h"
#include "pinion/accel/launch/launcher.h"
#include "pinion/accel/launch/mpirun.h"
#include "pinion/accel/launch/options.h"
#include "pinion/accel/launch/verdict.h"
#include "pinion/apps/pinion/launch_flags.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

template <class F>
std::string error(ErrorKind kind, F f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "expected an error, got none";
  return {};
}

// --- flags ---------------------------------------------------------------------------------------

apps::LaunchCommand parse(std::vector<std::string> words) {
  words.insert(words.begin(), "launch");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return apps::parse_launch(static_cast<int>(argv.size()), argv.data());
}

TEST(LaunchFlags, MayBeSpeltEitherWayAndEndAtTheProgram) {
  const auto command = parse({"--num-processes=2", "--mixed_precision", "bf16", "-t", "3", "-q",
                              "--no_python", "./train", "--batch-size", "8", "--num_processes=9"});
  EXPECT_EQ(command.config.integer("num_processes"), 2);
  EXPECT_EQ(command.config.text("mixed_precision"), "bf16");
  EXPECT_EQ(command.options.tee, "3");
  EXPECT_TRUE(command.options.quiet);
  EXPECT_THAT(command.options.command,
              ElementsAre("./train", "--batch-size", "8", "--num_processes=9"));
  EXPECT_THAT(parse({"--cpu", "--", "-odd-name", "x"}).options.command,
              ElementsAre("-odd-name", "x"));
  EXPECT_THAT(parse({"-t0:1,1:2", "x"}).options.tee, "0:1,1:2");
  EXPECT_TRUE(parse({"--help", "--nonsense"}).help);
}

TEST(LaunchFlags, WrongOnesAreSaidWithTheReason) {
  const auto text = [](std::vector<std::string> words) {
    return error(ErrorKind::usage, [&] { parse(std::move(words)); });
  };
  EXPECT_THAT(text({"--num_proceses", "2", "x"}), HasSubstr("did you mean num_processes?"));
  EXPECT_THAT(text({"--num_processes"}), HasSubstr("expected a value, got none"));
  EXPECT_THAT(text({"--num_processes", "two", "x"}), HasSubstr("--num_processes: expected an int"));
  EXPECT_THAT(text({"--num_processes", "0", "x"}), HasSubstr("from 1"));
  EXPECT_THAT(text({"--cpu=yes", "x"}), HasSubstr("--cpu: expected no value, got 'yes'"));
  EXPECT_THAT(text({"--mixed_precision", "fp32", "x"}), HasSubstr("fp32"));
  EXPECT_THAT(text({"--max_restarts", "-1", "x"}), HasSubstr("--max_restarts: expected a number"));
  EXPECT_THAT(text({"-x"}), HasSubstr("unknown flag '-x'"));
  EXPECT_THAT(text({"--deepspeed_config.zero_stage=1", "x"}), HasSubstr("unknown flag"));
}

// Every flag of accelerate launch that means nothing for a compiled program.
TEST(LaunchFlags, OfOthersAreRefusedByName) {
  for (const char* flag : {"--module",
                           "--tpu",
                           "--tpu_cluster",
                           "--no_tpu_cluster",
                           "--vm",
                           "--tpu_use_sudo",
                           "--downcast_bf16",
                           "--main_training_function",
                           "--use_megatron_lm",
                           "--use_parallelism_config",
                           "--aws_access_key_id",
                           "--aws-secret-access-key",
                           "--dynamo_backend",
                           "--dynamo_mode",
                           "--dynamo_use_fullgraph",
                           "--dynamo_use_dynamic",
                           "--dynamo_use_regional_compilation",
                           "--fp8_backend",
                           "--fp8_format",
                           "--fp8_margin",
                           "--fp8_interval",
                           "--fp8_amax_history_len",
                           "--fp8_amax_compute_algo",
                           "--fp8_opt_level",
                           "--megatron_lm_tp_degree",
                           "--megatron_lm_pp_degree",
                           "--parallelism_config_tp_size",
                           "--parallelism_config_cp_size",
                           "--deepspeed_hostfile",
                           "--deepspeed_inclusion_filter",
                           "--deepspeed_exclusion_filter",
                           "--fsdp_offload_params",
                           "--ipex",
                           "--use_xpu"}) {
    const std::string text = error(ErrorKind::usage, [&] { parse({flag, "x"}); });
    EXPECT_THAT(text, HasSubstr("is a flag of accelerate launch that pinion does not have: "));
  }
  EXPECT_THAT(error(ErrorKind::usage,
                    [] {
                      parse({"-m", "package.train"});
                    }),
              HasSubstr("compiled programs"));
}

TEST(LaunchFlags, OfShardingBecomeVariables) {
  auto command = parse({"--use_deepspeed", "--zero_stage", "1", "--gradient_clipping=0.5", "x"});
  Variables variables;
  for (const auto& [name, value] : command.config.environment()) variables[name] = value;
  EXPECT_EQ(variables["ACCELERATE_USE_DEEPSPEED"], "true");
  EXPECT_EQ(variables["ACCELERATE_DEEPSPEED_ZERO_STAGE"], "1");
  command = parse({"--use-fsdp", "--fsdp_sharding_strategy", "SHARD_GRAD_OP", "x"});
  variables.clear();
  for (const auto& [name, value] : command.config.environment()) variables[name] = value;
  EXPECT_EQ(variables["ACCELERATE_USE_FSDP"], "true");
  EXPECT_EQ(variables["FSDP_SHARDING_STRATEGY"], "SHARD_GRAD_OP");
}

TEST(LaunchFlags, HelpNamesThem) {
  const std::string help = apps::launch_help();
  for (const char* flag : {"--num_processes", "--mixed_precision", "--dry_run", "--tee, -t",
                           "--rdzv_secret_file", "--zero_stage", "--mpirun_hostfile"})
    EXPECT_THAT(help, HasSubstr(flag));
}

// --- plans ---------------------------------------------------------------------------------------

const Machine kPlain{.cpus = 8, .environment = {{"PATH", "/nowhere::/bin"}, {"HOME", "/h"}}};
const Machine kGpus{.gpus = 4, .cpus = 8, .environment = {{"PATH", "/bin"}}};

LaunchOptions asking(int ranks, std::vector<std::string> command = {"true"}) {
  LaunchOptions o;
  o.num_processes = ranks;
  o.command = std::move(command);
  return o;
}

TEST(LaunchPlanTest, CountsRanksAndThreads) {
  LaunchPlan plan = plan_launch(asking(2), kPlain);
  EXPECT_EQ(plan.program, "/bin/true");
  EXPECT_EQ(plan.ranks, 2);
  EXPECT_EQ(plan.environment["PINION_NUM_THREADS"], "4");
  EXPECT_EQ(plan.environment["OMP_NUM_THREADS"], "4");
  EXPECT_EQ(plan_launch(asking(0), kPlain).ranks, 1);
  EXPECT_EQ(plan_launch(asking(0), kGpus).ranks, 4);
  EXPECT_EQ(plan_launch(asking(16), kPlain).environment["OMP_NUM_THREADS"], "1");
  LaunchOptions o = asking(2);
  o.num_cpu_threads_per_process = 3;
  EXPECT_EQ(plan_launch(o, kPlain).environment["PINION_NUM_THREADS"], "3");
  Machine set = kPlain;
  set.environment["OMP_NUM_THREADS"] = "7";
  EXPECT_EQ(plan_launch(asking(2), set).environment["OMP_NUM_THREADS"], "7");
  EXPECT_EQ(plan_launch(o, set).environment["OMP_NUM_THREADS"], "3");
}

TEST(LaunchPlanTest, GpusThatAreMissingAreRefused) {
  LaunchOptions o = asking(2);
  o.multi_gpu = true;
  o.multi_gpu_origin = "distributed_type MULTI_GPU (config_multi_gpu.json:4:3)";
  EXPECT_THAT(error(ErrorKind::device, [&] { plan_launch(o, kPlain); }),
              AllOf(HasSubstr("distributed_type MULTI_GPU (config_multi_gpu.json:4:3): expected 2 "
                              "CUDA devices for 2 ranks on this machine, found 0"),
                    HasSubstr("add --cpu, or --allow_cpu_fallback")));
  o.allow_cpu_fallback = true;
  LaunchPlan plan = plan_launch(o, kPlain);
  EXPECT_FALSE(plan.gpus);
  EXPECT_EQ(plan.environment["ACCELERATE_USE_CPU"], "true");
  EXPECT_THAT(plan.notes, ElementsAre(HasSubstr("training on CPUs")));
  EXPECT_TRUE(plan_launch(o, kGpus).gpus);
  EXPECT_THAT(error(ErrorKind::device, [&] { plan_launch(asking(5), kGpus); }),
              HasSubstr("expected 5 CUDA devices"));
  o = asking(2);
  o.gpu_ids = "3";
  EXPECT_THAT(error(ErrorKind::device, [&] { plan_launch(o, kGpus); }), HasSubstr("found 1"));
  o.gpu_ids = "1,3";
  EXPECT_EQ(plan_launch(o, kGpus).environment["CUDA_VISIBLE_DEVICES"], "1,3");
  o.cpu = true;
  EXPECT_EQ(plan_launch(o, kGpus).environment.count("CUDA_VISIBLE_DEVICES"), 0);
}

TEST(LaunchPlanTest, ProgramsAreFoundOrExplained) {
  const TempDir dir;
  write_file_atomic(dir / "data.txt", "x");
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(asking(1, {"train.py"}), kPlain); }),
              AllOf(HasSubstr("got 'train.py'"), HasSubstr("binaries")));
  EXPECT_THAT(error(ErrorKind::missing, [&] { plan_launch(asking(1, {"nosuch"}), kPlain); }),
              HasSubstr("'nosuch' not found"));
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(asking(1, {dir / "data.txt"}), kPlain); }),
              HasSubstr("that can be executed"));
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(asking(1, {}), kPlain); }),
              HasSubstr("expected a program"));
  Machine machine = kPlain;
  machine.program_folder = dir.path();
  write_file_atomic(dir / "sister", "x");
  chmod((dir / "sister").c_str(), 0700);
  EXPECT_EQ(plan_launch(asking(1, {"sister"}), machine).program, dir / "sister");
}

TEST(LaunchPlanTest, SeveralMachinesNeedAPlaceAndASecret) {
  LaunchOptions o = asking(4);
  o.num_machines = 2;
  o.machine_rank = 1;
  const auto text = [&] { return error(ErrorKind::config, [&] { plan_launch(o, kPlain); }); };
  EXPECT_THAT(text(), HasSubstr("main_process_ip: expected the address"));
  o.main_process_ip = "10.0.0.1";
  EXPECT_THAT(text(), HasSubstr("main_process_port: expected"));
  o.main_process_port = 29500;
  EXPECT_THAT(text(), HasSubstr("rdzv_secret_file: expected a file"));
  o.rdzv_secret_file = "/secret";
  const LaunchPlan plan = plan_launch(o, kPlain);
  EXPECT_EQ(plan.local_ranks, 2);
  EXPECT_EQ(plan.first_rank, 2);
  EXPECT_EQ(plan.run_id, "pinion");
  o.rdzv_conf = "run_id=a,timeout=30";
  EXPECT_EQ(plan_launch(o, kPlain).run_id, "a");
  EXPECT_EQ(plan_launch(o, kPlain).meeting_time, std::chrono::seconds(30));
  o.rdzv_conf = "colour=red";
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(o, kPlain); }), HasSubstr("'colour=red'"));
  o.rdzv_conf = "";
  o.num_processes = 3;
  EXPECT_THAT(text(), HasSubstr("expected a multiple of num_machines=2, got 3"));
  o.num_processes = 4;
  o.machine_rank = 2;
  EXPECT_THAT(text(), HasSubstr("machine_rank: expected less than num_machines=2, got 2"));
}

TEST(LaunchPlanTest, TeeIsReadOrRefused) {
  LaunchOptions o = asking(12);
  o.tee = "0:1,11:3";  // torchrun's pattern ends at rank 9
  const LaunchPlan plan = plan_launch(o, kPlain);
  EXPECT_EQ(plan.tee[0], 1);
  EXPECT_EQ(plan.tee[1], 0);
  EXPECT_EQ(plan.tee[11], 3);
  for (const char* tee : {"4", "-1", "x", "0:4", "12:1", "0:1,1", ":", "0:"}) {
    o.tee = tee;
    EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(o, kPlain); }), HasSubstr("--tee: "));
  }
}

TEST(LaunchPlanTest, VariablesAreChecked) {
  const auto text = [](std::vector<std::string> env, std::vector<std::string> allow = {}) {
    LaunchOptions o = asking(1);
    o.env = std::move(env);
    o.allow_env = std::move(allow);
    return error(ErrorKind::usage, [&] { plan_launch(o, kPlain); });
  };
  EXPECT_THAT(text({"NAME"}), HasSubstr("expected NAME=value, got 'NAME'"));
  EXPECT_THAT(text({"=x"}), HasSubstr("expected NAME=value"));
  EXPECT_THAT(text({"A\nB=x"}), HasSubstr("got 'A\\nB=x'"));
  EXPECT_THAT(text({"1A=x"}), HasSubstr("expected NAME=value"));
  EXPECT_THAT(text({"RANK=1"}), HasSubstr("RANK is set by the launcher"));
  EXPECT_THAT(text({"LD_PRELOAD=/x.so"}), HasSubstr("add --allow_env LD_PRELOAD"));
  LaunchOptions o = asking(1);
  o.env = {"LD_PRELOAD=/x.so"};
  o.allow_env = {"LD_PRELOAD"};
  EXPECT_EQ(plan_launch(o, kPlain).environment["LD_PRELOAD"], "/x.so");
}

TEST(DryRun, ShowsEveryRankAndNoSecret) {
  LaunchOptions o = asking(2, {"true", "a b", "it's\n"});
  o.env = {"MY_API_KEY=hunter2", "PLAIN=$(x)\x1b[2J"};
  const std::string text = dry_run(plan_launch(o, kPlain));
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0 of 2:\n"), HasSubstr("rank 1 of 2:\n"),
                          HasSubstr("  argv: 'true' 'a b' 'it's\\n'\n"),
                          HasSubstr("  MY_API_KEY=***\n"), Not(HasSubstr("hunter2"))));
  EXPECT_THAT(text, AllOf(HasSubstr("  PLAIN=$(x)\\x1b[2J\n"), HasSubstr("  PINION_RANK=1\n"),
                          HasSubstr("  LOCAL_WORLD_SIZE=2\n")));
}

TEST(Mpirun, LinesOfEachFlavour) {
  LaunchOptions o = asking(4, {"true", "--x"});
  o.num_machines = 2;
  o.by_mpi = true;
  o.variables = {{"ACCELERATE_DEBUG_MODE", "true"}};
  LaunchPlan plan = plan_launch(o, kPlain);
  plan.environment = {{"HOME", "/h"}, {"ACCELERATE_DEBUG_MODE", "true"}};
  EXPECT_THAT(
      mpirun_command(plan, "hosts", MpiFlavour::open_mpi),
      ElementsAre("mpirun", "--hostfile", "hosts", "--npernode", "2", "-n", "4", "--bind-to",
                  "socket", "-x", "ACCELERATE_DEBUG_MODE", "/bin/true", "--x"));
  for (const MpiFlavour flavour : {MpiFlavour::mpich, MpiFlavour::intel})
    EXPECT_THAT(mpirun_command(plan, "hosts", flavour),
                ElementsAre("mpirun", "-f", "hosts", "-ppn", "2", "-n", "4", "/bin/true", "--x"));
  EXPECT_EQ(mpi_flavour("mpirun (Open MPI) 4.1.4\n"), MpiFlavour::open_mpi);
  EXPECT_EQ(mpi_flavour("HYDRA build details:\n    Version: 4.0.2\n"), MpiFlavour::mpich);
  EXPECT_EQ(mpi_flavour("Intel(R) MPI Library for Linux* OS, Version 2021.9"), MpiFlavour::intel);
  EXPECT_THAT(error(ErrorKind::config, [] { mpi_flavour("what?"); }), HasSubstr("'what?'"));
}

// --- causes and consequences ---------------------------------------------------------------------

RankEnd ended(int rank, int code, int signal = 0) {
  RankEnd end;
  end.rank = rank;
  end.pid = 100 + rank;
  end.code = signal != 0 ? 128 + signal : code;
  end.signal = signal;
  return end;
}
RankEnd told(RankEnd end, int64_t record_ns = -1) {
  end.told = true;
  end.told_ns = 1000;
  if (record_ns >= 0) end.error = ErrorRecord{end.code, "io", "disk", record_ns};
  return end;
}
RankEnd stuck(RankEnd end) {
  end = told(std::move(end));
  end.code = 81;
  end.stuck = "was running";
  return end;
}
RankEnd forwarded(RankEnd end, int signal) {
  end.forwarded = signal;
  return end;
}

TEST(LaunchVerdict, NamesTheCause) {
  const struct {
    const char* about;
    std::vector<RankEnd> ends;
    int stop_signal, code, culprit;  // -1: none
  } rows[] = {
      {"all is well", {ended(0, 0), ended(1, 0)}, 0, 0, -1},
      {"the first", {ended(1, 7), ended(0, 3)}, 0, 7, 1},
      {"a lost peer before the cause shows", {ended(0, 76), ended(1, 7)}, 0, 7, 1},
      {"a wait that was too long", {ended(0, 81), ended(1, 0, 9)}, 0, 137, 1},
      {"only lost peers", {ended(2, 76), ended(0, 76)}, 0, 76, 2},
      {"who obeyed is none", {told(ended(0, 0, 15)), ended(1, 76)}, 0, 76, 1},
      {"an error from before we asked", {ended(0, 76), told(ended(1, 74), 900)}, 0, 74, 1},
      {"an error from after we asked", {ended(0, 76), told(ended(1, 74), 1100)}, 0, 76, 0},
      {"preempted", {ended(0, 75), ended(1, 75)}, 0, 75, -1},
      {"preempted, others lost", {ended(0, 75), ended(1, 76)}, 0, 75, 1},
      {"preempted, but one save failed", {ended(0, 75), ended(1, 74)}, 15, 74, 1},
      {"asked to end",
       {forwarded(ended(0, 0, 15), 15), forwarded(ended(1, 0, 15), 15)},
       15,
       143,
       0},
      {"asked, and killed for being late", {told(ended(0, 0, 9))}, 2, 130, 0},
      {"asked, and lost who ended first",
       {forwarded(ended(1, 0, 15), 15), forwarded(ended(0, 76), 15)},
       15,
       143,
       1},
      {"who hangs is the cause", {ended(0, 81), ended(2, 81), stuck(ended(1, 0, 3))}, 0, 81, 1},
      {"but a crash came first", {ended(0, 81), ended(2, 0, 11), stuck(ended(1, 0, 3))}, 0, 139, 2},
      {"asked, but one crashed", {forwarded(ended(0, 0, 15), 15), ended(1, 0, 11)}, 15, 139, 1},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.about);
    const RankEnd* culprit = first_culprit(row.ends);
    EXPECT_EQ(exit_code(row.ends, row.stop_signal), row.code);
    EXPECT_EQ(culprit ? culprit->rank : -1, row.culprit);
  }
}

TEST(LaunchVerdict, DescribesInOneLine) {
  RankEnd end = ended(1, 0, 9);
  end.last_lines = "a | b";
  EXPECT_EQ(describe(end), "rank 1 (pid 101) ended by signal 9 (SIGKILL); last lines: a | b");
  end = ended(2, 78);
  EXPECT_EQ(describe(end), "rank 2 (pid 102) ended with code 78");
  end.error = ErrorRecord{78, "config", "two\nlines\x1b", 1};
  EXPECT_EQ(describe(end), "rank 2 (pid 102) ended with code 78 (config): two\\nlines\\x1b");
  end = stuck(ended(1, 0, 9));
  EXPECT_EQ(describe(end),
            "rank 1 (pid 101) kept others waiting too long: it was running; it ended by signal 9 "
            "(SIGKILL)");
  end = ended(0, 0, 11);
  end.error = ErrorRecord{139, "signal", "at address 0x0", 1, true};
  end.error_file = "logs/0/error.json";
  EXPECT_EQ(describe(end),
            "rank 0 (pid 100) ended by signal 11 (SIGSEGV) (signal): at address 0x0; its trace: "
            "logs/0/error.json");
}

TEST(ErrorRecordTest, IsWrittenAndRead) {
  const TempDir dir;
  setenv("PINION_ERROR_FILE", (dir / "error.json").c_str(), 1);
  record_error(ErrorKind::checkpoint, "shard 'x' is cut \xff");
  unsetenv("PINION_ERROR_FILE");
  const auto record = read_error_record(dir / "error.json");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->code, 80);
  EXPECT_EQ(record->kind, "checkpoint");
  EXPECT_EQ(record->message, "shard 'x' is cut \\xff");
  EXPECT_GT(record->monotonic_ns, 0);
  EXPECT_FALSE(read_error_record(dir / "none.json"));
  record_error(ErrorKind::io, "nobody asked");  // no variable: nothing is written
  EXPECT_EQ(list_dir(dir.path()).size(), 1);
}

TEST(ErrorRecordTest, AnythingElseIsNone) {
  for (const char* text : {"", "{", "[]", "null", "{\"code\":7}", "7",
                           R"({"code":"x","class":"c","message":"m","t_mono_ns":1})",
                           R"({"code":1e99,"class":"c","message":"m","t_mono_ns":1})",
                           R"({"code":7,"class":7,"message":"m","t_mono_ns":1})"})
    EXPECT_FALSE(parse_error_record(text)) << text;
}

}  // namespace
}  // namespace pinion::accel
