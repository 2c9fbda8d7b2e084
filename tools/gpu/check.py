# SPDX-License-Identifier: Apache-2.0
"""Runs the phases of a GPU check on a bundle, keeps results.json whole after each, and ends with
the table of goals. tools/gpu_check starts it."""

import argparse
import datetime
import json
import os
import pathlib
import sys
import tempfile
import time
import traceback

import bundle as bundles
import children
import phases
import ptxas
import record as records

RESERVE = 15  # seconds of the budget that are left for the report
BUDGET = {"full": 540, "quick": 200, "bench": 540}


class Check:
    def __init__(self, args, bundle, out):
        self.bundle, self.out, self.mode, self.dry = bundle, out, args.mode, args.dry_run
        self.python = args.python
        self.manifest = json.loads((bundle / "manifest.json").read_text())
        self.has_device = self.has_torch = False
        self.tools = {}
        self.children = children.Children(out / "log.txt", time.monotonic() + args.budget)
        now = datetime.datetime.now(datetime.timezone.utc)
        self.record = {
            "schema": records.SCHEMA,
            "utc": now.strftime("%Y%m%dT%H%M%SZ"),
            "mode": args.mode,
            "git": self.manifest["git"],
            "device": {"name": "none", "driver": "none"},
            "toolchain": dict(self.manifest["toolchain"]),
            "phases": [],
            "build": self.manifest["build"],
            "tests": {"passed": 0, "failed": 0, "skipped": 0, "list": []},
            "sanitizer": {},
            "bench": [],
            "anchors": [],
        }
        self.anchor = json.loads(pathlib.Path(args.anchor).read_text()) if args.anchor else None

    def bin(self, name):
        return self.bundle / "bin" / name

    def say(self, text):
        print(text, flush=True)
        self.children.log(text)

    def save(self):
        """Rewrites results.json as a whole, so that a kill leaves the last one."""
        records.derive(self.record)
        part = self.out / "results.json.part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(self.record, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.out / "results.json")

    def run_phase(self, phase, limit):
        room = self.children.left() - (0 if phase is phases.report else RESERVE)
        begin = time.monotonic()
        if room < 5 and phase is not phases.report:
            state, why = "skipped", "the budget is spent"
        elif not (self.has_device or self.dry or phase in (phases.probe, phases.report)):
            state, why = "skipped", "no device"
        else:
            try:
                state, why = phase(self, min(limit, room))
            except Exception as error:  # the other phases go on
                self.children.log(traceback.format_exc())
                state, why = "failed", f"{type(error).__name__}: {error}"
        entry = {"name": phase.__name__, "state": state, "why": why,
                 "seconds": round(time.monotonic() - begin, 3)}  # fmt: skip
        self.record["phases"].append(entry)
        self.say(f"{phase.__name__:<12} {state:<8} {entry['seconds']:6.1f} s  {why}")
        self.save()

    def run(self):
        (self.out / "ptxas.txt").write_text(
            "".join(
                f"{k['kernel']} {k['arch']}: {k['regs']} registers, {k['spill']} bytes spilled, "
                f"{k['smem']} bytes shared\n"
                for k in self.manifest["build"]["ptxas"]
            )
        )
        for phase, limit, modes in phases.PHASES:
            if self.mode in modes or self.dry:
                self.run_phase(phase, limit)
        for line in goal_table(self.record):
            self.say(line)
        failed = [p["name"] for p in self.record["phases"] if p["state"] == "failed"]
        if not self.dry and not self.has_device:
            return phases.NO_DEVICE
        return 1 if failed else 0


def goal_table(record):
    """The last lines of a check: every goal, what is needed and what came."""
    texts = {g["id"]: g for g in records.goals()}
    yield f"{'goal':<62} {'need':>8} {'got':>10}  state"
    for goal in record["goals"]:
        text = texts[goal["id"]]["text"] + f" [{texts[goal['id']]['metric']}]"
        got = "-" if goal["got"] is None else f"{goal['got']:.4g}"
        yield f"{text:<62} {goal['need']:>8.4g} {got:>10}  {goal['state']}"


def parse():
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--mode", choices=sorted(BUDGET), default="full")
    parser.add_argument("--budget", type=float, help="seconds for everything (540; quick 200)")
    parser.add_argument("--dry-run", action="store_true", help="all but the device")
    parser.add_argument("--bundle", help="the bundle to check: a folder or an archive")
    parser.add_argument("--make-bundle", metavar="TARGET", help="make a bundle, check nothing")
    parser.add_argument("--build", default=str(records.ROOT / "build" / "cuda"))
    parser.add_argument("--out", help="folder for what is found ($OUT, or build/gpu-out)")
    parser.add_argument("--anchor", metavar="FILE", help="an opponent's times from elsewhere: "
                        '{"device", "rows": [{"id", "impl", "version", "median_us"}]}')  # fmt: skip
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    args = parser.parse_args()
    args.budget = args.budget or BUDGET[args.mode]
    return args


def find_bundle(args, work):
    """The folder of the bundle to check, and the size of what would travel."""
    source = args.bundle
    if not source and (records.ROOT / "manifest.json").exists():
        source = records.ROOT  # this script is in one
    if not source:
        source = work / "bundle.tar.gz"
        bundles.make(source, args.build)
    return bundles.unpack(source, work / "unpacked"), bundles.size_of(source)


def main():
    args = parse()
    if args.make_bundle:
        size = bundles.make(args.make_bundle, args.build)
        print(f"{args.make_bundle}: {size / 2**20:.1f} MiB")
        return 0
    out = pathlib.Path(args.out or os.environ.get("OUT") or records.ROOT / "build" / "gpu-out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="pinion-gpu-") as work:
        folder, size = find_bundle(args, pathlib.Path(work))
        bundles.settle(folder)
        if args.dry_run:
            bundles.check_relocated(folder)
        status = Check(args, folder, out.absolute()).run()
    print(f"results: {out / 'results.json'}")
    if args.dry_run:
        word = "all well" if status == 0 else "something failed"
        print(f"dry run: {word}; the bundle has {size / 2**20:.1f} MiB")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (bundles.Failure, ptxas.Failure) as failure:
        print(f"gpu_check: {failure}", file=sys.stderr)
        sys.exit(1)
