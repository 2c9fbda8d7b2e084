# SPDX-License-Identifier: Apache-2.0
"""Reads what tools/nvcc_report keeps beside the objects of a build with nvcc: the registers, spills
and shared memory of every kernel as ptxas says them, and the PTX, both by readable kernel names."""

import pathlib
import re
import subprocess

FIELDS = ("registers", "spill", "stack", "shared")  # all but the first in bytes
NAMESPACES = re.compile(
    r"pinion::kernels::cuda::\(anonymous namespace\)::|pinion::kernels::cuda::"
    r"|pinion::kernels::formulas::|pinion::kernels::|pinion::|\(anonymous namespace\)::"
)
# A kernel in PTX: its name, then everything up to the next function, since a brace at the start of
# a line may end a block of inline assembly only.
ENTRY = re.compile(
    r"^(?:\.visible |\.weak )?\.entry (\w+)\((.*?)"
    r"(?=^(?:\.visible |\.weak )?\.(?:entry|func)\b|\Z)",
    re.M | re.S,
)


class Failure(Exception):
    """What was expected, and what came instead."""


def short(demangled):
    """'void pinion::kernels::cuda::(anonymous namespace)::f<float>(long)' is 'f<float>'."""
    name = NAMESPACES.sub("", demangled)
    depth = 0
    for at, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:at]
            break
    return name.removeprefix("void ").strip()


def readable(mangled):
    """{mangled: short name}, by one call of c++filt."""
    names = sorted(set(mangled))
    if not names:
        return {}
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return dict(zip(names, map(short, done.stdout.splitlines()), strict=True))


def parse_report(text):
    """[(mangled name, architecture, {field: number})] of the lines of `ptxas -v`."""
    kernels, current = [], None
    for line in text.splitlines():
        if m := re.search(r"Compiling entry function '(\S+)' for '(sm_\w+)'", line):
            current = (m[1], m[2], dict.fromkeys(FIELDS, 0))
            kernels.append(current)
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) ", line):
            if current:  # that of a function which the kernel calls counts as well
                current[2]["stack"] += int(m[1])
                current[2]["spill"] += int(m[2]) + int(m[3])
        elif current and (m := re.search(r"Used (\d+) registers", line)):
            current[2]["registers"] = int(m[1])
            shared = re.search(r"(\d+) bytes smem", line)
            current[2]["shared"] = int(shared[1]) if shared else 0
    for name, arch, fields in kernels:
        if fields["registers"] == 0:
            raise Failure(f"expected the registers of {name} for {arch}, got a report without them")
    return kernels


def objects(build):
    """{file name of the .cu: the object's path} of the library's CUDA sources in a build folder."""
    found = {}
    for target in ("pinion", "pinion_sm90a"):
        folder = pathlib.Path(build, "CMakeFiles", f"{target}.dir")
        for path in sorted(folder.glob("kernels/**/*.cu.o")):
            found[path.name.removesuffix(".o")] = path
    return found


def reports(build, sources):
    """{file: {kernel: {architecture: {field: number}}}}; each of `sources` must have a report."""
    built, out = objects(build), {}
    raw = {}
    for source in sources:
        report = built[source].with_name(built[source].name + ".ptxas") if source in built else None
        if not report or not report.exists():
            raise Failure(f"{source}: expected its report in {build}, got none; build it first")
        raw[source] = parse_report(report.read_text())
    names = readable(name for kernels in raw.values() for name, _, _ in kernels)
    for source, kernels in raw.items():
        table = out.setdefault(source, {})
        for name, arch, fields in kernels:
            entry = table.setdefault(names[name], {})
            if arch in entry:
                raise Failure(f"{source}: expected one kernel of a name, got two: {names[name]}")
            entry[arch] = fields
    return out


def ptx(build, source):
    """{architecture: {kernel: its PTX}} of one source."""
    built = objects(build).get(source)
    files = sorted(built.parent.glob(built.name + ".*.ptx")) if built else []
    if not files:
        raise Failure(f"{source}: expected its PTX in {build}, got none; build it first")
    out = {}
    for file in files:
        arch = file.name.removesuffix(".ptx").rsplit(".", 1)[1]
        bodies = dict(ENTRY.findall(file.read_text()))
        names = readable(bodies)
        out[arch] = {names[name]: body for name, body in bodies.items()}
    return out


def compiler(build, source):
    """The version of nvcc that the PTX names: '13.0.88'."""
    built = objects(build).get(source)
    for file in sorted(built.parent.glob(built.name + ".*.ptx")) if built else []:
        if m := re.search(r"Cuda compilation tools, release [\d.]+, V([\d.]+)", file.read_text()):
            return m[1]
    raise Failure(f"{source}: expected PTX that names its compiler, got none")
