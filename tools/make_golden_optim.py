#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/optim*.safetensors: what PyTorch's optimizers, schedules, clipping and
gradient scaler do on small inputs, and a module's weights as PyTorch saves them. Needs torch, numpy
and safetensors; the tests need only the files.

    python3 tools/make_golden_optim.py
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"

STEPS = 20
SHAPES = {"a": (3, 5), "b": (7,)}

# Keys are read by tests/optim/optim_test.cpp: a case is known there by the same name and options.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, dict(lr=0.05)),
    "sgd_decay": (torch.optim.SGD, dict(lr=0.05, weight_decay=0.1)),
    "sgd_momentum": (torch.optim.SGD, dict(lr=0.05, momentum=0.9)),
    "sgd_dampening": (
        torch.optim.SGD,
        dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.01),
    ),
    "sgd_nesterov": (
        torch.optim.SGD,
        dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "adam": (torch.optim.Adam, dict(lr=0.01)),
    "adam_decay": (torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "adam_amsgrad": (torch.optim.Adam, dict(lr=0.01, betas=(0.7, 0.8), amsgrad=True)),
    "adamw": (torch.optim.AdamW, dict(lr=0.01)),
    "adamw_amsgrad": (
        torch.optim.AdamW,
        dict(lr=0.02, weight_decay=0.3, betas=(0.7, 0.8), amsgrad=True),
    ),
}
# "b" has no gradient in these steps: its moments and its count of steps stand still.
WITHOUT_B = {0, 5, 6, 7, 13}


def inputs():
    rng = np.random.default_rng(20)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    # Gradients of very different sizes, some exactly zero.
    grads = {}
    for name, shape in SHAPES.items():
        shape = (STEPS,) + shape
        size = 10.0 ** rng.uniform(-4, 1, size=shape)
        grads[name] = rng.normal(size=shape) * size * (rng.uniform(size=shape) > 0.1)
    # Representable in f32, so that both precisions start from the same numbers.
    as_f32 = lambda x: x.astype(np.float32).astype(np.float64)
    return {k: as_f32(v) for k, v in start.items()}, {k: as_f32(v) for k, v in grads.items()}


def trajectory(make, options, dtype, start, grads):
    params = {k: torch.tensor(v, dtype=dtype, requires_grad=True) for k, v in start.items()}
    optimizer = make(list(params.values()), **options)
    rows = []
    for step in range(STEPS):
        for name, p in params.items():
            missing = name == "b" and step in WITHOUT_B
            p.grad = None if missing else torch.tensor(grads[name][step], dtype=dtype)
        optimizer.step()
        rows.append(torch.cat([p.detach().flatten() for p in params.values()]).numpy())
    return np.stack(rows)


def clipping(start, grads):
    out = {}
    for max_norm in (0.5, 1e6):
        params = [torch.tensor(v, requires_grad=True) for v in start.values()]
        for p, name in zip(params, SHAPES):
            p.grad = torch.tensor(grads[name][3])
        norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
        key = "clip.small" if max_norm == 0.5 else "clip.large"
        out[key + ".norm"] = np.array(norm.item())
        out[key + ".grads"] = torch.cat([p.grad.flatten() for p in params]).numpy()
    return out


def learning_rates(make, steps, lr=0.1):
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return np.array(rates, dtype=np.float64)


def schedules():
    s = torch.optim.lr_scheduler
    warmup = lambda t, w=4, n=20: t / w if t < w else max(0.0, (n - t) / (n - w))

    def cycle(steps, **options):
        return learning_rates(
            lambda opt: s.OneCycleLR(opt, max_lr=0.1, total_steps=steps, **options), steps
        )

    return {
        "step": learning_rates(lambda opt: s.StepLR(opt, step_size=3, gamma=0.5), 20),
        "multi_step": learning_rates(lambda opt: s.MultiStepLR(opt, [2, 5, 5, 11], gamma=0.3), 20),
        "cosine": learning_rates(lambda opt: s.CosineAnnealingLR(opt, T_max=8, eta_min=0.01), 25),
        "lambda": learning_rates(lambda opt: s.LambdaLR(opt, lambda t: 0.9**t), 20),
        "linear_warmup": learning_rates(lambda opt: s.LambdaLR(opt, warmup), 25),
        "one_cycle": cycle(50),
        "one_cycle_linear": cycle(37, pct_start=0.25, anneal_strategy="linear", div_factor=10.0),
        "one_cycle_three": cycle(40, pct_start=0.4, three_phase=True, final_div_factor=100.0),
        "one_cycle_short": cycle(3, pct_start=0.1),
    }


def scaler():
    """The scale and the growth tracker after each update for a pattern of infinities."""
    pattern = np.random.default_rng(7).uniform(size=400) < 0.12
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torch_scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**13, growth_interval=5, growth_factor=1.7, backoff_factor=0.4
    )
    scales, trackers = [], []
    for infinite in pattern:
        weight.grad = torch.full((2,), float("inf") if infinite else 1.0)
        torch_scaler.scale(torch.zeros(()))  # creates the scale
        torch_scaler.step(optimizer)
        torch_scaler.update()
        scales.append(torch_scaler.get_scale())
        trackers.append(torch_scaler._get_growth_tracker())
    return {
        "infinite": pattern.astype(np.uint8),
        "scale": np.array(scales, dtype=np.float64),
        "tracker": np.array(trackers, dtype=np.int64),
    }


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6, padding_idx=0)
        self.norm = torch.nn.LayerNorm(6)
        first, second = torch.nn.Linear(6, 9), torch.nn.Linear(9, 4, bias=False)
        self.layers = torch.nn.ModuleList([first, second])

    def forward(self, ids):
        x = self.norm(self.embedding(ids))
        return self.layers[1](torch.nn.functional.gelu(self.layers[0](x)))


def module():
    torch.manual_seed(5)
    model = Model()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.uniform_(-0.5, 0.5)
    ids = torch.tensor([[1, 0, 10], [4, 4, 2]])
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    return weights, {"ids": ids.numpy(), "y": model(ids).detach().numpy()}


def main():
    start, grads = inputs()
    out = {f"start.{k}": v for k, v in start.items()} | {f"grads.{k}": v for k, v in grads.items()}
    out["without_b"] = np.array(sorted(WITHOUT_B), dtype=np.int64)
    for name, (make, options) in OPTIMIZERS.items():
        out[name + ".f64"] = trajectory(make, options, torch.float64, start, grads)
        out[name + ".f32"] = trajectory(make, options, torch.float32, start, grads)
    out |= clipping(start, grads)
    made_by = {"made_by": f"torch {torch.__version__}"}
    save_file(out, GOLDEN / "optim.safetensors", made_by)
    save_file(schedules(), GOLDEN / "optim_schedules.safetensors", made_by)
    save_file(scaler(), GOLDEN / "optim_scaler.safetensors", made_by)
    weights, values = module()
    save_file(weights, GOLDEN / "optim_module.safetensors", {"format": "pt"})
    save_file(values, GOLDEN / "optim_module_values.safetensors", made_by)


if __name__ == "__main__":
    main()
