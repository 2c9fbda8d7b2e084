// SPDX-License-Identifier: Apache-2.0
// What `pinion launch` makes of flags and of a machine, without starting anything: the plan, the
// environment of ranks, and the line for mpirun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "pinion/accel/launch/environment.h"
#include "pinion/accel/launch/launcher.h"
#include "pinion/accel/launch/mpirun.h"
#include "pinion/accel/launch/options.h"
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

TEST(LaunchFlags, ThatContradictEachOtherOrDoNothingAreRefused) {
  const auto text = [](std::vector<std::string> words) {
    return error(ErrorKind::usage, [&] { parse(std::move(words)).config.check(); });
  };
  EXPECT_THAT(text({"--use_fsdp", "--use_deepspeed", "x"}),
              HasSubstr("--use_deepspeed: expected no --use_fsdp beside it"));
  EXPECT_THAT(text({"--multi_gpu", "--use_fsdp", "x"}), HasSubstr("expected no --multi_gpu"));
  EXPECT_THAT(text({"--cpu", "--multi_gpu", "x"}), HasSubstr("(use_cpu true: --cpu)"));
  EXPECT_THAT(text({"--zero_stage=2", "x"}),
              HasSubstr("--zero_stage: expected --use_deepspeed beside it"));
  EXPECT_THAT(text({"--use_deepspeed", "--fsdp_version=2", "x"}),
              HasSubstr("--fsdp_version: expected --use_fsdp beside it"));
  EXPECT_EQ(parse({"--num_processes=2", "--num_processes=3", "x"}).config.text("num_processes"),
            "3");  // a wrapper's flag is overridden by one behind it
  parse({"--gradient_clipping=1", "--gradient_accumulation_steps=2", "x"}).config.check();
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
  o.log_dir = "logs";
  o.tee = "0:1,11:3";  // torchrun's pattern ends at rank 9
  const LaunchPlan plan = plan_launch(o, kPlain);
  EXPECT_EQ(plan.tee[0], 1);
  EXPECT_EQ(plan.tee[1], 0);
  EXPECT_EQ(plan.tee[11], 3);
  for (const char* tee : {"4", "-1", "x", "0:4", "12:1", "0:1,1", ":", "0:"}) {
    o.tee = tee;
    EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(o, kPlain); }), HasSubstr("--tee: "));
  }
  o.tee = "3";
  o.log_dir = "";
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(o, kPlain); }),
              HasSubstr("--tee: expected --log_dir beside it"));
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
  o.env = {"MINE=1"};
  o.allow_env = {"THEIRS_*"};
  Machine machine = kPlain;
  machine.environment["THEIRS_TOO"] = "2";
  plan = plan_launch(o, machine);
  EXPECT_THAT(mpirun_command(plan, "hosts", MpiFlavour::open_mpi),
              AllOf(testing::Contains("MINE"), testing::Contains("THEIRS_TOO"),
                    Not(testing::Contains("HOME"))));
  for (const MpiFlavour flavour : {MpiFlavour::mpich, MpiFlavour::intel})
    EXPECT_THAT(mpirun_command(plan, "hosts", flavour),
                ElementsAre("mpirun", "-f", "hosts", "-ppn", "2", "-n", "4", "/bin/true", "--x"));
  o.max_restarts = 1;
  EXPECT_THAT(error(ErrorKind::usage, [&] { plan_launch(o, kPlain); }),
              HasSubstr("--max_restarts: expected no mpirun_hostfile beside it"));
  EXPECT_EQ(mpi_flavour("mpirun (Open MPI) 4.1.4\n"), MpiFlavour::open_mpi);
  EXPECT_EQ(mpi_flavour("HYDRA build details:\n    Version: 4.0.2\n"), MpiFlavour::mpich);
  EXPECT_EQ(mpi_flavour("Intel(R) MPI Library for Linux* OS, Version 2021.9"), MpiFlavour::intel);
  EXPECT_THAT(error(ErrorKind::config, [] { mpi_flavour("what?"); }), HasSubstr("'what?'"));
}

}  // namespace
}  // namespace pinion::accel
