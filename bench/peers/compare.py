#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pinion beside PyTorch: the same work, in one process, alternating sample by sample.

    cmake --preset cpu -DPINION_BENCH=ON && cmake --build --preset cpu
    python3 bench/peers/compare.py build/cpu/libpinion_peer.so

A sample is as many runs as take about --sample seconds. One thread is timed by the thread's CPU
time, more by the wall. The ratio is PyTorch's time over Pinion's: of the minima, of the medians,
and the 10th to 90th percentile over the pairs of neighbouring samples, whose number follows: it is
smaller where --samples pairs would take longer than --longest. --memory adds the peak of a process
that runs the workload alone, of either side. --json FILE keeps every figure.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

for key in ("OMP_WAIT_POLICY",):  # before torch loads OpenMP
    os.environ.setdefault(key, "PASSIVE")

import beam_search  # noqa: E402
import report_model  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from pinion_peer import Pinion, print_peak_of  # noqa: E402

# --- the same workloads in PyTorch: name -> function that makes the function to time -----------
SIZES = {"64KiB": 1 << 14, "1MiB": 1 << 18, "16MiB": 1 << 22, "64MiB": 1 << 24}


def no_grad(f):
    def run():
        with torch.no_grad():
            f()

    return run


def unary(f):
    def make(size):
        x = torch.randn(SIZES[size])
        return no_grad(lambda: f(x))

    return make


def add(size):
    a, b = torch.randn(SIZES[size]), torch.randn(SIZES[size])
    return no_grad(lambda: a + b)


def softmax(size):
    x = torch.randn(SIZES[size] // 512, 512)
    return no_grad(lambda: torch.softmax(x, -1))


def layer_norm(size, train=False):
    n = SIZES[size] // 512
    x, g, b, dy = (torch.randn(s) for s in ((n, 512), (512,), (512,), (n, 512)))
    if not train:
        return no_grad(lambda: F.layer_norm(x, (512,), g, b))
    for t in (x, g, b):
        t.requires_grad_(True)

    def run():
        F.layer_norm(x, (512,), g, b).backward(dy)
        x.grad = g.grad = b.grad = None

    return run


def adam(size):
    w = torch.nn.Parameter(torch.randn(SIZES[size]))
    w.grad = torch.randn(SIZES[size])
    return torch.optim.Adam([w], fused=FUSED_ADAM).step


def cross_entropy(shape):
    n, vocabulary = map(int, shape.split("x"))
    x = torch.randn(n, vocabulary, requires_grad=True)
    t = torch.arange(n) * 7919 % vocabulary

    def run():
        F.cross_entropy(x, t).backward()
        x.grad = None

    return run


def linear(dtype):
    def make(shape):
        m, k, n = map(int, shape.split("x"))
        x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        return no_grad(lambda: F.linear(x, w))

    return make


def tiny_op_no_grad(count):
    x = torch.randn(4)

    def loop():
        for _ in range(int(count)):
            torch.relu(x)

    return no_grad(loop)


def tiny_op_fwd_bwd(count):
    x, dy = torch.randn(4, requires_grad=True), torch.randn(4)

    def run():
        y = x
        for _ in range(int(count)):
            y = y * 1.01
        y.backward(dy)
        x.grad = None

    return run


class SimpleNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(10, 32), torch.nn.Linear(32, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def toy(use_loader):
    def make(_):
        model = SimpleNet()
        optimizer = torch.optim.Adam(model.parameters(), fused=FUSED_ADAM)
        criterion = torch.nn.CrossEntropyLoss()
        x, y = torch.randn(1000, 10), torch.arange(1000) * 7919 % 2
        data = torch.utils.data.TensorDataset(x, y)
        loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)

        def step(inputs, labels):
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        def run():
            total = 0.0
            for _ in range(5):
                if use_loader:
                    for inputs, labels in loader:
                        total += step(inputs, labels)
                else:
                    for at in range(0, 1000, 32):
                        total += step(x[at : at + 32], y[at : at + 32])

        return run

    return make


def fused_mlp(dtype):
    def make(width):
        w = int(width)
        layers = []
        for _ in range(4):
            layers += [torch.nn.Linear(w, w), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(w, 16)).to(dtype)
        x, t = torch.randn(65536, w).to(dtype), torch.randn(65536, 16).to(dtype)

        def run():
            F.mse_loss(model(x), t).backward()
            model.zero_grad()

        return run

    return make


PEERS = {
    "relu": unary(torch.relu),
    "exp": unary(torch.exp),
    "sigmoid": unary(torch.sigmoid),
    "tanh": unary(torch.tanh),
    "sum": unary(torch.sum),
    "gelu": unary(F.gelu),
    "gelu_tanh": unary(lambda x: F.gelu(x, approximate="tanh")),
    "add": add,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "layer_norm_fwd_bwd": lambda s: layer_norm(s, True),
    "adam": adam,
    "cross_entropy": cross_entropy,
    "linear_f32": linear(torch.float32),
    "linear_bf16": linear(torch.bfloat16),
    "tiny_op_no_grad": tiny_op_no_grad,
    "tiny_op_fwd_bwd": tiny_op_fwd_bwd,
    "toy_rows": toy(False),
    "toy_loader": toy(True),
    "fused_mlp_f32": fused_mlp(torch.float32),
    "fused_mlp_bf16": fused_mlp(torch.bfloat16),
    **report_model.PEERS,
    "beam_search": beam_search.make,
}


# --- measuring ---------------------------------------------------------------------------------
def cpu_stolen():
    with open("/proc/stat") as f:
        return int(f.readline().split()[8])


def timed(clock, run, times):
    start = clock()
    run(times)
    return (clock() - start) / times


def calibrate(clock, run, sample):
    if timed(clock, run, 1) > sample:
        return 1
    times = 1
    while True:
        seconds = timed(clock, run, times) * times
        if seconds > sample / 2 or times > 1 << 20:
            return max(1, round(times * sample / max(seconds, 1e-9)))
        times *= max(2, min(100, int(sample / max(seconds, 1e-9))))


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def summary(ours, theirs):
    """Figures of paired samples, in seconds."""
    ratios = [y / x for x, y in zip(ours, theirs)]
    return {
        "pinion_s": min(ours),
        "torch_s": min(theirs),
        "ratio_min": min(theirs) / min(ours),
        "ratio_median": statistics.median(theirs) / statistics.median(ours),
        "p10": quantile(ratios, 0.1),
        "p90": quantile(ratios, 0.9),
        "samples": len(ours),
    }


def measure(pinion, index, peer, clock, args):
    def ours(times):
        pinion.run(index, times)

    def theirs(times):
        for _ in range(times):
            peer()

    counts = calibrate(clock, ours, args.sample), calibrate(clock, theirs, args.sample)
    a, b, redone, end = [], [], 0, time.monotonic() + args.longest
    while len(a) < args.samples and (not a or time.monotonic() < end):
        start, stolen = time.monotonic(), cpu_stolen()
        pair = timed(clock, ours, counts[0]), timed(clock, theirs, counts[1])
        short = time.monotonic() - start < 1  # a long one has never the CPU to itself
        if short and cpu_stolen() > stolen + 1 and redone < args.samples:
            redone += 1  # the host took the CPU away meanwhile
            continue
        a.append(pair[0]), b.append(pair[1])
    return summary(a, b)


def peer_of(name):
    kind, size = name.split("/")
    return PEERS[kind](size.split("_")[0])


def print_peak_of_peer(name):
    def work():
        run = peer_of(name)
        for _ in range(2):
            run()

    print_peak_of(work)


def peak_memory(name, args):
    """Of either side in a process of its own, in bytes: of the process, and what the work added."""
    library, threads = os.path.abspath(args.libpinion_peer), str(args.threads)
    here = os.path.abspath(__file__)
    ours = [os.path.join(os.path.dirname(here), "pinion_peer.py"), library, name, threads]
    theirs = [here, library, "--threads", threads, "--peak-of-peer", name]
    peaks = []
    for command in (ours, theirs):
        done = subprocess.run([sys.executable] + command, check=True, stdout=subprocess.PIPE)
        peaks.append([int(x) for x in done.stdout.split()])
    return peaks


SCRIPT = """
import torch
torch.manual_seed(0)
x = torch.randn(1000, 10)
y = (x[:, 0] + x[:, 1] > 0).long()
flip = torch.randperm(1000)[:100]
y[flip] = 1 - y[flip]
class SimpleNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(10, 32), torch.nn.Linear(32, 2)
    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
model = SimpleNet()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = torch.nn.CrossEntropyLoss()
data = torch.utils.data.TensorDataset(x, y)
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
for epoch in range(5):
    total, correct = 0.0, 0
    for inputs, labels in loader:
        optimizer.zero_grad()
        logits = model(inputs)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
        correct += (logits.argmax(1) == labels).sum().item()
    print(f"Epoch {epoch + 1}/5, Loss: {total / len(loader):.4f}, Accuracy: {correct / 10:.2f}%")
torch.save(model.state_dict(), "/dev/null")
"""


def measure_process(program, args):
    """The whole program, from start to exit, against the same script under PyTorch."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ours = [program, "--output_dir", folder + "/run"]
        theirs = [sys.executable, "-c", SCRIPT]

        def wall(command):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - start

        wall(ours), wall(theirs)
        a, b = [], []
        for _ in range(max(3, args.samples // 3)):
            a.append(statistics.mean(wall(ours) for _ in range(5)))
            b.append(wall(theirs))
    return summary(a, b)


def seconds(s):
    for unit, size in (("ns", 1e-9), ("us", 1e-6)):
        if s < 1000 * size:
            return f"{s / size:.1f} {unit}"
    return f"{s * 1e3:.2f} ms"


def megabytes(peak):
    return f"{peak[0] / 2**20:.0f} MiB, {peak[1] / 2**20:.0f} without the libraries"


def row(name, r, flops, bytes_):
    rate = (
        f"{flops / r['pinion_s'] / 1e9:.1f} GF/s"
        if flops
        else f"{bytes_ / r['pinion_s'] / 1e9:.1f} GB/s" if bytes_ else ""
    )
    return (
        f"| {name} | {seconds(r['pinion_s'])} | {rate} | {seconds(r['torch_s'])} | "
        f"**{r['ratio_min']:.2f}** | {r['ratio_median']:.2f} | "
        f"{r['p10']:.2f} .. {r['p90']:.2f} of {r['samples']} |"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "libpinion_peer", help="libpinion_peer.so of a build with -DPINION_BENCH=ON"
    )
    parser.add_argument("--filter", default="", help="only names that contain this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=15, help="pairs per workload (default 15)")
    parser.add_argument(
        "--longest", type=float, default=60, help="seconds for a workload's pairs (default 60)"
    )
    parser.add_argument(
        "--sample", type=float, default=0.02, help="seconds per sample (default 0.02)"
    )
    parser.add_argument(
        "--unfused-adam", action="store_true", help="PyTorch's Adam as it is by default"
    )
    parser.add_argument("--program", help="simple_train: compare the whole process as well")
    parser.add_argument("--memory", action="store_true", help="compare peaks of memory as well")
    parser.add_argument("--peak-of-peer", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    global FUSED_ADAM
    FUSED_ADAM = None if args.unfused_adam else True

    torch.set_num_threads(args.threads)
    if args.peak_of_peer:
        return print_peak_of_peer(args.peak_of_peer)
    pinion = Pinion(os.path.abspath(args.libpinion_peer), args.threads)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    print(
        f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), Pinion rung "
        f"{pinion.lib.pinion_peer_isa().decode()}, {args.threads} thread(s), "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print(
        "| workload | Pinion | rate | PyTorch | ratio of minima | of medians "
        "| p10 .. p90 of pairs |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results = {}
    for index, name in enumerate(pinion.names()):
        if args.filter not in name or name.split("/")[0] not in PEERS:
            continue
        pinion.check(pinion.lib.pinion_peer_open(index))
        results[name] = r = measure(pinion, index, peer_of(name), clock, args)
        pinion.check(pinion.lib.pinion_peer_close(index))
        print(
            row(name, r, pinion.lib.pinion_peer_flops(index), pinion.lib.pinion_peer_bytes(index)),
            flush=True,
        )
        if args.memory:
            r["pinion_bytes"], r["torch_bytes"] = ours, theirs = peak_memory(name, args)
            print(f"    peak of memory: {megabytes(ours)}, PyTorch {megabytes(theirs)}", flush=True)
    if args.program and args.filter in "process":
        results["process"] = r = measure_process(os.path.abspath(args.program), args)
        print(row("process, start to exit", r, 0, 0))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(
                {"torch": torch.__version__, "threads": args.threads, "rows": results}, f, indent=1
            )


if __name__ == "__main__":
    main()
