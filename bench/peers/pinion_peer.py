# SPDX-License-Identifier: Apache-2.0
"""Pinion's workloads, by the C interface of peer.cpp; and, as a program, the peak memory of one.

    python3 bench/peers/pinion_peer.py build/cpu/libpinion_peer.so WORKLOAD [THREADS]
"""

import ctypes
import sys


class Pinion:
    def __init__(self, path, threads):
        self.lib = ctypes.CDLL(path)
        for f in ("name", "error", "isa"):
            getattr(self.lib, "pinion_peer_" + f).restype = ctypes.c_char_p
        for f in ("flops", "bytes"):
            getattr(self.lib, "pinion_peer_" + f).restype = ctypes.c_double
        self.check(self.lib.pinion_peer_threads(threads))

    def check(self, status):
        if status:
            raise RuntimeError(self.lib.pinion_peer_error().decode())

    def names(self):
        return [self.lib.pinion_peer_name(i).decode() for i in range(self.lib.pinion_peer_count())]

    def run(self, index, times):
        self.check(self.lib.pinion_peer_run(index, times))


def resident(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field)) * 1024


def print_peak_of(work):
    """The peak of this process in bytes, and how much of it work() added."""
    before = resident("VmRSS")
    work()
    peak = resident("VmHWM")
    print(peak, peak - before)


def main():
    pinion = Pinion(sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    index = pinion.names().index(sys.argv[2])

    def work():
        pinion.check(pinion.lib.pinion_peer_open(index))
        pinion.run(index, 2)

    print_peak_of(work)


if __name__ == "__main__":
    main()
