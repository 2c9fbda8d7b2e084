# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md from what is committed: budgets, cases, goals, and the records of GPU checks.
A figure of a kernel whose source has changed since is STALE; one that nobody took is PENDING."""

import json
import math
import pathlib
import re
import textwrap

import ptxas
import record as records

# Of an H100 80GB HBM3, until a record brings this project's own: copies on the device (read and
# write together) and a bf16 product of 8192 x 8192 x 8192.
COPY_TBS, GEMM_TFLOPS = 3.0, 798.0


class Evidence:
    """Everything the page is made of, read from a tree."""

    def __init__(self, root, results=None):
        self.root = pathlib.Path(root)
        bench = self.root / "bench" / "gpu"
        self.budgets = json.loads((self.root / "kernels" / "budgets.json").read_text())
        self.cases = {c["id"]: c for c in json.loads((bench / "cases.json").read_text())["bench"]}
        self.kernels = json.loads((bench / "kernels.json").read_text())
        self.goals = records.goals(bench / "goals.json")
        self.hashes = records.source_hashes(self.root)
        folder = results or self.root / "bench" / "results" / "gpu"
        files = sorted(folder.glob("*/*.json"), key=lambda p: p.name)  # names begin with the time
        self.records = [(p, json.loads(p.read_text())) for p in files]

    def newest(self, wanted):
        """The newest record that `wanted` accepts, or None."""
        return next((r for _, r in reversed(self.records) if wanted(r)), None)

    def stale(self, record, sources):
        then = record["git"]["source_hash"]
        return any(then.get(s) != self.hashes.get(s) for s in sources)


def floor_us(case):
    return max(case["bytes"] / COPY_TBS / 1e6, case["flops"] / GEMM_TFLOPS / 1e6)


def number(value, digits=3):
    """Three digits, without an exponent: 0.00123, 1.23, 1230."""
    if value is None:
        return "—"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def wrapped(text):
    return textwrap.fill(text, 100)


def row(*cells):
    return "| " + " | ".join(str(c) for c in cells) + " |"


# --- goals ---
METRICS = {
    "of_copy": ("of copy bandwidth", 100, " %"), "of_gemm": ("of the rate of products", 100, " %"),
    "time_us": ("at most", 1, " µs"), "host_us": ("at most", 1, " µs"), "ratio": ("", 1, " x"),
}  # fmt: skip


def amount(goal, value):
    _, scale, unit = METRICS[goal["metric"]]
    return "—" if value is None else number(scale * value) + unit


def goal_row(evidence, goal):
    case = evidence.cases.get(goal["bench"])
    peer = goal.get("opponent", "—")
    record = evidence.newest(lambda r: records.got_of(goal, r)[0] is not None)
    got, state = None, "PENDING"
    if record:
        got = records.got_of(goal, record)[0]
        state = records.goal_state(goal, record)["state"]
        if state != "PENDING" and evidence.stale(record, goal["sources"]):
            state = "STALE"
        if records.anchor_of(goal, record):
            peer += " (anchor: same kind of device, not the same command)"
    word = METRICS[goal["metric"]][0]
    need = (f"{word} " if word == "at most" else "") + amount(goal, goal["need"])
    need += f" {word}" if word.startswith("of") else ""
    floor = number(floor_us(case)) + " µs" if case and floor_us(case) else "—"
    return row(goal["text"], need, amount(goal, goal.get("stretch")), amount(goal, got), state,
               floor, peer)  # fmt: skip


# --- kernels ---
def definition_lines(text):
    """{kernel: lines of its definition} of the __global__ functions of a file."""
    out = {}
    for m in re.finditer(r"__global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\(", text):
        body = text.index("{", m.end())
        end = text.index("\n}", body)
        out[m[1]] = text[m.start() : end].count("\n") + 2
    return out


def spread(values):
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def entry_points(evidence, source):
    """The kernels of kernels/kernels*.h that a file defines for CUDA."""
    text = (evidence.root / "kernels" / "cuda" / source).read_text()
    found = re.findall(r"^void (\w+)\(const CudaContext&", text, re.M)
    return set(found) | set(evidence.kernels["serves"].get(source, []))


def simulator_cases(evidence, source):
    """(tests that call the file's kernels by name, rows of op_cases.h of ops that use them)."""
    names = entry_points(evidence, source)
    through = evidence.kernels["through"].get(source)  # what else tests call it by
    tests = 0
    for path in sorted((evidence.root / "tests" / "cuda").glob("cuda_*_test.cpp")):
        for body in re.split(r"^(?=TEST)", path.read_text(), flags=re.M)[1:]:
            called = set(re.findall(r"kernels::(\w+)\(", body))
            tests += bool(called & names or (through and through in body))
    ops = set()
    for name in names:
        ops |= set(evidence.kernels["ops"].get(name, [re.sub(r"_(forward|backward)$", "", name)]))
    return tests, sum(function in ops for function in op_rows(evidence))


def op_rows(evidence):
    """The function that each row of op_cases.h covers: a text there, or the name of one."""
    files = sorted((evidence.root / "tests" / "nn").glob("op_cases*.h"))
    text = "".join(p.read_text() for p in files)
    named = dict(re.findall(r'const char\* const (\w+) = "([^"(]+)\(', text))
    rows = re.findall(r'\{"\w+",\s*(?:"([^"(]+)\(|(\w+),)', text)
    return [function or named.get(name, name) for function, name in rows]


def gpu_state(evidence, source):
    """Whether the tests passed on a GPU with this very source."""
    record = evidence.newest(lambda r: r["tests"]["passed"] + r["tests"]["failed"] > 0)
    if not record:
        return "PENDING"
    if evidence.stale(record, [source]):
        return "STALE"
    return "MISS" if record["tests"]["failed"] else "PASS"


def kernel_rows(evidence):
    folder = evidence.root / "kernels" / "cuda"
    shared_lines = {}
    for header in sorted(folder.glob("*.cuh")):
        lines = definition_lines(header.read_text())
        shared_lines |= {name: f"{n} ({header.name})" for name, n in lines.items()}
    for source, kernels in sorted(evidence.budgets["kernels"].items()):
        own = definition_lines((folder / source).read_text())
        tests, op_count = simulator_cases(evidence, source)
        groups = {}
        for name, archs in kernels.items():
            groups.setdefault(name.split("<")[0], []).append(archs)
        for name, forms in sorted(groups.items()):
            yield kernel_row(evidence, source, name, forms, own.get(name, shared_lines.get(name)),
                             f"{tests} + {op_count}")  # fmt: skip


def kernel_row(evidence, source, name, forms, lines, simulated):
    field = {f: i for i, f in enumerate(ptxas.FIELDS)}
    registers = []
    for arch in sorted({a for form in forms for a in form}):
        registers.append(spread([form[arch][field["registers"]] for form in forms if arch in form]))
    each = [numbers for form in forms for numbers in form.values()]
    spilled = sum(n[field["spill"]] > 0 for n in each)
    shared = spread([n[field["shared"]] for n in each])
    case = evidence.cases.get(evidence.kernels["case"].get(f"{source} {name}", ""))
    moved = computed = floor = "—"
    if case:
        elements = math.prod(map(int, case["shape"].split("x")))
        moved = number(case["bytes"] / elements) if case["flops"] == 0 else "—"
        computed = number(case["flops"] / elements) if case["flops"] else "—"
        floor = f"{number(floor_us(case))} µs"
    return row(f"`{name}`", source, lines or "—", len(forms), *registers,
               f"{spilled} of {len(each)}" if spilled else "0", shared, moved, computed, floor,
               simulated, gpu_state(evidence, source))  # fmt: skip


# --- times ---
def time_rows(evidence):
    for bench_id, case in evidence.cases.items():
        record = evidence.newest(lambda r: records.row_of(r["bench"], bench_id, "pinion"))
        if not record:
            continue
        own = records.row_of(record["bench"], bench_id, "pinion")
        ratios = [f"{number(p['ratio'])} ({number(p['ratio_min'])} to {number(p['ratio_max'])})"
                  f" {p['opponent']}" for p in record["pairs"] if p["id"] == bench_id]  # fmt: skip
        yield row(f"`{bench_id}`", number(own["median_us"]),
                  f"{number(own['p10'])} to {number(own['p90'])}", number(own["pct_bw"]),
                  number(own["pct_flops"]), number(floor_us(case)), ", ".join(ratios) or "—",
                  record["device"]["name"])  # fmt: skip


# --- the page ---
HEAD = """# Performance on GPUs

Made by `tools/performance_page` from the budgets of the kernels (`kernels/budgets.json`), the goals
(`bench/gpu/goals.json`) and the records in `bench/results/gpu/`; a test holds it to them. Every
figure is of a record that `tools/gpu_check` took in one command, Pinion and its peer in turns.

A goal is **PASS** or **MISS** by the newest record that has it, **STALE** when a kernel behind it
has changed since that record, **PENDING** when no record has it, or fewer than {rounds} rounds.
"""


def page(evidence):
    out = [HEAD.format(rounds=records.ROUNDS)]
    if evidence.records:
        out.append(f"Records: {len(evidence.records)}; the newest is "
                   f"`{evidence.records[-1][0].name}`.\n")  # fmt: skip
    else:
        out.append("There is no record yet: **nothing on this page has run on a GPU**. What is\n"
                   "here was counted by the compiler or computed.\n")  # fmt: skip
    out += ["## Goals", "", row("goal", "need", "stretch", "got", "state", "floor", "peer"),
            row(*["---"] * 7)]  # fmt: skip
    out += [goal_row(evidence, g) for g in evidence.goals]
    out += ["", wrapped(
        f"The floor is computed: the bytes that must move at {COPY_TBS} TB/s, or the flops at "
        f"{GEMM_TFLOPS:.0f} TFLOP/s, whichever takes longer (an H100's copies and its bf16 "
        "products). Ratios are the peer's time over Pinion's."
    )]  # fmt: skip
    times = list(time_rows(evidence))
    if times:
        head = ("case", "median µs", "p10 to p90", "% of copy", "% of product rate", "floor µs",
                "times as fast as", "device")  # fmt: skip
        out += ["", "## Times", "", row(*head), row(*["---"] * len(head)), *times]
    out += ["", *kernel_section(evidence)]
    return "\n".join(out) + "\n"


def kernel_section(evidence):
    rows = list(kernel_rows(evidence))
    archs = sorted({a for k in evidence.budgets["kernels"].values() for f in k.values() for a in f})
    forms = sum(len(k) for k in evidence.budgets["kernels"].values())
    head = ("kernel", "file", "lines", "forms", *(f"registers {a}" for a in archs), "spills",
            "shared bytes", "bytes/element", "flops/element", "floor", "simulator",
            "GPU")  # fmt: skip
    return ["## Kernels", "", wrapped(
            f"{len(rows)} kernels in {forms} forms (element types and shapes), compiled by nvcc "
            f"{evidence.budgets['nvcc']} for {' and '.join(archs)}. Shared memory is what a kernel "
            "declares; what a launch adds is not in it. Bytes and flops are of the case that times "
            "it, of an element of its shape; the floor is that case's. \"simulator\" counts the "
            "tests that call kernels of the file by name, and the rows of `tests/nn/op_cases.h` "
            "that go through them; all of these run on the simulated device in every build without "
            "CUDA."), "", row(*head), row(*["---"] * len(head)), *rows]  # fmt: skip
