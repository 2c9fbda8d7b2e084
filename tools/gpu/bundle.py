# SPDX-License-Identifier: Apache-2.0
"""The bundle of a GPU check: stripped programs of a build with nvcc, the libraries they need that a
system may lack, and the files of the tree that the check reads, in one folder or archive that runs
from anywhere."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import time

import ptxas
import record

ROOT = record.ROOT
MOST = 60 << 20  # bytes of an archive: what carries it may take 64 MiB
PROGRAMS = ("pinion_tests", "pinion_gpu_bench", "simple_train")
FILES = (
    "tools/gpu_check", "tools/gpu/check.py", "tools/gpu/phases.py", "tools/gpu/children.py",
    "tools/gpu/bundle.py", "tools/gpu/record.py", "tools/gpu/ptxas.py", "bench/gpu/goals.json",
    "bench/peers/gpu_peer.py",
)  # fmt: skip
# Of the C library, which every system has and none can bring along.
SYSTEM = re.compile(r"^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|util|resolv)\.so)")

# Opened at run time where they are wanted, so that a machine without them loses nothing.
NEVER_LINKED = re.compile(r"^lib(cuda|cudart|cublas|cublasLt|cudnn\w*|nccl)\.so")


class Failure(Exception):
    """What was expected, and what came instead."""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: expected status 0, got {done.returncode}\n"
                      + done.stdout + done.stderr)  # fmt: skip
    return done.stdout


def libraries(program):
    """{name: path} of the shared libraries that a program needs."""
    out = {}
    for line in run("ldd", program).splitlines():
        if "not found" in line:
            raise Failure(f"{program}: expected all its libraries, got{line.rstrip()}")
        if m := re.match(r"\s*(\S+) => (\S+)", line):
            out[m[1]] = pathlib.Path(m[2])
    return out


def check_linked(program, names):
    """A program must start on a machine without a driver and without CUDA's libraries."""
    for name in names:
        if NEVER_LINKED.match(name):
            raise Failure(f"{program}: expected no library of CUDA to be linked, got {name}")


def git(*command):
    done = subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def manifest(build):
    """What the check cannot know where there is no tree: the revision, the kernels, the tests."""
    sources = sorted(p.name for p in (ROOT / "kernels" / "cuda").glob("*.cu"))
    reports = ptxas.reports(build, sources)
    kernels = [
        {"kernel": name, "arch": arch, "regs": f["registers"], "spill": f["spill"],
         "smem": f["shared"]}
        for table in reports.values()
        for name, archs in table.items()
        for arch, f in archs.items()
    ]  # fmt: skip
    compiler = run("c++", "--version").splitlines()[0]
    return {
        "git": {
            "sha": git("rev-parse", "HEAD") or "unknown",
            "dirty": bool(git("status", "--porcelain")),
            "source_hash": record.source_hashes(),
        },
        "toolchain": {"nvcc": ptxas.compiler(build, sources[0]), "c++": compiler},
        "build": {"ptxas": kernels},
        "tests": sorted(p.name for p in (ROOT / "tests" / "cuda").glob("cuda_*_test.cpp")),
    }


def fill(folder, build):
    """Lays the bundle out in an empty folder."""
    for sub in ("bin", "lib"):
        (folder / sub).mkdir(parents=True)
    needed = {}
    for name in PROGRAMS:
        program = pathlib.Path(build) / name
        if not program.exists():
            raise Failure(f"{program}: expected this program, found none; build the cuda preset "
                          "with -DPINION_BENCH=ON")  # fmt: skip
        own = libraries(program)
        check_linked(program, own)
        needed |= own
        shutil.copy2(program, folder / "bin" / name)
        run("strip", folder / "bin" / name)
    for name, path in needed.items():
        if not SYSTEM.match(name):
            shutil.copy2(path.resolve(), folder / "lib" / name)
            run("strip", "--strip-unneeded", folder / "lib" / name)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest(build), indent=1) + "\n")


def check_relocated(folder):
    """The programs must take from the bundle whatever is not the system's, wherever it lies."""
    for name in PROGRAMS:
        for library, path in libraries(folder / "bin" / name).items():
            if not SYSTEM.match(library) and path.resolve().parent != (folder / "lib").resolve():
                raise Failure(f"{name}: expected {library} of the bundle, got {path}")


def size_of(path):
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def pack(folder, archive):
    if archive.name.endswith(".tar.zst"):
        tar = subprocess.Popen(["tar", "-C", folder.parent, "-c", folder.name], stdout=-1)
        run("zstd", "-q", "-f", "-10", "-o", archive, stdin=tar.stdout)
        if tar.wait() != 0:
            raise Failure(f"{archive}: expected tar to succeed, got status {tar.returncode}")
    else:
        with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
            tar.add(folder, folder.name)


def make(target, build):
    """Makes the bundle as an archive or a folder; returns its size in bytes."""
    target = pathlib.Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as work:
        folder = pathlib.Path(work) / "pinion-gpu-check"
        fill(folder, build)
        check_relocated(folder)
        if target.name.endswith((".tar.zst", ".tar.gz")):
            part = pathlib.Path(work) / target.name
            pack(folder, part)
            os.replace(part, target)
        else:
            if target.exists() and not (target / "manifest.json").exists():
                raise Failure(f"{target}: expected a bundle or nothing there, got something else")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
    if (size := size_of(target)) > MOST:
        raise Failure(f"{target}: expected at most {MOST >> 20} MiB, got {size / 2**20:.1f}")
    return size


def settle(folder):
    """Gives up the bundle's C++ library where it was built for a newer C library than is here."""
    own = [folder / "lib" / name for name in ("libstdc++.so.6", "libgcc_s.so.1")]
    program = folder / "bin" / "pinion_gpu_bench"
    if subprocess.run([program, "--list"], capture_output=True).returncode == 0:
        return
    for library in own:
        library.unlink(missing_ok=True)


def unpack(source, into):
    """The bundle's folder: the source itself, or what its archive holds."""
    source = pathlib.Path(source).absolute()
    if not source.is_dir():
        begin = time.monotonic()
        into.mkdir(parents=True, exist_ok=True)
        run("tar", "-C", into, "-xf", source)
        source = into / "pinion-gpu-check"
        print(f"unpacked in {time.monotonic() - begin:.1f} s")
    if not (source / "manifest.json").exists():
        raise Failure(f"{source}: expected a bundle (manifest.json), found none")
    return source
