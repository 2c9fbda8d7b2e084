#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pinion's shm all-reduce beside MPI's and Gloo's (through PyTorch), in turns, round by round.

    cmake --preset cpu -DPINION_BENCH=ON
    ninja -C build/cpu pinion_all_reduce pinion_all_reduce_mpi
    python3 bench/peers/all_reduce.py build/cpu [--rounds 5] [--ranks 2] [--ms 300]

What is not there is left out: no mpirun, no row of MPI; a Python without torch, no row of Gloo. A
figure is the median over the rounds of a round's median; the ratio is a row's over shm-symmetric.
The last columns are the CPU time of a copy of as many bytes over a rank's CPU time in the
all-reduce: a copy in the library's blocks, in huge pages where they can be, and in pages of 4 KiB.
"""

import argparse
import collections
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

SIZES = (4 << 10, 256 << 10, 4 << 20, 25 << 20)


def gloo_rank(milliseconds):
    import torch
    import torch.distributed as dist

    cores = sorted(os.sched_getaffinity(0))
    dist.init_process_group("gloo")
    if len(cores) >= dist.get_world_size():  # as mpirun and pinion_all_reduce do
        os.sched_setaffinity(0, {cores[dist.get_rank()]})
    torch.set_num_threads(1)
    for size in SIZES:
        x = torch.zeros(size // 4)

        def once():
            begin = time.perf_counter()
            dist.all_reduce(x)
            return (time.perf_counter() - begin) * 1e6

        each = max([once() for _ in range(8)][3:])
        calls = torch.tensor([min(max(milliseconds * 1000 / each, 5), 20000)], dtype=torch.float64)
        dist.broadcast(calls, 0)
        dist.barrier()
        times = sorted(once() for _ in range(int(calls.item())))
        if dist.get_rank() == 0:
            print("gloo", size, times[len(times) // 2], times[0], flush=True)
    dist.destroy_process_group()


def lines(text):
    for line in text.splitlines():
        what, size, *figures = line.split()
        yield what, int(size), [float(x) for x in figures]


def run_gloo(ranks, milliseconds):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(ranks):
        env = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                   WORLD_SIZE=str(ranks), GLOO_SOCKET_IFNAME="lo")
        command = [sys.executable, __file__, "--gloo-rank", "--ms", str(milliseconds)]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    return "".join(p.communicate()[0] for p in processes)


def run(command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ms", type=float, default=300)
    parser.add_argument("--gloo-rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.gloo_rank:
        return gloo_rank(args.ms)
    try:
        import torch  # noqa: F401

        has_gloo = True
    except ImportError:
        has_gloo = False
    ranks, ms = str(args.ranks), str(args.ms)
    mpi = os.path.join(args.build, "pinion_all_reduce_mpi")
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    medians, cpu = collections.defaultdict(list), collections.defaultdict(list)
    for _ in range(args.rounds):
        text = run([os.path.join(args.build, "pinion_all_reduce"), ranks, ms])
        if shutil.which("mpirun") and os.path.exists(mpi):
            text += run(["mpirun", "--oversubscribe", "-np", ranks, mpi, ms])
        if has_gloo:
            text += run_gloo(args.ranks, args.ms)
        for what, size, figures in lines(text):
            medians[what, size].append(figures[0])
            if len(figures) > 2:
                cpu[what, size].append(figures[2])
    print(f"{'bytes':>9} {'what':<14} {'us':>11} {'ratio':>8} {'copy/cpu':>9} {'4k/cpu':>9}")
    for what, size in sorted(medians, key=lambda key: key[1]):
        us = statistics.median(medians[what, size])
        base = statistics.median(medians["shm-symmetric", size])
        rates = ""
        if (what, size) in cpu:
            for copy in "memcpy", "memcpy-4k":
                rate = statistics.median(cpu[copy, size]) / statistics.median(cpu[what, size])
                rates += f" {rate:9.2f}"
        print(f"{size:9} {what:<14} {us:11.2f} {us / base:8.2f}{rates}")


if __name__ == "__main__":
    main()
