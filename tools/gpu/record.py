# SPDX-License-Identifier: Apache-2.0
"""Records of a GPU check: how rounds become medians, medians ratios, and ratios the state of goals,
and what a record must look like. Everything derived is computed here and nowhere else, so that a
test can compute it again from the medians of the rounds."""

import hashlib
import json
import math
import pathlib
import re
import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCHEMA = 1
ROUNDS = 5  # alternated with the opponent's: fewer show a figure, but decide no goal
COPY, GEMM = "ceiling_copy/f32/268435456", "linear/bf16/8192x8192x8192"

# --- source files ---
DECLARATIONS = {"kernels.h", "check.h"}  # change with every new kernel, and no kernel's code


def source_hash(path, root=ROOT):
    """SHA-256 over a kernel file and what it includes of kernels/, in the order of names."""
    seen, todo = set(), [path]
    while todo:
        file = todo.pop()
        if file in seen or file.name in DECLARATIONS or not file.exists():
            continue
        seen.add(file)
        included = re.findall(r'#include "pinion/(kernels/[^"]+)"', file.read_text())
        todo += [root / path for path in included]
    digest = hashlib.sha256()
    for file in sorted(seen):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def source_hashes(root=ROOT):
    files = sorted((root / "kernels" / "cuda").glob("*.cu"))
    return {file.name: source_hash(file, root) for file in files}


# --- from rounds to goals ---
def quantile(values, q):
    """By linear interpolation between the two nearest."""
    v = sorted(values)
    at = q * (len(v) - 1)
    low = math.floor(at)
    return v[low] + (v[min(low + 1, len(v) - 1)] - v[low]) * (at - low)


def merge(outputs):
    """Benchmark rows of a record from the outputs of its rounds, in the order they were run."""
    rows = {}
    for output in outputs:
        for r in output["bench"]:
            row = rows.setdefault((r["id"], r["impl"]), {**r, "rounds_us": [], "all": []})
            row["rounds_us"].append(statistics.median(r["samples_us"]))
            row["all"] += r["samples_us"]
            row["host_us"] = min(row["host_us"], r["host_us"])
    bench = []
    for row in rows.values():
        samples = row.pop("all")
        row.pop("samples_us")
        row |= {"reps": len(samples), "p10": quantile(samples, 0.1), "p90": quantile(samples, 0.9)}
        bench.append(row)
    return bench


def row_of(bench, bench_id, impl):
    return next((r for r in bench if r["id"] == bench_id and r["impl"] == impl), None)


def ceilings_of(bench):
    """What this device reached: bytes moved by copies, and flops of the larger of two products."""
    out = {}
    if copy := row_of(bench, COPY, "pinion"):
        out["copy_tbs"] = copy["bytes"] / copy["median_us"] / 1e6
    rates = [r["flops"] / r["median_us"] / 1e6 for r in bench if r["id"] == GEMM]
    if rates:
        out["gemm_bf16_tflops"] = max(rates)
    return out


def derive(record):
    """Computes what follows from the rounds: medians, shares of ceilings, pairs, goals' states."""
    bench = record["bench"]
    for row in bench:
        row["median_us"] = statistics.median(row["rounds_us"])
    ceilings = record["ceilings"] = ceilings_of(bench)
    for row in bench:
        row["pct_bw"] = share(row["bytes"], row["median_us"], ceilings.get("copy_tbs"))
        row["pct_flops"] = share(row["flops"], row["median_us"], ceilings.get("gemm_bf16_tflops"))
    record["pairs"] = pairs_of(bench)
    record["goals"] = [goal_state(g, record) for g in goals()]
    return record


def share(amount, microseconds, ceiling):
    """In percent of a ceiling of 1e12 a second; None where there is nothing to say."""
    return 100 * amount / microseconds / 1e6 / ceiling if amount and ceiling else None


def pairs_of(bench):
    pairs = []
    for other in bench:
        own = row_of(bench, other["id"], "pinion")
        if other["impl"] == "pinion" or not own:
            continue
        ratios = [t / p for p, t in zip(own["rounds_us"], other["rounds_us"])]
        pairs.append(
            {
                "id": other["id"],
                "opponent": other["impl"],
                "rounds": len(ratios),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return pairs


def goals(path=None):
    return json.loads((path or ROOT / "bench" / "gpu" / "goals.json").read_text())


AT_MOST = ("time_us", "host_us")  # metrics of which less is better


def anchor_of(goal, record):
    """The opponent's time from elsewhere: the same kind of device, but not the same command."""
    if goal["metric"] != "ratio":
        return None
    wanted = (goal["bench"], goal["opponent"])
    return next((a for a in record["anchors"] if (a["id"], a["impl"]) == wanted), None)


def got_of(goal, record):
    """(the figure that the goal is about, the rounds it comes from), or (None, 0)."""
    own = row_of(record["bench"], goal["bench"], "pinion")
    if not own:
        return None, 0
    metric, rounds = goal["metric"], len(own["rounds_us"])
    if metric == "ratio":
        for pair in record["pairs"]:
            if (pair["id"], pair["opponent"]) == (goal["bench"], goal["opponent"]):
                return pair["ratio"], pair["rounds"]
        anchor = anchor_of(goal, record)
        return (anchor["median_us"] / own["median_us"], rounds) if anchor else (None, 0)
    if metric == "of_copy":
        return None if own["pct_bw"] is None else own["pct_bw"] / 100, rounds
    if metric == "of_gemm":
        return None if own["pct_flops"] is None else own["pct_flops"] / 100, rounds
    return {"time_us": own["median_us"], "host_us": own["host_us"]}[metric], rounds


def goal_state(goal, record):
    got, rounds = got_of(goal, record)
    state = "PENDING"
    if got is not None and rounds >= ROUNDS:
        met = got <= goal["need"] if goal["metric"] in AT_MOST else got >= goal["need"]
        state = "PASS" if met else "MISS"
    return {"id": goal["id"], "need": goal["need"], "got": got, "state": state}


# --- what a record looks like ---
TEXT, NUMBER, MAYBE = str, (int, float), (int, float, type(None))
ROW = {
    "id": TEXT, "impl": TEXT, "shape": TEXT, "dtype": TEXT, "bytes": NUMBER, "flops": NUMBER,
    "median_us": NUMBER, "p10": NUMBER, "p90": NUMBER, "reps": int, "rounds_us": [NUMBER],
    "host_us": NUMBER, "pct_bw": MAYBE, "pct_flops": MAYBE,
}  # fmt: skip
RECORD = {
    "schema": int,
    "utc": TEXT,
    "mode": TEXT,
    "git": {"sha": TEXT, "dirty": bool, "source_hash": {"*": TEXT}},
    "device": {"name": TEXT, "driver": TEXT},
    "toolchain": {"*": TEXT},
    "phases": [{"name": TEXT, "state": TEXT, "seconds": NUMBER, "why": TEXT}],
    "ceilings": {"*": NUMBER},
    "build": {"ptxas": [{"kernel": TEXT, "arch": TEXT, "regs": int, "spill": int, "smem": int}]},
    "tests": {"passed": int, "failed": int, "skipped": int, "list": [TEXT]},
    "sanitizer": {"*": {"errors": int}},
    "bench": [ROW],
    "pairs": [{"id": TEXT, "opponent": TEXT, "rounds": int, "ratio": NUMBER, "ratio_min": NUMBER,
               "ratio_max": NUMBER}],
    "anchors": [{"id": TEXT, "impl": TEXT, "version": TEXT, "median_us": NUMBER}],
    "goals": [{"id": TEXT, "need": NUMBER, "got": MAYBE, "state": TEXT}],
}  # fmt: skip
STATES = {"PASS", "MISS", "PENDING"}


def misfits(value, shape, where="record"):
    """Where a value is not of its shape: a line each."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: expected an object, got {value!r}"]
        if "*" in shape:
            return [m for k, v in value.items() for m in misfits(v, shape["*"], f"{where}.{k}")]
        out = [f"{where}.{k}: expected a value, found none" for k in shape if k not in value]
        for key in shape.keys() & value.keys():
            out += misfits(value[key], shape[key], f"{where}.{key}")
        return out
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {value!r}"]
        return [m for i, v in enumerate(value) for m in misfits(v, shape[0], f"{where}[{i}]")]
    good = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    return [] if good else [f"{where}: expected another type, got {value!r}"]


def differences(a, b, where="record"):
    """Where two derivations disagree by more than rounding in print."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = [f"{where}.{k}: only on one side" for k in sorted(a.keys() ^ b.keys())]
        return out + [d for k in sorted(a.keys() & b.keys())
                      for d in differences(a[k], b[k], f"{where}.{k}")]  # fmt: skip
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, (int, float)):
        return [] if math.isclose(a, b, rel_tol=1e-9) else [f"{where}: {a} is not {b}"]
    return [] if a == b else [f"{where}: {a!r} is not {b!r}"]


def problems(record):
    """What is wrong with a record: its form, or a figure that its rounds do not give."""
    out = misfits(record, RECORD)
    if out:
        return out
    if record["schema"] != SCHEMA:
        return [f"record.schema: expected {SCHEMA}, got {record['schema']}"]
    for row in record["bench"]:
        if not row["rounds_us"] or min(row["rounds_us"]) <= 0:
            return [f"{row['id']}: expected times above 0, got {row['rounds_us']}"]
    # The goals of its time: their numbers may have changed since.
    again = derive(json.loads(json.dumps(record)))
    known = {g["id"]: g["need"] for g in record["goals"]}
    again["goals"] = [g for g in again["goals"] if known.get(g["id"]) == g["need"]]
    kept = {g["id"] for g in again["goals"]}
    mine = {**record, "goals": [g for g in record["goals"] if g["id"] in kept]}
    out = [f"{g['id']}: expected a state of {sorted(STATES)}, got {g['state']}"
           for g in record["goals"] if g["state"] not in STATES]  # fmt: skip
    return out + differences(mine, again)
