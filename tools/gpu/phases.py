# SPDX-License-Identifier: Apache-2.0
"""The phases of a GPU check. Each returns (state, why): ok, failed, or skipped with the reason, and
adds what it found to the record. In a dry run a phase does everything but what needs the device,
and says what it would have run."""

import hashlib
import json
import re
import shutil
import sys

import record as records

NO_DEVICE = 72  # the exit code of Pinion's programs for a device that is not there
IMPLS = {"full": "torch,torch-fused,torch-graph"}
IMPLS["bench"] = IMPLS["full"] + ",torch-compile"  # which takes minutes
SAMPLES = 30
RACES_LEFT_OUT = ("cuda_ops_test.cpp",)  # many small launches: minutes under a sanitizer
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# What the profiler looks at: (kernel, the case that runs it).
COUNTED = (
    ("elementwise", "gelu_forward/bf16"), ("normalise", "layer_norm_forward/f32/4096x8192"),
    ("normalise_backward", "layer_norm_backward/f32/4096x8192"),
    ("loss_rows", "cross_entropy/bf16"), ("multiply", "linear/bf16/4096"),
    ("run_mlp", "fused_mlp_train/bf16/1048576x64"),
)  # fmt: skip


def would_run(check, command):
    check.say(f"  would run: {' '.join(map(str, command))}")


# --- 0: what is there ---
def probe(check, limit):
    check.record["toolchain"]["python"] = sys.version.split()[0]
    query = "name,driver_version,uuid,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    smi = check.children.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"], 10
    )
    device = check.record["device"]
    if smi.status == 0 and smi.last.count(",") == query.count(","):
        facts = dict(zip(query.split(","), [v.strip() for v in smi.last.split(",")]))
        device |= {"name": facts["name"], "driver": facts["driver_version"]}
        device["uuid_hash"] = hashlib.sha256(facts["uuid"].encode()).hexdigest()[:16]
        device["clocks"] = {"before": [facts["clocks.sm"], facts["clocks.mem"]]}
    out = check.out / "probe.json"
    small = check.children.run(
        [check.bin("pinion_gpu_bench"), "--filter=ceiling_launch", "--samples=3", f"--out={out}"],
        30,
    )
    torch = check.children.run(
        [check.python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"],
        60,
    )
    check.has_torch = torch.status == 0 and torch.last.endswith("True")
    check.record["toolchain"]["torch"] = torch.last if torch.status == 0 else "none"
    for tool in ("compute-sanitizer", "ncu"):
        check.tools[tool] = shutil.which(tool)
    if small.status == 0:
        found = json.loads(out.read_text())["device"]
        check.has_device = True
        device |= {"name": found["name"], "facts": found}
        return "ok", found["name"]
    if small.status == NO_DEVICE:
        return ("ok" if check.dry else "failed"), f"no device: {small.last}"
    return "failed", f"pinion_gpu_bench: expected status 0 or {NO_DEVICE}, got {small.status}"


# --- 1: the tests of the CUDA backend, and a training run ---
def count_tests(path):
    """(passed, names that failed, skipped) of GoogleTest's report."""
    passed, failed, skipped = 0, [], 0
    for suite in json.loads(path.read_text())["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("failures"):
                failed.append(f"{suite['name']}.{test['name']}")
            elif test["result"] == "SKIPPED":
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def run_test_file(check, name, limit):
    out = check.out / f"{name.removesuffix('.cpp')}.json"
    out.unlink(missing_ok=True)
    child = check.children.run(
        [check.bin("pinion_tests"), f"--test_file={name}", f"--gtest_output=json:{out}"], limit
    )
    tests = check.record["tests"]
    if not out.exists():  # it crashed, or its time was up
        tests["failed"] += 1
        tests["list"].append(f"{name}: status {child.status}")
        return
    passed, failed, skipped = count_tests(out)
    tests["passed"] += passed
    tests["skipped"] += skipped
    tests["failed"] += len(failed)
    tests["list"] += failed


def train_twice(check, limit):
    """What is wrong with two equal runs of simple_train on the device; empty when nothing is."""
    models = []
    for run in ("first", "second"):
        folder = check.out / f"train-{run}"
        child = check.children.run(
            [check.bin("simple_train"), "--device", "cuda", "--seed", "7", "--output_dir", folder],
            limit,
        )
        if not check.has_device:
            return "" if child.status == NO_DEVICE else f"expected 72, got {child.status}"
        if child.status != 0:
            return f"simple_train: expected status 0, got {child.status}: {child.last}"
        models.append((folder / "model.safetensors").read_bytes())
    return "" if models[0] == models[1] else "simple_train: the same seed gave two models"


def correctness(check, limit):
    tests = check.record["tests"]
    for name in check.manifest["tests"]:
        run_test_file(check, name, limit)
    wrong = train_twice(check, 30)
    if wrong:
        tests["failed"] += 1
        tests["list"].append(wrong)
    why = f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped"
    if tests["failed"]:
        return "failed", f"{why}: {' '.join(tests['list'][:5])}"
    if not tests["passed"] + tests["skipped"]:
        return "failed", f"{why}: expected tests of the CUDA backend"
    if check.has_device and (tests["skipped"] or not tests["passed"]):
        return "failed", f"{why}: expected every test to run on a device"
    return "ok", why


# --- 2: NCCL, all its ranks on the one device ---
def nccl(check, limit):
    """The ranks are processes, which NCCL takes for hosts: it refuses two of a host on a device."""
    tests = check.record["tests"]
    before = {**tests, "list": len(tests["list"])}
    run_test_file(check, "nccl_ranks_slow_test.cpp", limit)
    if tests["failed"] > before["failed"]:
        return "failed", " ".join(tests["list"][before["list"]:])
    passed, skipped = (tests[k] - before[k] for k in ("passed", "skipped"))
    return ("ok" if passed else "skipped"), f"{passed} passed, {skipped} skipped"


# --- 3: the same tests under the sanitizers of the device ---
def sanitizer_command(check, tool, name):
    # Blocks of exact size, so that the tool sees their ends.
    return ["env", "PINION_CUDA_CACHE=0", check.tools["compute-sanitizer"] or "compute-sanitizer",
            "--tool", tool, "--error-exitcode", "66", check.bin("pinion_tests"),
            f"--test_file={name}"]  # fmt: skip


def sanitizer(check, limit):
    files = [n for n in check.manifest["tests"] if n not in RACES_LEFT_OUT]
    if not check.tools["compute-sanitizer"] or not check.has_device:
        for tool in SANITIZERS:
            would_run(check, sanitizer_command(check, tool, "|".join(files)))
        return "skipped", "no device" if not check.has_device else "compute-sanitizer is not here"
    errors, unfinished = 0, []
    end = check.children.left() - limit
    for tool in SANITIZERS:
        found = check.record["sanitizer"].setdefault(tool, {"errors": 0})
        for name in files:
            child = check.children.run(
                sanitizer_command(check, tool, name), check.children.left() - end
            )
            summary = re.search(r"ERROR SUMMARY: (\d+) error", child.text)
            if child.status is None:
                unfinished.append(f"{tool} {name}")
            elif summary:
                found["errors"] += int(summary[1])
            elif child.status != 0:
                found["errors"] += 1
        errors += found["errors"]
    why = f"{errors} errors" + (f"; out of time: {', '.join(unfinished)}" if unfinished else "")
    return ("failed" if errors else "ok"), why


# --- 4: times, ours and PyTorch's in turn ---
def commands_of_round(check, cases):
    ours = [check.bin("pinion_gpu_bench"), f"--samples={SAMPLES}"]
    impls = IMPLS.get(check.mode, IMPLS["full"])
    peer = [check.python, check.bundle / "bench/peers/gpu_peer.py", cases, "--impl", impls,
            f"--samples={SAMPLES}"]  # fmt: skip
    return ours, peer


def list_cases(check, limit):
    cases = check.out / "cases.json"
    child = check.children.run([check.bin("pinion_gpu_bench"), "--list", f"--out={cases}"], limit)
    if child.status != 0:
        raise RuntimeError(f"pinion_gpu_bench --list: expected status 0, got {child.status}")
    ids = [c["id"] for c in json.loads(cases.read_text())["bench"]]
    peer = check.children.run(
        [check.python, check.bundle / "bench/peers/gpu_peer.py", cases, "--list"], limit
    )
    known = peer.text.split()
    if peer.status != 0 or not set(known) <= set(ids):
        raise RuntimeError(f"gpu_peer.py --list: expected some of the cases, got {peer.last}")
    return cases, ids, known


def bench(check, limit):
    cases, ids, known = list_cases(check, min(limit, 30))
    ours, peer = commands_of_round(check, cases)
    if not check.has_device:
        for command in (ours, peer):
            would_run(check, command)
        return "skipped", f"no device; {len(ids)} cases, {len(known)} of them beside PyTorch"
    end, longest, outputs, notes = check.children.left() - limit, 0.0, [], []
    programs = {"pinion": ours} | ({"torch": peer} if check.has_torch else {})
    if not check.has_torch:
        notes.append("without PyTorch, which is not here")
    for turn in range(records.ROUNDS):
        seconds = 0.0
        for name, command in list(programs.items()):
            out = check.out / f"round-{turn}-{name}.json"
            child = check.children.run(command + [f"--out={out}"], check.children.left() - end)
            seconds += child.seconds
            if child.status == 0:
                outputs.append(json.loads(out.read_text()))
                continue
            said = f"round {turn} of {name}: expected status 0, got {child.status}: {child.last}"
            if name == "pinion":
                return "failed", said
            notes.append(said)  # and Pinion goes on alone: pairs are of the rounds before
            del programs[name]
        longest = max(longest, seconds)
        check.record["bench"] = records.merge(outputs)
        check.save()
        if check.children.left() - end < 1.2 * longest and turn + 1 < records.ROUNDS:
            notes.append("no time for another round")
            break
    failed = sorted({case for out in outputs for case in out.get("failed", {})})
    if failed:
        notes.append(f"PyTorch could not run {', '.join(failed)}")
    return "ok", "; ".join([f"{turn + 1} rounds of {len(ids)} cases", *notes])


# --- 5: what the profiler's counters say ---
def counters(check, limit):
    def command(kernel, case):
        return [check.tools["ncu"] or "ncu", "--clock-control", "none", "--section", "SpeedOfLight",
                "--section", "MemoryWorkloadAnalysis", "--csv", "--launch-count", "2",
                "--kernel-name", f"regex:^{kernel}$", check.bin("pinion_gpu_bench"),
                f"--filter={case}", "--samples=1",
                f"--out={check.out / 'ncu-bench.json'}"]  # fmt: skip

    if not check.tools["ncu"] or not check.has_device:
        for kernel, case in COUNTED:
            would_run(check, command(kernel, case))
        return "skipped", "no device" if not check.has_device else "ncu is not here"
    end, csv = check.children.left() - limit, []
    for kernel, case in COUNTED:
        child = check.children.run(command(kernel, case), check.children.left() - end)
        if "ERR_NVGPUCTRPERM" in child.text:
            return "skipped", "the driver keeps its counters to itself (ERR_NVGPUCTRPERM)"
        csv += [line for line in child.text.splitlines() if line.startswith('"')]
    (check.out / "ncu.csv").write_text("\n".join(csv) + "\n")
    return ("ok" if csv else "skipped"), f"{len(csv)} lines in ncu.csv"


# --- 6: what follows ---
def report(check, limit):
    if check.anchor and check.anchor["device"] != check.record["device"]["name"]:
        check.say(f"  the anchor is of {check.anchor['device']}, and left out")
    elif check.anchor:
        check.record["anchors"] = check.anchor["rows"]
    records.derive(check.record)
    # Its own entry among the phases comes afterwards.
    wrong = records.problems(check.record)
    for line in wrong[:10]:
        check.say(f"  {line}")
    return ("failed" if wrong else "ok"), f"{len(wrong)} problems with the record"


# (name, seconds at most, the modes that have it)
PHASES = (
    (probe, 100, ("full", "quick", "bench")),
    (correctness, 90, ("full", "quick")),
    (nccl, 60, ("full", "quick")),
    (sanitizer, 120, ("full",)),
    (bench, 180, ("full", "bench")),
    (counters, 40, ("full",)),
    (report, 10, ("full", "quick", "bench")),
)
