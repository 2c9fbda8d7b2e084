#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch on the cases of pinion_gpu_bench: the same ids, shapes and way of timing, in one round.

    pinion_gpu_bench --list --out=cases.json
    python3 bench/peers/gpu_peer.py cases.json --impl torch,torch-graph --out round.json

Implementations: torch (eager, as it is by default), torch-fused (the fused optimizer), torch-graph
(the work of a run recorded as a CUDA graph), torch-compile (torch.compile, which takes minutes).
tools/gpu_check alternates rounds of this with rounds of Pinion.
"""

import argparse
import json
import sys
import time

FLUSHED = 256 << 20  # bytes of all sets of operands: as bench/gpu/stopwatch.cpp has it
MOST_SETS, SAMPLE_US, MOST_RUNS = 64, 2000.0, 2000


def numbers(shape):
    return tuple(map(int, shape.split("x")))


class Cases:
    """A function for each kind of case: makes a set of operands, returns the function to time."""

    def __init__(self, torch):
        self.torch, self.f = torch, torch.nn.functional
        self.dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}

    def noise(self, shape, dtype="f32"):
        return self.torch.randn(shape, device="cuda", dtype=self.dtypes[dtype])

    def room(self, shape, dtype="f32"):
        return self.torch.empty(shape, device="cuda", dtype=self.dtypes[dtype])

    def ids(self, n, classes):
        return self.torch.arange(n, device="cuda") * 7919 % classes

    def add(self, shape, dtype):
        a, b, y = self.noise(shape, dtype), self.noise(shape, dtype), self.room(shape, dtype)
        return lambda: self.torch.add(a, b, out=y)

    def gelu_forward(self, shape, dtype):
        x = self.noise(shape, dtype)
        return lambda: self.f.gelu(x)

    def dropout(self, shape, dtype):
        x = self.noise(shape, dtype)
        return lambda: self.f.dropout(x, 0.1)

    def softmax_forward(self, shape, dtype):
        x = self.noise(shape, dtype)
        return lambda: self.torch.softmax(x, -1)

    def layer_norm_forward(self, shape, dtype):
        n = shape[-1:]
        x, g, b = self.noise(shape, dtype), self.noise(n, dtype), self.noise(n, dtype)
        return lambda: self.torch.native_layer_norm(x, n, g, b, 1e-5)

    def layer_norm_backward(self, shape, dtype):
        n = shape[-1:]
        x, dy = self.noise(shape, dtype), self.noise(shape, dtype)
        g, b = self.noise(n, dtype), self.noise(n, dtype)
        _, mean, rstd = self.torch.native_layer_norm(x, n, g, b, 1e-5)
        backward = self.torch.ops.aten.native_layer_norm_backward
        return lambda: backward(dy, x, n, mean, rstd, g, b, [True, True, True])

    def cross_entropy(self, shape, dtype):
        x, target = self.noise(shape, dtype).requires_grad_(True), self.ids(*shape)

        def run():
            self.f.cross_entropy(x, target).backward()
            x.grad = None

        return run

    def sum(self, shape, dtype):
        x = self.noise(shape, dtype)
        return lambda: self.torch.sum(x)

    def adam(self, shape, _, amsgrad=False, **form):
        w = self.torch.nn.Parameter(self.noise(shape))
        w.grad = self.noise(shape)
        return self.torch.optim.Adam([w], amsgrad=amsgrad, **form).step

    def adam_amsgrad(self, shape, dtype, **form):
        return self.adam(shape, dtype, amsgrad=True, **form)

    def linear(self, shape, dtype):
        m, k, n = shape
        x, w = self.noise((m, k), dtype), self.noise((n, k), dtype)
        return lambda: self.f.linear(x, w)

    def mlp(self, width):
        torch, layers = self.torch, []
        for out in [width] * 5 + [16]:
            layers += [torch.nn.Linear(width, out, bias=False), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1]).to("cuda", torch.bfloat16)

    def fused_mlp_train(self, shape, dtype):
        rows, width = shape
        model, x, target = self.mlp(width), self.noise(shape, dtype), self.noise((rows, 16))

        def run():
            self.f.mse_loss(model(x).float(), target).backward()
            for p in model.parameters():
                p.grad = None

        return run

    def fused_mlp_forward(self, shape, dtype):
        model, x = self.mlp(shape[1]), self.noise(shape, dtype)
        return lambda: model(x)

    def batch_norm_step(self, shape, dtype):
        def images():
            n, h, w, c = shape
            x = self.noise((n, c, h, w), dtype)
            return x.to(memory_format=self.torch.channels_last)

        x, residual = images().requires_grad_(True), images().requires_grad_(True)
        norm, dy = self.torch.nn.BatchNorm2d(shape[-1]).cuda(), images()

        def run():
            self.f.relu(norm(x) + residual).backward(dy)
            for p in (x, residual, *norm.parameters()):
                p.grad = None

        return run

    def attention_forward(self, shape, dtype):
        batch, tokens, width = shape
        q, k, v = self.noise((3, batch, 8, tokens, width // 8), dtype)
        attend = self.f.scaled_dot_product_attention
        return lambda: attend(q, k, v, dropout_p=0.1, is_causal=tokens == 60)

    def relational_memory(self, shape):
        """The walk through words whose keys, values and gates are given, as R2Gen's loop has it."""
        torch, f = self.torch, self.f
        batch, steps, slots, width = shape
        linear = lambda out: torch.nn.Linear(width, out).cuda()  # noqa: E731
        project, out, first, second = linear(3 * width), linear(width), linear(width), linear(width)
        gates = linear(2 * width)
        words = self.noise((batch, steps, 4 * width)).requires_grad_(True)
        heads = lambda x: x.view(batch, -1, 8, width // 8).transpose(1, 2)  # noqa: E731

        def walk():
            memory, all_words = torch.eye(slots, width, device="cuda").expand(batch, -1, -1), []
            for t in range(steps):
                key, value, word = words[:, t : t + 1].split((width, width, 2 * width), -1)
                q, k, v = project(memory).split(width, -1)
                k, v = torch.cat((k, key), 1), torch.cat((v, value), 1)
                scores = heads(q) @ heads(k).transpose(-2, -1) / (width // 8) ** 0.5
                z = f.dropout(torch.softmax(scores, -1), 0.1) @ heads(v)
                a = memory + out(z.transpose(1, 2).reshape(batch, slots, width))
                a = a + f.relu(second(f.relu(first(a))))
                i, forget = (word + gates(torch.tanh(memory))).chunk(2, -1)
                memory = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(forget) * memory
                all_words.append(memory.reshape(batch, -1))
            return torch.stack(all_words, 1)

        layers = torch.nn.ModuleList((project, out, first, second, gates))
        return walk, [words, *layers.parameters()]

    def relational_memory_forward(self, shape, _):
        return self.relational_memory(shape)[0]

    def relational_memory_step(self, shape, _):
        walk, leaves = self.relational_memory(shape)
        dy = self.noise((shape[0], shape[1], shape[2] * shape[3]))

        def run():
            walk().backward(dy)
            for p in leaves:
                p.grad = None

        return run

    def toy_train(self, shape, dtype):
        if shape[0] > 1:  # one model after the other would be no peer
            return None
        step = self.toy_step(shape, dtype)

        def run():
            for _ in range(160):
                step()

        return run

    def toy_step(self, shape, _, **form):
        torch = self.torch
        linear = torch.nn.Linear
        model = torch.nn.Sequential(linear(10, 32), torch.nn.ReLU(), linear(32, 2)).cuda()
        optimizer = torch.optim.Adam(model.parameters(), **form)
        x, y = self.noise((1000, 10)), self.ids(1000, 2)
        at = [0]

        def run():
            i = at[0]
            optimizer.zero_grad()
            self.f.cross_entropy(model(x[i : i + 32]), y[i : i + 32]).backward()
            optimizer.step()
            at[0] = i + 32 if i + 64 <= 1000 else 0

        return run


# Record gradients while they run.
TRAINED = {
    "batch_norm_step", "cross_entropy", "fused_mlp_train", "relational_memory_step", "toy_step",
    "toy_train",
}  # fmt: skip
STATEFUL = {"adam", "adam_amsgrad", "toy_step"}  # have an optimizer
# Where launches may take longer than the work.
GRAPHED = (TRAINED - {"toy_train"}) | {
    "fused_mlp_forward", "linear", "relational_memory_forward",
}  # fmt: skip
COMPILED = {
    "add", "batch_norm_step", "gelu_forward", "softmax_forward", "layer_norm_forward",
    "cross_entropy", "sum",
    "fused_mlp_train", "fused_mlp_forward", "toy_step",
}  # fmt: skip


def graphed(torch, run):
    """The run as one CUDA graph, warmed up beforehand on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def make(cases, impl, kind, shape, dtype):
    """The function to time, or None where this implementation has no such case."""
    torch, build = cases.torch, getattr(cases, kind, None)
    if build is None or kind in ("noise", "room", "ids", "mlp", "relational_memory"):
        return None
    form = {}
    if impl == "torch-fused":
        if kind not in STATEFUL:
            return None
        form = {"fused": True}
    if impl == "torch-graph":
        if kind not in GRAPHED:
            return None
        form = {"fused": True, "capturable": True} if kind in STATEFUL else {}
    if impl == "torch-compile" and kind not in COMPILED:
        return None
    run = build(shape, dtype, **form)
    if run is None:
        return None
    if impl == "torch-graph":
        return graphed(torch, run)
    return torch.compile(run, mode="max-autotune-no-cudagraphs") if impl == "torch-compile" else run


class Stopwatch:
    def __init__(self, torch, runs):
        self.cuda, self.runs, self.next = torch.cuda, runs, 0
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample(self, count):
        """(the device's, the host's) microseconds of a run."""
        self.begin.record()
        start = time.perf_counter()
        for _ in range(count):
            self.runs[self.next % len(self.runs)]()
            self.next += 1
        asked = time.perf_counter() - start
        self.end.record()
        self.end.synchronize()
        return 1e3 * self.begin.elapsed_time(self.end) / count, 1e6 * asked / count


def time_case(torch, cases, impl, case, samples):
    """A row of the output, or None where this implementation has no such case."""
    kind, dtype, shape = case["id"].split("/")
    mode = torch.enable_grad() if kind in TRAINED else torch.no_grad()
    with mode:
        return timed(torch, cases, impl, case, samples, kind, numbers(shape), dtype)


def timed(torch, cases, impl, case, samples, kind, shape, dtype):
    first = make(cases, impl, kind, shape, dtype)
    if first is None:
        return None
    cold = case["cold"]
    sets = min(MOST_SETS, -(-FLUSHED // cold) + 1) if cold else 1
    runs = [first] + [make(cases, impl, kind, shape, dtype) for _ in range(sets - 1)]
    watch = Stopwatch(torch, runs)
    watch.sample(max(len(runs), 3))
    one = watch.sample(len(runs))[0]
    batch = int(min(max(SAMPLE_US / max(one, 0.1), 1), MOST_RUNS))
    times = [watch.sample(batch) for _ in range(samples)]
    return {
        **case,
        "impl": impl,
        "sets": len(runs),
        "batch": batch,
        "host_us": min(host for _, host in times),
        "samples_us": [device for device, _ in times],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", help="what pinion_gpu_bench --list says")
    parser.add_argument("--impl", default="torch,torch-fused,torch-graph")
    parser.add_argument("--filter", default="", help="only ids that contain this")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--out", help="write here instead of to standard output")
    parser.add_argument("--list", action="store_true", help="which cases it knows; needs no torch")
    args = parser.parse_args()
    with open(args.cases) as file:
        wanted = [c for c in json.load(file)["bench"] if args.filter in c["id"]]
    if args.list:
        print("\n".join(c["id"] for c in wanted if hasattr(Cases, c["id"].split("/")[0])))
        return 0

    import torch

    if not torch.cuda.is_available():
        print("gpu_peer: expected a CUDA device, found none", file=sys.stderr)
        return 72
    torch.manual_seed(17)
    out = {"impl": "torch", "torch": torch.__version__, "bench": [], "failed": {}}
    cases = Cases(torch)
    for case in wanted:
        for impl in args.impl.split(","):
            try:
                row = time_case(torch, cases, impl, case, args.samples)
            except RuntimeError as error:  # one case that does not run ends no round
                out["failed"][f"{impl} {case['id']}"] = str(error).splitlines()[0]
                continue
            finally:
                torch.cuda.empty_cache()
            if row:
                out["bench"].append(row)
                print(f"{impl} {case['id']}", file=sys.stderr)
    text = json.dumps(out, indent=1)
    if args.out:
        with open(args.out, "w") as file:
            file.write(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
