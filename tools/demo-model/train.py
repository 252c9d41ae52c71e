#!/usr/bin/env python3
"""Train the demo model: a small Wan 2.1 of our own, from nothing.

This file is part of libwan; see the licence in wan/wan.h.

    train.py OUT [--preset cpu|h100] [--stage NAME] [--minutes STAGE=M ...]

Stages, each resumed from OUT when it was interrupted, skipped when done:

    vae      3-D causal VAE on crops of rendered clips, then whole clips
    latents  the training set: clips rendered and encoded once
    decoder  the VAE's decoder alone, sharper
    text     tokenizer, UMT5: learns to tell a caption's colour, shape, motion
             and background from every token's output
    t2v      the transformer: flow matching, v = noise - data at sigma, the
             network is told 1000 sigma (spec of the official code)
    export-t2v
             share/demo/t2v as the official repositories are laid out
    clip     the image tower: what a still shows and where
    i2v      the image transformer, begun from t2v
    export-i2v

Sheets of samples and a log of the loss are written to OUT as it goes.
"""

import argparse
import concurrent.futures
import datetime
import itertools
import math
import multiprocessing
import os
import time

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F

import layout
import world
from modules import MEAN, STD, ClipVision, Dit, T5, Vae

# What libwan sends through the negative pass when the user gives nothing
# (wan/config.c): captions are dropped to it, and to nothing.
NEGATIVE = ("画质低劣，模糊不清，噪点，压缩痕迹，过度曝光，颜色失真，画面静止不动，"
            "字幕，水印，徽标，绘画质感，肢体畸形，手指变形，多余的肢体，面部扭曲，"
            "背景杂乱，人群拥挤，倒退行走")

PRESETS = {
    # A night on two cores with AVX2; batches are those of one process.
    "cpu": dict(
        device="cpu", ranks=2, workers=0, clips=6000, stills=2000,
        text=dict(steps=1000, batch=64, lr=2e-3),
        vae=dict(steps=4000, batch=4, lr=3e-3),
        decoder=dict(steps=1500, batch=1, lr=2e-3),
        t2v=dict(steps=10000, batch=8, lr=2e-3),
        clip=dict(steps=1000, batch=32, lr=2e-3),
        i2v=dict(steps=4000, batch=8, lr=1.5e-3)),
    # Half an hour on one H100 with 16 cores beside it.
    "h100": dict(
        device="cuda", ranks=1, workers=14, clips=40000, stills=16000,
        text=dict(steps=3000, batch=256, lr=2e-3),
        vae=dict(steps=12000, batch=16, lr=3e-3),
        decoder=dict(steps=2000, batch=16, lr=2e-3),
        t2v=dict(steps=20000, batch=128, lr=2e-3),
        clip=dict(steps=2000, batch=64, lr=2e-3),
        i2v=dict(steps=6000, batch=128, lr=1e-3)),
    # Minutes: shows that every stage runs, and nothing else.
    "smoke": dict(
        device="cpu", ranks=1, workers=0, clips=12, stills=8,
        text=dict(steps=3, batch=8, lr=2e-3),
        vae=dict(steps=10, batch=1, lr=3e-3),
        decoder=dict(steps=2, batch=1, lr=2e-3),
        t2v=dict(steps=2, batch=2, lr=2e-3),
        clip=dict(steps=2, batch=2, lr=2e-3),
        i2v=dict(steps=2, batch=2, lr=1e-3)),
}

SIZES = dict(
    vae=dict(dim=8),
    t5=dict(dim=128, heads=4, ffn=256, layers=2),
    dit=dict(dim=192, heads=6, ffn=768, layers=6),
    clip=dict(dim=80, heads=1, mlp=160, layers=3))

SHIFT = 3.0             # of sigma, in training
FOCUS = 6.0             # how much more a cell of the latent counts where the
                        # object passes; falls to nothing at the end




class Peers:
    """Processes that train one model, each on a batch of its own. Two of one
    thread do more than one of two threads, which wait for each other at every
    product (docs/performance.md), and lose less where something else runs."""

    rank, count = 0, 1

    @classmethod
    def join(cls, rank, count, meeting):
        cls.rank, cls.count = rank, count
        torch.distributed.init_process_group(
            "gloo", "file://" + meeting, datetime.timedelta(hours=12),
            rank=rank, world_size=count)

    @classmethod
    def sum(cls, tensors):
        """Each tensor becomes its sum over all processes."""
        if cls.count == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        for t, x in zip(tensors, flat.split([t.numel() for t in tensors])):
            t.copy_(x.view_as(t))

    @classmethod
    def first(cls, number):
        """The first process's number, at which all of them meet."""
        x = torch.tensor([float(number) if cls.rank == 0 else 0.0],
                         dtype=torch.float64)
        cls.sum([x])
        return float(x)


def log(*words, sep=" "):
    if Peers.rank == 0:
        print(time.strftime("%H:%M:%S"), *words, sep=sep, flush=True)


# ------------------------------------------------------------- optimizer

class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Jordan 2024), with Liu et al.'s factor, so
    that learning rates are AdamW's. For matrices; convolutions count as
    [out, rest]."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum,
                                      weight_decay=weight_decay))

    @staticmethod
    def orthogonal(g):
        a, b, c = 3.4445, -4.7750, 2.0315
        flip = g.shape[0] > g.shape[1]
        x = g.T if flip else g
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            s = x @ x.T
            x = a * x + (b * s + c * s @ s) @ x
        return x.T if flip else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = []
            for i, p in enumerate(params):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(m, group["momentum"]).reshape(len(p), -1)
                mine = i % Peers.count == Peers.rank
                updates.append(self.orthogonal(g) * 0.2 * math.sqrt(
                    max(g.shape)) if mine else torch.zeros_like(g))
            Peers.sum(updates)
            for p, u in zip(params, updates):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(u.reshape(p.shape), alpha=-group["lr"])


class Optimizer:
    """Muon for what is inside, Adam for embeddings, ends, vectors."""

    def __init__(self, modules, lr, adam_names=()):
        inner, outer = [], []
        for module in modules:
            for name, p in module.named_parameters():
                if not p.requires_grad:
                    continue
                wide = p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 1
                outer_name = any(n in name for n in adam_names)
                (inner if wide and not outer_name else outer).append(p)
        self.parts = [torch.optim.AdamW(outer, lr, betas=(0.9, 0.99),
                                        weight_decay=0.0)]
        if inner:
            self.parts.append(Muon(inner, lr))
        self.lr = lr

    def step(self, progress, begun=0.0):
        """One step at that part of the run: warm up, hold, fall to zero."""
        lr = self.lr * min(1, (progress - begun) / 0.02 + 0.02,
                           (1 - progress) / 0.3)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = max(lr, 1e-6)
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self):
        return [p.state_dict() for p in self.parts]

    def load_state_dict(self, state):
        for part, s in zip(self.parts, state):
            part.load_state_dict(s)


# ------------------------------------------------------------------- run

class Run:
    """One stage's loop: progress, log, checkpoints. again: what is done goes on
    from that part of the run."""

    def __init__(self, out, name, modules, optimizer, config, minutes,
                 again=None):
        self.name, self.modules, self.optimizer = name, modules, optimizer
        self.steps, self.minutes = config["steps"], minutes
        self.path = os.path.join(out, name + ".pt")
        self.log_path = os.path.join(out, "loss.log")
        self.step, self.spent, self.sums, self.count = 0, 0.0, {}, 0
        self.begun, self.done = 0.0, False
        if os.path.exists(self.path):
            state = torch.load(self.path, map_location="cpu",
                               weights_only=False)
            for m, s in zip(modules, state["modules"]):
                m.load_state_dict(s)
            self.done = state["done"]
            self.step, self.spent = state["step"], state["spent"]
            self.begun = state.get("begun", 0.0)
            if self.done and again is not None:
                self.step, self.spent, self.begun = 0, 0.0, again
                self.done = False
            elif not self.done:
                optimizer.load_state_dict(state["optimizer"])
            if self.done:
                log(name, "is done")
            else:
                log(name, "goes on from step", self.step)
        self.start = self.saved = self.said = time.time()
        self.measure()

    def measure(self):
        """Set the part of the run that is over, the same in all processes."""
        p = self.step / self.steps
        if self.minutes:
            p = max(p, (self.spent + time.time() - self.start) /
                    (60 * self.minutes))
        self.progress = Peers.first(self.begun + (1 - self.begun) * p)

    def save(self, done):
        if Peers.rank:
            return
        now = time.time()
        state = dict(modules=[m.state_dict() for m in self.modules],
                     optimizer=None if done else self.optimizer.state_dict(),
                     step=self.step, spent=self.spent + now - self.start,
                     begun=self.begun, done=done)
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)
        self.saved = now

    def loop(self):
        """for _ in run.loop(): compute, run.backward(loss, names=...)"""
        while not self.done and self.progress < 1:
            yield self.step
        if not self.done:
            self.save(True)
            self.done = True
            log(self.name, "done after", self.step, "steps")

    def backward(self, loss, **parts):
        loss.backward()
        params = [p for g in self.optimizer.parts for q in g.param_groups
                  for p in q["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        Peers.sum(grads)
        for g in grads:
            g.div_(Peers.count)
        norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step(min(self.progress, 1.0), self.begun)
        self.step += 1
        self.measure()
        self.count += 1
        for k, v in dict(loss=loss, **parts).items():
            self.sums[k] = self.sums.get(k, 0) + float(v.detach())
        now = time.time()
        if now - self.said > 30 and Peers.rank == 0:
            text = " ".join(f"{k} {v / self.count:.4f}"
                            for k, v in self.sums.items())
            line = (f"{self.name} step {self.step} {self.progress:.1%} "
                    f"{(now - self.said) / self.count:.2f} s a step: {text}")
            log(line)
            with open(self.log_path, "a") as f:
                print(time.strftime("%F %T"), line, file=f)
            self.sums, self.count, self.said = {}, 0, now
        if now - self.saved > 240:
            self.save(False)


class Ahead:
    """make(key) of keys in order, made ahead by processes of their own."""

    def __init__(self, make, workers):
        self.make = make
        self.pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn")) if workers else None
        self.ahead, self.waiting = 4 * workers, {}

    def get(self, key, later=()):
        """later: the keys that come next."""
        if not self.pool:
            return self.make(*key)
        for k in (key, *itertools.islice(later, self.ahead)):
            if k not in self.waiting:
                self.waiting[k] = self.pool.submit(self.make, *k)
        return self.waiting.pop(key).result()

    def map(self, items):
        return (self.pool.map(self.make, items, chunksize=8) if self.pool else
                map(self.make, items))

    def close(self):
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def sheet(path, videos, frames=6):
    """Videos [N,3,T,H,W] in [-1,1]: a row each, some of its frames."""
    v = ((videos.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    pick = np.linspace(0, v.shape[2] - 1, frames).round().astype(int)
    rows = [np.concatenate([x[:, t].transpose(1, 2, 0) for t in pick], 1)
            for x in v]
    world.write_png(path, np.concatenate(rows, 0))


# ------------------------------------------------------------------ text

ATTRIBUTES = (("colour", world.COLOURS), ("shape", world.SHAPES),
              ("motion", world.MOTIONS), ("background", world.BACKGROUNDS))


def train_scene(rng, motion=None):
    """A scene that is not kept for the judge."""
    while True:
        s = world.random_scene(rng, motion=motion)
        if not world.held_out(s.colour, s.shape, s.motion, s.background):
            return s


class Tokens:
    """Captions to padded ids, remembered."""

    def __init__(self, folder):
        from tokenizer import Tokenizer
        self.tokenizer, self.known = Tokenizer(folder), {}

    def ids(self, text):
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text)
        return self.known[text]

    def batch(self, texts, device):
        ids = [self.ids(t) for t in texts]
        n = max(map(len, ids))
        out = torch.zeros(len(ids), n, dtype=torch.long)
        mask = torch.zeros(len(ids), n, dtype=torch.bool)
        for i, x in enumerate(ids):
            out[i, :len(x)] = torch.tensor(x)
            mask[i, :len(x)] = True
        return out.to(device), mask.to(device)


class Probe(torch.nn.Module):
    """Tells attributes from rows [.., dim]: one linear layer each."""

    def __init__(self, dim, unsaid=False):
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(dim, len(values) + unsaid)
            for _, values in ATTRIBUTES)

    def loss(self, x, targets, weight=None):
        """x [B, n, dim], targets [4][B]; weight [B, n] of rows."""
        total, right = 0, 0
        for head, target in zip(self.heads, targets):
            y = head(x)
            ce = F.cross_entropy(y.flatten(0, 1),
                                 target[:, None].expand(y.shape[:2]).flatten(),
                                 reduction="none").view(y.shape[:2])
            hit = (y.argmax(-1) == target[:, None]).float()
            w = torch.ones_like(ce) if weight is None else weight
            total = total + (ce * w).sum() / w.sum()
            right = right + (hit * w).sum() / w.sum() / len(self.heads)
        return total, right


SAID = tuple(n for _, names in world.PLACES.values() for n in names) + tuple(
    n for names in world.CHINESE_PLACES.values() for n in names)


def targets_of(scenes, device, texts=None):
    """Indices of attributes; a background the caption leaves out is the index
    after the last."""
    out = []
    for name, values in ATTRIBUTES:
        t = [values.index(getattr(s, name)) for s in scenes]
        if texts and name == "background":
            t = [i if any(n in c.lower() for n in SAID) else len(values)
                 for i, c in zip(t, texts)]
        out.append(torch.tensor(t, device=device))
    return out


def stage_text(a):
    folder = os.path.join(a.out, "tokenizer")
    if Peers.rank == 0 and not os.path.exists(
            os.path.join(folder, "spiece.model")):
        from tokenizer import train
        rng = np.random.default_rng(1)
        texts = [world.caption(world.random_scene(rng), rng)
                 for _ in range(20000)]
        train(texts + [NEGATIVE] * 50, folder)
    Peers.first(0)
    a.tokens = Tokens(folder)
    torch.manual_seed(1)
    a.t5 = T5(vocab=a.tokens.tokenizer.rows, **SIZES["t5"]).to(a.device)
    probe = Probe(SIZES["t5"]["dim"], unsaid=True).to(a.device)
    c = a.preset["text"]
    opt = Optimizer([a.t5, probe], c["lr"],
                    ("token_embedding", "pos_embedding", "heads"))
    run = Run(a.out, "text", [a.t5, probe], opt, c, a.minutes.get("text"))
    rng = np.random.default_rng((2, run.step, Peers.rank))
    for _ in run.loop():
        scenes = [world.random_scene(rng) for _ in range(c["batch"])]
        texts = [world.caption(s, rng) for s in scenes]
        ids, mask = a.tokens.batch(texts, a.device)
        y = a.t5(ids, mask)
        target = targets_of(scenes, a.device, texts)
        m = mask.float()
        each, right = probe.loss(y, target, m)
        mean = (y * m[..., None]).sum(1, keepdim=True) / m.sum(1)[:, None, None]
        pooled, right_pooled = probe.loss(mean, target)
        # Outputs of about unit size, which is what the DiT's first layer wants.
        size = ((y.pow(2).mean(-1) - 1).pow(2) * m).sum() / m.sum()
        run.backward(each + pooled + 0.01 * size, right=right,
                     pooled=right_pooled)
    a.t5.eval().requires_grad_(False)


# ------------------------------------------------------------------- vae

def pixels(videos, device):
    """uint8 [B,T,H,W,3] to [B,3,T,H,W] in [-1,1]."""
    x = torch.from_numpy(np.ascontiguousarray(videos)).to(device)
    return x.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def crop_clip(rng, size, frames):
    """A crop of a rendered clip, mostly around its object."""
    s = world.random_scene(rng)
    v = world.render(s)
    t = rng.integers(0, len(v) - frames + 1)
    v = v[t:t + frames]
    h, w = v.shape[1:3]
    if size >= h:
        return v
    if rng.random() < 0.75:     # where frames differ from their surroundings
        d = np.abs(v[frames // 2].astype(np.int16) -
                   np.median(v[0], (0, 1))).sum(-1)
        p = d.astype(np.float64).ravel() ** 2
        k = rng.choice(len(p), p=p / p.sum()) if p.sum() > 0 else 0
        y, x = divmod(k, w)
        y = int(np.clip(y - size // 2, 0, h - size))
        x = int(np.clip(x - size // 2, 0, w - size))
    else:
        y, x = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    return v[:, y:y + size, x:x + size]


def crop_batch(step, batch, size, frames):
    rng = np.random.default_rng((4, step))
    return np.stack([crop_clip(rng, size, frames) for _ in range(batch)])


def edges(x):
    """Differences in each direction, which is where blur shows."""
    return (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :],
            x[:, :, 1:] - x[:, :, :-1])


@torch.no_grad()
def begin_vae(vae):
    """Begin as block averages: channels 0 to 2 are the colours, 3 to 5 their
    negatives, 6 a constant, so that neither the norms (which take amplitude
    away) nor SiLU (silu(a) - silu(-a) = a) lose them; residual branches add
    nothing, older frames count nothing. From the usual random numbers it takes
    300 steps to be where this is at once."""

    def keep(conv, place, value):
        """Channel c < 7 to itself at those taps; the rest small and random."""
        w = conv.weight
        w.normal_(std=0.3 * w[0].numel() ** -0.5)
        n = min(7, w.shape[0], w.shape[1])
        w[:n] = 0
        for c in range(n):
            w[c, c][place] = value
        conv.bias.zero_()

    def colours(conv, sign):
        """3 channels to 7 (sign 1), or 7 to 3 (sign -1)."""
        w = conv.weight
        for c in range(3):
            w[c, c, 2, 1, 1] = 1
            if sign > 0:
                w[c + 3, c, 2, 1, 1] = -1
            else:
                w[c, c + 3, 2, 1, 1] = -1

    for name, m in vae.named_modules():
        if name.endswith(("residual.2", "residual.6", "conv1", "head.2")) and \
                m.weight.shape[2:] == (3, 3, 3):
            m.weight[:, :, :2] = 0
            m.weight[:, :, 2].normal_(std=m.weight[0, :, 2].numel() ** -0.5)
            m.bias.zero_()
            if name.endswith("residual.6"):
                m.weight.zero_()
        elif name.endswith("shortcut"):
            keep(m, (0, 0, 0), 1)
        elif name.endswith("resample.1"):
            down = "downsamples" in name
            keep(m, (slice(2), slice(2)) if down else (1, 1),
                 0.25 if down else 1)
    for conv in (vae.encoder.conv1, vae.decoder.conv1):
        conv.weight[:7] = 0
        colours(conv, 1)
        conv.bias[6] = 3
    vae.encoder.head["2"].weight[:3] = 0
    vae.decoder.head["2"].weight.mul_(0.1)[:, :7] = 0
    for conv in (vae.encoder.head["2"], vae.decoder.head["2"]):
        colours(conv, -1)
    for conv in (vae.conv1, vae.conv2):
        conv.weight.zero_()
        conv.bias.zero_()
        for c in range(len(conv.weight)):
            conv.weight[c, c] = 1
    vae.conv1.weight[16:] *= 0.1        # and little noise in the latent
    vae.conv1.bias[16:] = -5


def vae_loss(vae, x):
    mu, logvar = vae.encode(x)
    logvar = logvar.clamp(-12, 4)
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    y = vae.decode(z)
    l1 = (y - x).abs().mean()
    mse = (y - x).pow(2).mean()
    edge = sum((p - q).abs().mean() for p, q in zip(edges(y), edges(x))
               if p.numel())
    kl = 0.5 * (mu.pow(2) + logvar.exp() - 1 - logvar).mean()
    return l1 + 4 * mse + 0.5 * edge + 1e-4 * kl, mse, kl, y


def normalise(a, vae):
    """Move the latents' mean and deviation to the official numbers, which
    libwan takes off again: mu' = (mu - m)/s STD + MEAN, and back in conv2."""
    rng = np.random.default_rng(9)
    with torch.no_grad():
        mus = [vae.encode(pixels(world.render(world.random_scene(rng))[None],
                                 a.device))[0] for _ in range(48)]
        mu = torch.cat([m.transpose(0, 1).flatten(1) for m in mus], 1)
        m, s = mu.mean(1), mu.std(1)
        mean = torch.as_tensor(MEAN, device=a.device, dtype=mu.dtype).flatten()
        std = torch.as_tensor(STD, device=a.device, dtype=mu.dtype).flatten()
        w, b = vae.conv1.weight, vae.conv1.bias
        w[:16] *= (std / s)[:, None, None, None, None]
        b[:16] = (b[:16] - m) * std / s + mean
        w, b = vae.conv2.weight, vae.conv2.bias
        b += (w.flatten(1) @ (m - mean * s / std))
        w *= (s / std)[None, :, None, None, None]


def stage_vae(a):
    torch.manual_seed(3)
    a.vae = Vae(**SIZES["vae"]).to(a.device)
    begin_vae(a.vae)
    c = a.preset["vae"]
    opt = Optimizer([a.vae], c["lr"], ("encoder.conv1", "decoder.head"))
    run = Run(a.out, "vae", [a.vae], opt, c, a.minutes.get("vae"))
    torch.manual_seed(4 + run.step + 1000003 * Peers.rank)
    ahead = Ahead(crop_batch, a.preset["workers"])
    was_done = run.done
    shown = time.time()

    def key(step):              # from images to clips, to whole ones
        p = max(run.progress, step / run.steps)
        return (step * Peers.count + Peers.rank,) + ((2 * c["batch"], 48, 1) if p < 0.3 else
                          (c["batch"], 48, 5) if p < 0.6 else
                          (c["batch"], 64, 9) if p < 0.9 else
                          (max(1, c["batch"] // 4), world.SIZE[1], world.FRAMES))

    for step in run.loop():
        v = ahead.get(key(step), map(key, itertools.count(step + 1)))
        x = pixels(v, a.device)
        loss, mse, kl, y = vae_loss(a.vae, x)
        run.backward(loss, psnr=-10 * torch.log10(mse.detach() / 4), kl=kl)
        if Peers.rank == 0 and time.time() - shown > a.sheet_minutes * 60:
            shown = time.time()
            sheet(os.path.join(a.out, "vae.png"),
                  torch.cat([x[:2], y[:2].detach()]))
    ahead.close()
    a.vae.eval().requires_grad_(False)
    if not was_done:
        normalise(a, a.vae)
        run.save(True)
    if not was_done or a.stage == "vae":
        rng = np.random.default_rng(8)
        x = pixels(np.stack([world.render(world.random_scene(rng))
                             for _ in range(8)]), a.device)
        with torch.no_grad():
            mu, _ = a.vae.encode(x)
            y = a.vae.decode(mu).clamp(-1, 1)
        sheet(os.path.join(a.out, "vae.png"),
              torch.stack([x, y], 1).flatten(0, 1))
        mse = (x - y).pow(2)
        log("vae: PSNR", -10 * math.log10(float(mse.mean()) / 4), "first frame",
            -10 * math.log10(float(mse[:, :, 0].mean()) / 4))


# --------------------------------------------------------------- latents

def latent_stats(a):
    shape = (1, 16, 1, 1, 1)
    return (torch.as_tensor(MEAN).float().reshape(shape).to(a.device),
            torch.as_tensor(STD).float().reshape(shape).to(a.device))


def encode(a, x):
    """Pixels to what the DiT sees."""
    mean, std = latent_stats(a)
    return (a.vae.encode(x)[0] - mean) / std


def decode(a, z):
    mean, std = latent_stats(a)
    return a.vae.decode(z * std + mean).clamp(-1, 1)


@torch.no_grad()
def encode_set(a, name, count, still=False):
    """Encode clips 0..count-1, resumed in blocks; still: the first frame and
    grey behind it, as image-to-video conditions."""
    path = os.path.join(a.out, name)
    os.makedirs(path, exist_ok=True)
    block, per = 250, 4 if a.device == "cpu" else 50
    ahead = Ahead(world.render, a.preset["workers"])
    for b in range(0, count, block):
        f = os.path.join(path, f"{b:06d}.pt")
        if os.path.exists(f) or b // block % Peers.count != Peers.rank:
            continue
        if a.set_minutes and (time.time() - a.set_start) / 60 > a.set_minutes:
            log(name, "ends early with", b)
            break
        out = []
        clips = iter(ahead.map(a.scenes[b:min(b + block, count)]))
        while v := list(itertools.islice(clips, per)):
            x = pixels(np.stack(v), a.device)
            if still:
                x[:, :, 1:] = 0
            out.append(encode(a, x).half().cpu())
        torch.save(torch.cat(out), f + ".new")
        os.replace(f + ".new", f)
        log(name, b + block)
    ahead.close()
    Peers.first(0)
    files = (os.path.join(path, f"{b:06d}.pt") for b in range(0, count, block))
    # one process may have ended a block before the other
    return torch.cat([torch.load(f) for f in
                      itertools.takewhile(os.path.exists, files)])


def scenes_of(a):
    """What clips show. One in six more than the others spins: only some
    things can, and an outline's angle is the last thing that is learned."""
    rng = np.random.default_rng(5)
    a.scenes = [train_scene(rng, "spins" if i % 6 == 0 else None)
                for i in range(a.preset["clips"])]


def object_cells(scene, w, h):
    """Where the object is in some frame of a latent's cell: bool [T, h, w]."""
    x, y, radius, _ = world.path(scene)
    unit = world.SIZE[0] / w
    reach = radius * max(world.REACH[scene.shape]) + unit / 2
    centre = (np.arange(max(w, h), dtype=np.float32) + 0.5) * unit
    near = np.hypot(centre[None, None, :w] - x[:, None, None],
                    centre[None, :h, None] - y[:, None, None]
                    ) < reach[:, None, None]
    return np.stack([near[:1].any(0)] + [near[i:i + 4].any(0)
                                         for i in range(1, len(near), 4)])


def smoothness(latents):
    """What a channel counts in the loss: how much neighbouring cells are
    alike, 1 on average. Channels that hold detail would drown the others."""
    x = latents[:500].float()
    x = x - x.mean((0, 2, 3, 4), keepdim=True)
    power = x.pow(2).mean((0, 2, 3, 4))
    alike = ((x[..., 1:] * x[..., :-1]).mean((0, 2, 3, 4)) +
             (x[..., 1:, :] * x[..., :-1, :]).mean((0, 2, 3, 4))) / power
    alike = alike.clamp(min=0.2)
    return (alike / alike.mean()).view(-1, 1, 1, 1)


def stage_latents(a):
    scenes_of(a)
    a.set_minutes, a.set_start = a.minutes.get("latents"), time.time()
    a.latents = encode_set(a, "latents", a.preset["clips"])
    h, w = a.latents.shape[-2:]
    a.where = torch.from_numpy(np.stack(
        [object_cells(s, w, h) for s in a.scenes[:len(a.latents)]]))
    a.channels = smoothness(a.latents).to(a.device)
    log("latents:", tuple(a.latents.shape), "mean",
        float(a.latents.float().mean()), "std", float(a.latents.float().std()))


def picture_loss(y, x, weight):
    """Of pixels y, where x is true, by places' weights; and the mean square."""
    weight = weight / weight.mean()
    error = (y - x).pow(2)
    loss = (weight * ((y - x).abs() + 4 * error)).mean() + sum(
        0.5 * (p - q).abs().mean() for p, q in zip(edges(weight.sqrt() * y),
                                                   edges(weight.sqrt() * x)))
    return loss, error.mean().detach()


def stage_decoder(a):
    """The decoder once more, on whole clips and their latents as they are: what
    moves has outlines as sharp as the latents tell."""
    c = a.preset["decoder"]
    parts = [a.vae.decoder, a.vae.conv2]
    for part in parts:
        part.requires_grad_(True)
    run = Run(a.out, "decoder", parts,
              Optimizer(parts, c["lr"], ("conv1", "head")), c,
              a.minutes.get("decoder"))
    rng = np.random.default_rng((10, run.step, Peers.rank))
    for _ in run.loop():
        pick = rng.integers(0, len(a.latents), c["batch"])
        scenes = [a.scenes[i] for i in pick]
        x = pixels(np.stack([world.render(s) for s in scenes]), a.device)
        still = pixels(np.stack([world.backdrop(s) for s in scenes])[:, None],
                       a.device)
        thing = ((x - still).abs().sum(1, keepdim=True) > 0.2).float()
        mean, std = latent_stats(a)
        y = a.vae.decode(a.latents[pick].float().to(a.device) * std + mean)
        loss, mse = picture_loss(
            y, x, 1 + 9 * F.max_pool3d(thing, (1, 5, 5), 1, (0, 2, 2)))
        run.backward(loss, psnr=-10 * torch.log10(mse / 4))
    for part in parts:
        part.eval().requires_grad_(False)


# ------------------------------------------------------------------- dit

def sigmas(batch, device):
    """Spread over (0, 1), shifted to where layout and motion are decided."""
    u = (torch.arange(batch, device=device) + torch.rand(batch, device=device)
         ) / batch
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def captions(a, scenes, rng):
    """One in ten is dropped, to nothing or to the negative prompt."""
    return [world.caption(s, rng) if rng.random() > 0.1 else
            ("" if rng.random() < 0.5 else NEGATIVE) for s in scenes]


def encode_text(a, texts):
    ids, mask = a.tokens.batch(texts, a.device)
    with torch.no_grad():
        return a.t5(ids, mask) * mask[..., None], mask.sum(1)


@torch.no_grad()
def sample(a, dit, texts, steps=20, guidance=3.0, shift=SHIFT, still=None,
           clip=None, seed=1):
    """Euler, for sheets; the product's solvers do better."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(texts), 16, 5, world.SIZE[1] // 8, world.SIZE[0] // 8)
    x = torch.randn(shape, generator=g).to(a.device)
    text, n = encode_text(a, texts)
    none, m = encode_text(a, [NEGATIVE] * len(texts))
    u = torch.linspace(1, 0, steps + 1)
    s = shift * u / (1 + (shift - 1) * u)
    for i in range(steps):
        t = torch.full((len(texts),), float(s[i]) * 1000, device=a.device)
        y = x if still is None else torch.cat([x, still], 1)
        v = dit(y, t, text, n, clip)
        v0 = dit(y, t, none, m, clip)
        x = x + (s[i + 1] - s[i]) * (v0 + guidance * (v - v0))
    return decode(a, x)


def flow_loss(a, dit, x0, where, focus, texts, still=None, clip=None):
    """The mean square, and what is to become less: with weights. Those of
    channels change nothing in what is best; those of places (where [B, T, h,
    w], focus) make objects likelier than they are, but without them an object
    is a fiftieth of the loss and how it moves is learned last."""
    text, n = encode_text(a, texts)
    sigma = sigmas(len(x0), a.device)
    noise = torch.randn_like(x0)
    s = sigma.view(-1, 1, 1, 1, 1)
    x = (1 - s) * x0 + s * noise
    if still is not None:
        x = torch.cat([x, still], 1)
    error = (dit(x, 1000 * sigma, text, n, clip) - (noise - x0)).pow(2)
    weight = 1 + focus * where[:, None].float().to(a.device)
    return error.mean(), (error * a.channels * weight).mean() / weight.mean()


def dit_run(a, name, dit):
    c = a.preset[name]
    opt = Optimizer([dit], c["lr"],
                    ("patch_embedding", "text_embedding.0", "time_embedding",
                     "head", "modulation", "img_emb.proj.1"))
    run = Run(a.out, name, [dit], opt, c, a.minutes.get(name),
              a.again.get(name))
    torch.manual_seed(6 + run.step + 1000003 * Peers.rank)
    return run, c["batch"], np.random.default_rng((7, run.step, Peers.rank))


@torch.no_grad()
def begin_dit(dit):
    """Begin by giving back what comes in, as noise is most of the velocity where
    it is most of the latent: tokens are patches turned by orthogonal matrices,
    the first as it is, and the head reads that."""
    w = dit.patch_embedding.weight          # [D, C, 1, 2, 2]
    n = w[0].numel()
    rows = [torch.eye(n)]
    while sum(map(len, rows)) < len(w):
        rows.append(torch.linalg.qr(torch.randn(n, n))[0])
    w.copy_(torch.cat(rows)[:len(w)].view_as(w))
    head = dit.head.head.weight.view(2, 2, -1, len(w))      # [q, r, c, D]
    for c in range(head.shape[2]):
        for q in range(2):
            for r in range(2):
                head[q, r, c, c * 4 + q * 2 + r] = 1


def batch_of(a, rng, progress, step, batch):
    """Scenes, latents and where their objects are: images first, which are a
    fifth of the tokens, then images and clips in turn, then clips."""
    image = progress < 0.25 or (progress < 0.7 and step % 3 == 0)
    pick = rng.integers(0, len(a.latents), batch * (5 if image else 1))
    frames = slice(0, 1 if image else None)
    return ([a.scenes[i] for i in pick],
            a.latents[pick][:, :, frames].float().to(a.device),
            a.where[pick][:, frames])


def focus_at(progress):
    return FOCUS * min(1, (1 - progress) / 0.3)


def stage_t2v(a):
    torch.manual_seed(5)
    a.dit = Dit(**SIZES["dit"], in_dim=16, text_dim=SIZES["t5"]["dim"]
                ).to(a.device)
    begin_dit(a.dit)
    run, batch, rng = dit_run(a, "t2v", a.dit)
    shown = time.time()
    prompts = [p[0] for p in world.judge_prompts(8, seed=11)]
    for _ in run.loop():
        scenes, x0, where = batch_of(a, rng, run.progress, run.step, batch)
        mse, loss = flow_loss(a, a.dit, x0, where, focus_at(run.progress),
                              captions(a, scenes, rng))
        run.backward(loss, mse=mse)
        if Peers.rank == 0 and time.time() - shown > a.sheet_minutes * 60:
            shown = time.time()
            sheet(os.path.join(a.out, "t2v.png"), sample(a, a.dit, prompts))
    a.dit.eval()
    if a.stage == "t2v" or not os.path.exists(os.path.join(a.out, "t2v.png")):
        sheet(os.path.join(a.out, "t2v.png"), sample(a, a.dit, prompts))
        log("t2v.png:", *prompts, sep="\n    ")


# ------------------------------------------------------------------ clip

def first_frame(scene):
    return world.render(scene, frames=1)


def still_batch(step, batch):
    rng = np.random.default_rng((8, step))
    scenes = [world.random_scene(rng) for _ in range(batch)]
    return scenes, np.stack([first_frame(s) for s in scenes])


def as_images(videos, device):
    """First frames in [0, 1]: [B, 3, H, W]."""
    return (pixels(videos[:, :1], device)[:, :, 0] + 1) / 2


def stage_clip(a):
    torch.manual_seed(7)
    size = SIZES["clip"]
    a.clip = ClipVision(**size).to(a.device)
    probe = Probe(size["dim"]).to(a.device)
    place = torch.nn.Linear(size["dim"], 2).to(a.device)
    c = a.preset["clip"]
    opt = Optimizer([a.clip, probe, place], c["lr"],
                    ("embedding", "heads", "head"))
    run = Run(a.out, "clip", [a.clip, probe, place], opt, c,
              a.minutes.get("clip"))
    ahead = Ahead(still_batch, a.preset["workers"])

    def key(step):
        return step * Peers.count + Peers.rank, c["batch"]

    for step in run.loop():
        scenes, v = ahead.get(key(step), map(key, itertools.count(step + 1)))
        x = as_images(v, a.device)
        y = a.clip(ClipVision.preprocess(x))
        target = targets_of(scenes, a.device)
        target[2] = target[0]       # a still has no motion
        rows = torch.stack([y[:, 0], y[:, 1:].mean(1)], 1)
        told, right = probe.loss(rows, target)
        d = (x - x.flatten(2).median(-1).values[:, :, None, None]).abs().sum(1)
        d = d.pow(2).flatten(1)
        grid = torch.stack(torch.meshgrid(
            torch.linspace(-1, 1, x.shape[2], device=a.device),
            torch.linspace(-1, 1, x.shape[3], device=a.device),
            indexing="ij"), -1).view(-1, 2)
        centre = (d / d.sum(1, keepdim=True)) @ grid
        where = (place(rows) - centre[:, None]).pow(2).mean()
        run.backward(told + where, right=right, where=where)
    ahead.close()
    a.clip.eval().requires_grad_(False)


# ------------------------------------------------------------------- i2v

def mask_and_still(still):
    """[B,16,T,h,w] to the 20 channels behind the noise."""
    mask = torch.zeros_like(still[:, :4])
    mask[:, :, 0] = 1
    return torch.cat([mask, still], 1)


@torch.no_grad()
def image_dit(a):
    """The text transformer with an image branch that does next to nothing
    yet. (To begin with x - still, a multiple of what the first frame wants,
    was worse: later frames, whose still is grey, first had to unlearn it.)"""
    dit = Dit(**SIZES["dit"], in_dim=36, text_dim=SIZES["t5"]["dim"],
              clip_dim=SIZES["clip"]["dim"]).to(a.device)
    own, state = dit.state_dict(), a.dit.state_dict()
    w = 0.02 * torch.randn_like(own["patch_embedding.weight"])
    w[:, :16] = state.pop("patch_embedding.weight")
    own.update(state)
    own["patch_embedding.weight"] = w
    for k in own:
        if "v_img" in k:
            own[k].zero_()
    dit.load_state_dict(own)
    return dit


def stage_i2v(a):
    a.set_minutes, a.set_start = a.minutes.get("stills"), time.time()
    a.stills = encode_set(a, "stills", a.preset["stills"], still=True)
    torch.manual_seed(9)
    a.image_dit = image_dit(a)
    run, batch, rng = dit_run(a, "i2v", a.image_dit)
    where = a.where[:len(a.stills)].clone()
    where[:, 0] = True          # the still has to stay
    if not run.done:
        ahead = Ahead(first_frame, a.preset["workers"])
        frames, features = iter(ahead.map(a.scenes[:len(a.stills)])), []
        with torch.no_grad():
            while v := list(itertools.islice(frames, 16)):
                x = ClipVision.preprocess(as_images(np.stack(v), a.device))
                features.append(a.clip(x).half().cpu())
        features = torch.cat(features)
        ahead.close()
    shown = time.time()

    def show():
        rng = np.random.default_rng(12)
        picked = world.image_prompts(8, seed=13)
        x = torch.stack([pixels(world.render(s)[None], a.device)[0]
                         for s, _, _ in picked])
        x[:, :, 1:] = 0
        still = mask_and_still(encode(a, x))
        clip = a.clip(ClipVision.preprocess((x[:, :, 0] + 1) / 2))
        v = sample(a, a.image_dit, [p for _, p, _ in picked], still=still,
                   clip=clip)
        sheet(os.path.join(a.out, "i2v.png"), v)
        return [p for _, p, _ in picked]

    for step in run.loop():
        # Every other step has the first frame alone: a fifth of the time, and
        # that it is the still takes the most steps to learn.
        frames = slice(0, 1 if run.progress < 0.7 and step % 2 else None)
        pick = rng.integers(0, len(a.stills), batch)
        x0 = a.latents[pick][:, :, frames].float().to(a.device)
        texts = captions(a, [a.scenes[i] for i in pick], rng)
        still = mask_and_still(a.stills[pick][:, :, frames].float().to(a.device))
        clip = features[pick].float().to(a.device)
        mse, loss = flow_loss(a, a.image_dit, x0, where[pick][:, frames],
                              focus_at(run.progress), texts, still, clip)
        run.backward(loss, mse=mse)
        if Peers.rank == 0 and time.time() - shown > a.sheet_minutes * 60:
            shown = time.time()
            with torch.no_grad():
                show()
    a.image_dit.eval()
    if a.stage == "i2v" and Peers.rank == 0:
        with torch.no_grad():
            log("i2v.png:", *show(), sep="\n    ")


# ---------------------------------------------------------------- export

# With more guidance outlines suffer: docs/performance.md.
DEFAULTS = dict(size="%dx%d" % world.SIZE, frames=world.FRAMES, steps=20,
                guidance=3.0, shift=SHIFT)


def stage_export_t2v(a):
    if Peers.rank == 0:
        layout.write_t2v(os.path.join(a.to, "t2v"), a.dit, a.t5, a.vae,
                         os.path.join(a.out, "tokenizer"), DEFAULTS)


def stage_export_i2v(a):
    if Peers.rank == 0:
        layout.write_i2v(os.path.join(a.to, "i2v"), a.image_dit, a.t5, a.vae,
                         os.path.join(a.out, "tokenizer"), DEFAULTS, a.clip)


def take_over(folder, out):
    """Make an exported text-to-video model the finished stages of a new run."""
    for name, state in layout.read_t2v(folder,
                                       os.path.join(out, "tokenizer")).items():
        torch.save(dict(modules=[state], optimizer=None, step=0, spent=0.0,
                        done=True), os.path.join(out, name + ".pt"))


STAGES = ("vae", "latents", "decoder", "text", "t2v", "export-t2v", "clip", "i2v",
          "export-i2v")


def work(rank, a, meeting):
    """Run the stages as one of the preset's processes."""
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if meeting:
        Peers.join(rank, a.preset["ranks"], meeting)
    for stage in STAGES:
        globals()["stage_" + stage.replace("-", "_")](a)
        if stage == a.stage:
            break


def start(work, a):
    """work(rank, a, meeting) as the preset's processes; meeting is None where there is one."""
    if a.preset["ranks"] == 1:
        work(0, a, None)
    else:
        meeting = os.path.abspath(os.path.join(a.out, "meeting"))
        if os.path.exists(meeting):
            os.remove(meeting)
        torch.multiprocessing.spawn(work, (a, meeting), a.preset["ranks"])


def main():
    p = argparse.ArgumentParser(description="Train the demo model.")
    p.add_argument("out", help="folder of checkpoints, sheets, logs")
    p.add_argument("--preset", choices=PRESETS, default="cpu")
    p.add_argument("--stage", choices=STAGES,
                   help="stop after this one and show what it does")
    p.add_argument("--minutes", action="append", default=[],
                   metavar="STAGE=M", help="end a stage after so long")
    p.add_argument("--sheet-minutes", type=float, default=10)
    p.add_argument("--to", default=None, help="where export writes [OUT/demo]")
    p.add_argument("--take-over", metavar="DIR", help="begin with the parts of "
                   "an exported text-to-video model; OUT is new")
    p.add_argument("--again", action="append", default=[],
                   metavar="STAGE=P", help="train t2v or i2v on, though it is "
                   "done, as from that part of its run, 0 to 1")
    p.add_argument("--threads", type=int, default=0)
    a = p.parse_args()
    a.minutes, a.again = ({k: float(v) for k, v in
                           (m.split("=") for m in given)}
                          for given in (a.minutes, a.again))
    a.preset = PRESETS[a.preset]
    a.device = a.preset["device"]
    a.to = a.to or os.path.join(a.out, "demo")
    os.makedirs(a.out, exist_ok=True)
    if a.take_over:
        take_over(a.take_over, a.out)
    a.threads = a.threads or (1 if a.preset["ranks"] > 1 else 0)
    start(work, a)


if __name__ == "__main__":
    main()
