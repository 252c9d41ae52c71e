#!/usr/bin/env python3
"""The transformer's step and the decoder's layers in PyTorch, for comparison.

This file is part of libwan; see the licence in wan/wan.h.

The same shapes as wan-bench, random weights, bf16 with
scaled_dot_product_attention; eager and through torch.compile. One block is
timed and multiplied, as all are alike. The modules are written here from the
equations; F32 residual stream, norms in F32, as the reference has them under
autocast.

    torch_bench.py [--seconds N]
"""

import argparse
import time

import torch
import torch.nn.functional as F

MODELS = {  # dim, heads, ffn, layers
    "t2v-1.3B": (1536, 12, 8960, 30),
    "t2v-14B": (5120, 40, 13824, 40),
}
CASES = [("t2v-1.3B", 832, 480, 81), ("t2v-14B", 832, 480, 81),
         ("t2v-14B", 1280, 720, 81)]
TEXT = 512


class Block(torch.nn.Module):
    def __init__(self, dim, heads, ffn, dev):
        super().__init__()
        self.heads = heads
        lin = lambda i, o: torch.nn.Linear(i, o, device=dev,
                                           dtype=torch.bfloat16)
        self.q, self.k, self.v, self.o = (lin(dim, dim) for _ in range(4))
        self.cq, self.ck, self.cv, self.co = (lin(dim, dim) for _ in range(4))
        self.f1, self.f2 = lin(dim, ffn), lin(ffn, dim)
        self.gain = torch.nn.Parameter(torch.ones(4, dim, device=dev))
        self.norm3 = torch.nn.LayerNorm(dim, device=dev)
        self.dim = dim

    def rms(self, x, i):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return y * self.gain[i]

    def rope(self, x, cos, sin):
        L = x.shape[0]
        y = x.view(L, self.heads, -1, 2)
        a, b = y[..., 0], y[..., 1]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).view(
            L, self.heads, -1).bfloat16()

    def sdpa(self, q, k, v):
        split = lambda t: t.view(t.shape[0], self.heads, -1).transpose(0, 1)[None]
        y = F.scaled_dot_product_attention(split(q), split(k), split(v))
        return y[0].transpose(0, 1).reshape(q.shape[0], -1)

    def forward(self, x, mod, cos, sin, text):
        h = F.layer_norm(x, (self.dim,)) * (1 + mod[1]) + mod[0]
        h = h.bfloat16()
        q = self.rope(self.rms(self.q(h), 0), cos, sin)
        k = self.rope(self.rms(self.k(h), 1), cos, sin)
        x = x + self.o(self.sdpa(q, k, self.v(h))).float() * mod[2]
        h = self.norm3(x).bfloat16()
        q = self.rms(self.cq(h), 2).bfloat16()
        k = self.rms(self.ck(text), 3).bfloat16()
        x = x + self.co(self.sdpa(q, k, self.cv(text))).float()
        h = F.layer_norm(x, (self.dim,)) * (1 + mod[4]) + mod[3]
        y = self.f2(F.gelu(self.f1(h.bfloat16()), approximate="tanh"))
        return x + y.float() * mod[5]


def timed(fn, n=5):
    for _ in range(2):
        fn()
    torch.cuda.synchronize()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        fn()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[n // 2]


def ceiling():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / timed(lambda: a @ b, 10)


def step(model, width, height, frames, compiled, top):
    dim, heads, ffn, layers = MODELS[model]
    L = ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    block = Block(dim, heads, ffn, "cuda")
    x = torch.randn(L, dim, device="cuda")
    mod = torch.randn(6, dim, device="cuda") * 0.1
    angle = torch.randn(L, 1, dim // heads // 2, device="cuda")
    text = torch.randn(TEXT, dim, device="cuda", dtype=torch.bfloat16)
    args = (x, mod, angle.cos(), angle.sin(), text)
    fn = torch.compile(block, dynamic=False) if compiled else block
    seconds = timed(lambda: fn(*args))
    flops = 8 * L * dim * dim + 4 * L * L * dim + 4 * L * dim * dim \
        + 4 * TEXT * dim * dim + 4 * L * TEXT * dim + 4 * L * dim * ffn
    print(f"{model} {width}x{height}, {frames} frames, "
          f"{'compiled' if compiled else 'eager'}: block {seconds * 1e3:.3f} ms, "
          f"{flops / seconds / 1e12:.1f} TFLOP/s "
          f"({100 * flops / seconds / top:.0f} % of the product's)")
    print(f"step whole: {seconds * 2 * layers * 1e3:.1f} ms")


def convolutions(width, height, top):
    """Causal 3x3x3 convolutions of the decoder's levels, a steady chunk."""
    for ci, co, t, s in ((384, 384, 1, 8), (384, 384, 2, 4), (192, 192, 4, 2),
                         (96, 96, 4, 1)):
        h, w = height // s, width // s
        x = torch.randn(1, ci, t + 2, h, w, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last_3d)
        conv = torch.nn.Conv3d(ci, co, 3, padding=(0, 1, 1), device="cuda",
                               dtype=torch.bfloat16).to(
                                   memory_format=torch.channels_last_3d)
        seconds = timed(lambda: conv(x))
        flops = 2 * 27 * ci * co * t * h * w
        print(f"conv {ci} to {co} at {t}x{h}x{w}: {seconds * 1e3:.3f} ms, "
              f"{flops / seconds / 1e12:.1f} TFLOP/s "
              f"({100 * flops / seconds / top:.0f} % of the product's)")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=80)
    limit = time.time() + p.parse_args().seconds
    torch.backends.cudnn.benchmark = True
    torch.set_grad_enabled(False)
    top = ceiling()
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}: "
          f"products {top / 1e12:.1f} TFLOP/s")
    convolutions(832, 480, top)
    for compiled in (False, True):
        for case in CASES:
            if time.time() > limit:
                print("no time for the rest")
                return
            step(*case, compiled, top)


if __name__ == "__main__":
    main()
