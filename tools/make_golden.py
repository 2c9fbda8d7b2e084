#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/ops.safetensors: for the rows of tests/nn/op_cases.h their inputs, the result
that PyTorch computes from them, a gradient dy of that result, and the gradients of the inputs.

Inputs are f32; PyTorch computes in f64, so that the stored values (rounded to f32) are the true
ones to the last bit. Needs torch and safetensors; the tests need only the file.

    python3 tools/make_golden.py
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "ops.safetensors"
generator = torch.Generator().manual_seed(20260101)


# --- inputs ----------------------------------------------------------------------------------


def real(*shape):
    return torch.rand(shape, generator=generator) * 4 - 2


def positive(*shape):
    return torch.rand(shape, generator=generator) * 1.5 + 0.5


def nonzero(*shape):
    x = real(*shape)
    return x + 0.2 * x.sign()


def ids(below, *shape):
    return torch.randint(below, shape, generator=generator)


def mask(*shape):
    return torch.rand(shape, generator=generator) < 1 / 3


# --- what PyTorch calls the operations -------------------------------------------------------


def cross_entropy(x, target, weight=None, smoothing=0.0, ignore=-100):
    """Mean over the tokens that count, weighted per token; F.cross_entropy weighs classes."""
    x, target = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    losses = F.cross_entropy(
        x, target, reduction="none", label_smoothing=smoothing, ignore_index=ignore
    )
    w = torch.ones_like(losses) if weight is None else weight.reshape(-1).to(losses.dtype)
    w = w * (target != ignore)
    return (w * losses).sum() / w.sum()


def bmm(transpose_a, transpose_b):
    def run(a, b):
        return torch.bmm(a.mT if transpose_a else a, b.mT if transpose_b else b)

    return run


def linear(activation, bias=True):
    def run(x, w, b=None):
        return activation(F.linear(x, w, b))

    inputs = [real(4, 7), real(5, 7), real(5)]
    return run, *(inputs if bias else inputs[:2])


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def attention(causal=False, scale=None):
    """Of [B,T,H,d]; a mask is true for the keys that no query sees."""

    def run(q, k, v, mask=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if mask is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        else:
            hidden = mask[:, None, None, :]
            if causal:
                hidden = hidden | torch.ones(q.shape[2], k.shape[2]).triu(1).bool()
            scores = q @ k.mT * (scale or q.shape[-1] ** -0.5)
            y = scores.masked_fill(hidden, -1e9).softmax(-1) @ v
        return y.transpose(1, 2)

    return run


def unbiased_norm(eps):
    """Deltas come per row."""

    def run(x, gamma, beta, delta_gamma=0, delta_beta=0):
        xhat = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps)
        return (gamma + delta_gamma) * xhat + (beta + delta_beta)

    return run


def channels_last(run):
    """PyTorch has channels in front; in Pinion they are last, of images and of filters."""

    def images(x):
        return x.permute(0, 3, 1, 2) if x is not None and x.dim() == 4 else x

    return lambda *x: run(*map(images, x)).permute(0, 2, 3, 1)


def conv2d(**window):
    return channels_last(lambda x, w, b=None: F.conv2d(x, w, b, **window))


def batch_norm(groups=1, relu=False, **options):
    def run(x, gamma, beta, residual=None):
        parts = [
            F.batch_norm(part, None, None, gamma, beta, training=True, **options)
            for part in x.chunk(groups)
        ]
        y = torch.cat(parts)
        y = y if residual is None else y + residual
        return y.relu() if relu else y

    return channels_last(run)


def batch_norm_eval(x, gamma, beta, mean, var, residual=None):
    y = F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), gamma, beta)
    return y if residual is None else (y + residual).relu()


def distinct(*shape):
    n = torch.Size(shape).numel()
    return (0.03 * (torch.arange(n) * 37 % n - n // 2)).reshape(shape)


def image_rows():
    s, c = (4, 3, 2, 7), 7

    def affine():
        return real(c), real(c)

    return {
        "conv2d": (conv2d(), real(2, 5, 6, 3), real(4, 3, 2, 3), real(4)),
        "conv2d_strided": (
            conv2d(stride=2, padding=1),
            *(real(2, 7, 6, 3), real(5, 3, 3, 3), real(5)),
        ),
        "conv2d_dilated": (conv2d(padding=2, dilation=2), real(1, 9, 8, 2), real(3, 3, 2, 2)),
        "conv2d_1x1": (conv2d(), real(2, 3, 4, 5), real(6, 1, 1, 5)),
        "conv2d_1x1_strided": (conv2d(stride=2), real(2, 5, 4, 5), real(6, 1, 1, 5), real(6)),
        "conv2d_wide_padding": (conv2d(padding=4), real(1, 2, 3, 2), real(2, 3, 3, 2)),
        "batch_norm2d": (batch_norm(), real(*s), *affine()),
        "batch_norm2d_groups": (batch_norm(groups=2, eps=0.1), real(*s), *affine()),
        "batch_norm2d_relu": (batch_norm(relu=True), real(*s), *affine()),
        "batch_norm2d_residual": (batch_norm(), real(*s), *affine(), real(*s)),
        "batch_norm2d_residual_relu": (
            batch_norm(groups=4, relu=True),
            *(real(*s), *affine(), real(*s)),
        ),
        "batch_norm2d_eval": (
            channels_last(batch_norm_eval),
            *(real(*s), *affine(), positive(c), positive(c)),
        ),
        "batch_norm2d_eval_residual_relu": (
            channels_last(batch_norm_eval),
            *(real(*s), *affine(), positive(c), positive(c), real(*s)),
        ),
        "max_pool2d": (
            channels_last(lambda x: F.max_pool2d(x, 3, 2, 1)),
            distinct(2, 6, 5, 3),
        ),
        "max_pool2d_overlapping": (
            channels_last(lambda x: F.max_pool2d(x, 3, 1)),
            distinct(1, 5, 7, 4),
        ),
        "max_pool2d_apart": (
            channels_last(lambda x: F.max_pool2d(x, 2, 3)),
            distinct(2, 7, 8, 3),
        ),
        "avg_pool2d": (channels_last(lambda x: F.avg_pool2d(x, 3, 2, 1)), real(2, 6, 5, 3)),
        "adaptive_avg_pool2d": (
            channels_last(lambda x: F.adaptive_avg_pool2d(x, (3, 2))),
            real(2, 7, 5, 3),
        ),
        "adaptive_avg_pool2d_enlarging": (
            channels_last(lambda x: F.adaptive_avg_pool2d(x, (5, 3))),
            real(1, 2, 3, 2),
        ),
        "global_avg_pool2d": (lambda x: x.mean((1, 2)), real(2, 3, 4, 5)),
    }


def rows():
    """Row name: (function, inputs...). Shapes are those of tests/nn/op_cases.h."""
    s, cube, four = (3, 7), (3, 4, 5), (2, 3, 4, 5)
    few, more = (2, 3, 2, 5), (2, 7, 2, 5)
    return {
        "add": (torch.add, real(*s), real(*s)),
        "add_itself": (lambda x: x + x, real(*s)),
        "subtract": (torch.sub, real(*s), real(*s)),
        "multiply": (torch.mul, real(*s), real(*s)),
        "multiply_itself": (lambda x: x * x, real(*s)),
        "divide": (torch.div, real(*s), nonzero(*s)),
        "add_number": (lambda x: x + 0.75, real(*s)),
        "subtract_number": (lambda x: x - 0.75, real(*s)),
        "multiply_number": (lambda x: x * 1.5, real(*s)),
        "number_multiply": (lambda x: -0.5 * x, real(*s)),
        "divide_number": (lambda x: x / 3, real(*s)),
        "negate": (torch.neg, real(*s)),
        "affine": (lambda x: 2.5 * x - 1, real(*s)),
        "relu": (F.relu, nonzero(*s)),
        "gelu_erf": (F.gelu, real(*s)),
        "gelu_tanh": (gelu_tanh, real(*s)),
        "sigmoid": (torch.sigmoid, real(*s)),
        "tanh": (torch.tanh, real(*s)),
        "exp": (torch.exp, real(*s)),
        "log": (torch.log, positive(*s)),
        "masked_fill": (lambda x, m: x.masked_fill(m, -3.5), real(*s), mask(*s)),
        "cast_to_f64": (lambda x: -x.double(), real(*s)),
        "cast_to_bf16": (lambda x: -x.bfloat16(), real(*s)),
        "matmul": (torch.matmul, real(5, 7), real(7, 3)),
        "bmm": (bmm(False, False), real(2, 5, 7), real(2, 7, 3)),
        "bmm_first_transposed": (bmm(True, False), real(2, 7, 5), real(2, 7, 3)),
        "bmm_second_transposed": (bmm(False, True), real(2, 5, 7), real(2, 3, 7)),
        "bmm_both_transposed": (bmm(True, True), real(2, 7, 5), real(2, 3, 7)),
        "linear": linear(lambda x: x),
        "linear_without_bias": linear(lambda x: x, bias=False),
        "linear_3d": (F.linear, real(2, 3, 7), real(5, 7), real(5)),
        "linear_vector": (F.linear, real(7), real(5, 7), real(5)),
        "linear_relu": linear(F.relu),
        "linear_gelu": linear(F.gelu),
        "linear_gelu_tanh": linear(gelu_tanh),
        "linear_gelu_without_bias": linear(F.gelu, bias=False),
        "add_bias": (torch.add, real(2, 3, 7), real(7)),
        "sum": (torch.sum, real(*cube)),
        "sum_first": (lambda x: x.sum(0), real(*cube)),
        "sum_middle": (lambda x: x.sum(1), real(*cube)),
        "sum_last": (lambda x: x.sum(-1), real(*cube)),
        "mean": (torch.mean, real(*cube)),
        "mean_middle": (lambda x: x.mean(1), real(*cube)),
        "max_first": (lambda x: x.max(0).values, real(*cube)),
        "max_middle": (lambda x: x.max(-2).values, real(*cube)),
        "max_last": (lambda x: x.max(2).values, real(*cube)),
        "argmax_middle": (lambda x: x.argmax(1), real(*cube)),
        "argmax_last": (lambda x: x.argmax(-1), real(*cube)),
        "softmax": (lambda x: x.softmax(-1), real(*s)),
        "softmax_wide": (lambda x: x.softmax(-1), real(2, 3, 37)),
        "log_softmax": (lambda x: x.log_softmax(-1), real(*s)),
        "layer_norm": (lambda x, g, b: F.layer_norm(x, (7,), g, b), real(*s), real(7), real(7)),
        "layer_norm_3d": (
            lambda x, g, b: F.layer_norm(x, (37,), g, b, eps=0.1),
            *(real(2, 3, 37), real(37), real(37)),
        ),
        "cross_entropy": (F.cross_entropy, real(6, 7), ids(7, 6)),
        "cross_entropy_ignoring": (
            lambda x, t: F.cross_entropy(x, t, ignore_index=2),
            *(real(6, 3), ids(3, 6)),
        ),
        "cross_entropy_smoothed": (
            lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
            *(real(6, 7), ids(7, 6)),
        ),
        "cross_entropy_weighted": (cross_entropy, real(6, 7), ids(7, 6), positive(6)),
        "cross_entropy_everything": (
            lambda x, t, w: cross_entropy(x, t, w, smoothing=0.2, ignore=2),
            *(real(2, 5, 4), ids(4, 2, 5), positive(2, 5)),
        ),
        "mse_loss": (F.mse_loss, real(*s), real(*s)),
        "reshape": (lambda x: x.reshape(6, 20), real(*four)),
        "transpose": (lambda x: x.transpose(0, 1), real(3, 7)),
        "transpose_heads": (lambda x: x.transpose(1, 2), real(*four)),
        "transpose_far": (lambda x: x.transpose(-1, 0), real(*four)),
        "concat_first": (lambda *x: torch.cat(x, 0), real(2, 3), real(1, 3), real(4, 3)),
        "concat_middle": (lambda *x: torch.cat(x, 1), real(2, 1, 3), real(2, 4, 3)),
        "concat_six": (lambda *x: torch.cat(x + x, -1), real(2, 3), real(2, 1), real(2, 2)),
        "slice_first": (lambda x: x[1:4], real(5, 3)),
        "slice_middle": (lambda x: x[:, :, 1:3], real(*four)),
        "slice_last": (lambda x: x[..., 2:7], real(3, 7)),
        "gather_first": (lambda x, i: x.gather(0, i), real(3, 7), ids(3, 5, 7)),
        "gather_last": (lambda x, i: x.gather(-1, i), real(3, 7), ids(7, 3, 9)),
        "embedding": (lambda w, i: F.embedding(i, w), real(6, 5), ids(6, 2, 4)),
        "embedding_padding": (
            lambda w, i: F.embedding(i, w, padding_idx=2),
            *(real(3, 5), ids(3, 2, 4)),
        ),
        "attention": (attention(), real(*few), real(*more), real(*more)),
        "attention_causal": (attention(True, 0.3), real(*more), real(*more), real(*more)),
        "attention_masked": (attention(), real(*few), real(*more), real(*more), mask(2, 7)),
        "attention_causal_masked": (
            attention(True),
            *(real(*more), real(*few), real(*few), mask(2, 3)),
        ),
        "self_attention": (lambda x: attention()(*x.unbind(2)), real(2, 5, 3, 2, 4)),
        "layer_norm_in_its_form": (
            lambda x, g, b: F.layer_norm(x, (37,), g, b, eps=0.1),
            *(real(2, 3, 37), real(37), real(37)),
        ),
        "layer_norm_unbiased": (unbiased_norm(0.1), real(2, 3, 37), real(37), real(37)),
        "layer_norm_unbiased_two": (unbiased_norm(0.5), real(5, 2), real(2), real(2)),
        "conditional_layer_norm": (
            unbiased_norm(0.01),
            *(real(2, 3, 37), real(37), real(37), real(2, 3, 37), real(2, 3, 37)),
        ),
        "conditional_layer_norm_torch": (
            lambda x, g, b, dg, db: F.layer_norm(x, (8,)) * (g + dg) + b + db,
            *(real(5, 8), real(8), real(8), real(5, 8), real(5, 8)),
        ),
    }


CONSTANT_INPUTS = {
    ("cross_entropy_weighted", 2),
    ("cross_entropy_everything", 2),
    ("batch_norm2d_eval", 3),
    ("batch_norm2d_eval", 4),
    ("batch_norm2d_eval_residual_relu", 3),
    ("batch_norm2d_eval_residual_relu", 4),
}


def golden(name, run, *inputs):
    leaves = []
    for i, x in enumerate(inputs):
        wanted = x.is_floating_point() and (name, i) not in CONSTANT_INPUTS
        leaves.append(x.double().requires_grad_() if wanted else x)
    y = run(*leaves)
    out = {f"x{i}": x for i, x in enumerate(inputs)}
    # Casts keep the type that they ask for; everything else goes back to the inputs' f32.
    keep = name.startswith("cast") or not y.is_floating_point()
    out["y"] = y.detach() if keep else y.detach().float()
    if y.requires_grad:
        out["dy"] = real(*y.shape).to(out["y"].dtype)
        y.backward(out["dy"].to(y.dtype))
        for i, x in enumerate(leaves):
            if x.requires_grad:
                out[f"dx{i}"] = x.grad.float()
    return {f"{name}.{part}": t.contiguous() for part, t in out.items()}


def main():
    tensors = {}
    for part in rows, image_rows:
        for name, (run, *inputs) in part().items():
            tensors.update(golden(name, run, *inputs))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_bytes(save(tensors, metadata={"made_by": f"torch {torch.__version__}"}))
    print(f"{OUTPUT}: {len(tensors)} tensors, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
