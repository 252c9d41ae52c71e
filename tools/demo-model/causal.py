#!/usr/bin/env python3
"""Train the causal demo model: the text-to-video one, made to go on block by block.

This file is part of libwan; see the licence in wan/wan.h.

    causal.py OUT --from share/demo/t2v [--to share/demo/causal] [--minutes STAGE=M ...]

A block is one latent frame, four of pixels. Stages, each resumed from OUT when it was interrupted, skipped when done:

    latents  scripts of live.py, rendered and encoded, and their twins of another shape (--minutes twins=M)
    forced   teacher forcing: every frame of a script from noise, given the frames before it, true but for some faults
    rolled   the same, half of the time given what the model itself makes of those frames; a model that has only
             seen true ones takes its own faults for the scene, and they grow
    decoder  the VAE's decoder, to see the true frames in the latents that the model makes
    export   OUT or --to in the official layout

Each stage's loss goes to OUT/loss.log, sheets of samples to OUT/*.png. Nothing else is taken from train.py's
stages than the parts of the model it begins with.
"""

import argparse
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

import layout
import live
import train
import world
from modules import CausalDit, Stream, T5, Vae
from train import Peers, log

LATENTS = 12            # of a script
WINDOW = 6              # latent frames that a frame sees, itself included
STEPS = (1000, 750, 500, 250)                                   # of a frame, before they are shifted
FIRST = (1000, 900, 800, 700, 600, 500, 400, 300, 200, 100)     # of the first, which has nothing to look back on
SHIFT = 3.0
ELSEWHERE = 1.5         # mean square error, where the thing is, of a frame that doesn't show it where it is
SPINS = 3.0             # as often as the others are scripts drawn in which something spins, which is learnt last
SEEN = 7                # latent frames of a script that the decoder learns from

PRESETS = {
    "cpu": dict(ranks=2, scripts=3000, forced=dict(steps=6000, batch=3, lr=1.5e-3),
                rolled=dict(steps=2000, batch=3, lr=7e-4), decoder=dict(steps=2000, batch=1, lr=2e-3)),
    "smoke": dict(ranks=1, scripts=6, forced=dict(steps=2, batch=2, lr=1.5e-3),
                  rolled=dict(steps=2, batch=2, lr=7e-4), decoder=dict(steps=2, batch=1, lr=2e-3)),
}


def sigmas(steps):
    """The shares of noise of a step list."""
    return [SHIFT * s / (1000 + (SHIFT - 1) * s) for s in steps]


# ---------------------------------------------------------------- stages

def begin(a):
    """The parts of the model that it begins with."""
    folder = os.path.join(a.out, "tokenizer")
    if Peers.rank == 0 and not os.path.isdir(folder):
        shutil.rmtree(folder + ".new", ignore_errors=True)
        parts = layout.read_t2v(a.source, folder + ".new")
        torch.save(parts, os.path.join(a.out, "parts.pt"))
        os.rename(folder + ".new", folder)
    Peers.first(0)
    parts = torch.load(os.path.join(a.out, "parts.pt"))
    a.tokens = train.Tokens(folder)
    a.t5 = T5(vocab=a.tokens.tokenizer.rows, **train.SIZES["t5"])
    a.vae = Vae(**train.SIZES["vae"])
    a.dit = CausalDit(window=WINDOW, **train.SIZES["dit"], in_dim=16, text_dim=train.SIZES["t5"]["dim"])
    for module, name in ((a.t5, "text"), (a.vae, "vae"), (a.dit, "t2v")):
        module.load_state_dict(parts[name])
    for module in (a.t5, a.vae):
        module.eval().requires_grad_(False)


def other_shape(script, rng):
    """The same but for the shape of the thing, which is one that training may see; None: there is none."""
    scenes = []
    for begin, scene in script.scenes:
        others = [replace(scene, shape=s) for s in world.SHAPES if s != scene.shape]
        others = [s for s in others if live.seen_in_training(s)]
        if not others:
            return None
        scenes.append((begin, others[int(rng.integers(len(others)))]))
    return live.Script(scenes, script.latents)


@torch.no_grad()
def encode_scripts(a, name, clip):
    """Files of latents of the clips clip(i), one for every hundred, so that more can be added; made by all processes,
    and read as far as they are there. Returns the first numbers and the latents."""
    per = min(100, a.preset["scripts"])
    folder = os.path.join(a.out, name)
    os.makedirs(folder, exist_ok=True)
    end = time.time() + 60 * a.minutes.get(name, 1e9)
    for b in range(0, a.preset["scripts"], per):
        path = os.path.join(folder, f"{b:06d}.pt")
        if os.path.exists(path) or b // per % Peers.count != Peers.rank or time.time() > end:
            continue
        z = [train.encode(a, train.pixels(clip(i)[None], "cpu")).half() for i in range(b, b + per)]
        torch.save(torch.cat(z), path + ".new")
        os.replace(path + ".new", path)
        log(name, b + per)
    Peers.first(0)
    found = [b for b in range(0, a.preset["scripts"], per) if os.path.exists(os.path.join(folder, f"{b:06d}.pt"))]
    latents = [torch.load(os.path.join(folder, f"{b:06d}.pt")) for b in found]
    log(name + ":", sum(map(len, latents)))
    return [i for b in found for i in range(b, b + per)], torch.cat(latents)


def stage_latents(a):
    """Scripts by their number, and twins, that have another shape on the same course."""
    scripts = [live.random_script(np.random.default_rng((21, i)), LATENTS) for i in range(a.preset["scripts"])]
    numbers, a.latents = encode_scripts(a, "latents", lambda i: live.render(scripts[i]))
    a.scripts = [scripts[i] for i in numbers]
    a.where = torch.from_numpy(np.stack([live.cells(s, *a.latents.shape[:2:-1]) for s in a.scripts]))
    a.channels = train.smoothness(a.latents)

    twins = [other_shape(s, np.random.default_rng((22, i))) or s for i, s in enumerate(scripts)]
    having, latents = encode_scripts(a, "twins", lambda i: live.render(twins[i]))
    a.twins = {numbers.index(i): (twins[i], z) for i, z in zip(having, latents) if i in numbers}


def drawn(a, rng, count):
    """Scripts, their latents, the cells in which the thing is, and the latents of their twins: itself where there is
    none. A twin is as good a script as what it is a twin of."""
    scripts, x0, other = [], [], []
    share = np.array([SPINS if any(scene.motion == "spins" for _, scene in s.scenes) else 1.0 for s in a.scripts])
    pick = rng.choice(len(a.scripts), count, p=share / share.sum())
    for n in map(int, pick):
        pair = [(a.scripts[n], a.latents[n])]
        pair.append(a.twins.get(n, pair[0]))
        pair = pair[::-1] if rng.random() < 0.4 else pair
        scripts.append(pair[0][0])
        x0.append(pair[0][1].float())
        other.append(pair[1][1].float())
    return scripts, torch.stack(x0), a.where[pick], torch.stack(other)


def faded(x0, other):
    """The frames x0 with faults that all else stays true beside, so that the next frame is still what follows from them
    and from the text: on their way to those of another shape, in all places or in some, as what a model has made that
    has lost a corner; or blurred."""
    B, _, T, H, W = x0.shape
    share = torch.rand(B, 1, 1, 1, 1) * torch.rand(B, 1, T, 1, 1).clamp(min=0.3)
    places = F.interpolate(torch.rand(B, 1, H // 3, W // 4), size=(H, W), mode="bilinear")[:, :, None]
    places = torch.where(torch.rand(B, 1, 1, 1, 1) < 0.5, (3 * places - 1).clamp(0, 1), torch.ones(()))
    blurred = F.avg_pool2d(x0.transpose(1, 2).flatten(0, 1), 3, 1, 1, count_include_pad=False)
    blurred = blurred.view(B, T, -1, H, W).transpose(1, 2)
    blur = (torch.rand(B, 1, 1, 1, 1) < 0.3) * torch.rand(B, 1, T, 1, 1) * places
    share = torch.where(blur > 0, torch.zeros(()), share) * places
    return x0 + share * (other - x0) + blur * (blurred - x0)


def texts_of(a, scripts, rng):
    """A wording of each scene: what CausalDit.context() takes. Scripts have one scene or two."""
    which = torch.tensor([[0 if i < s.scenes[-1][0] else 1 for i in range(s.latents)] if len(s.scenes) > 1 else
                          [0] * s.latents for s in scripts])
    texts = [train.encode_text(a, [world.caption(s.scenes[i if len(s.scenes) > i else 0][1], rng, complete=True)
                                   for s in scripts]) for i in range(2)]
    return texts, which


def told(which):
    """How much the frames [B, T] count: four times the first, three times the three behind a switch, which alone have
    to follow the text; the others could follow the frames before them."""
    counted = 1 + 2.0 * (which - F.pad(which, (3, 0))[:, :-3])
    counted[:, 0] = 4
    return counted


def draw_sigma(B, T):
    """Four frames of five get one of the sampler's own, the others any; the first ones any."""
    u = torch.rand(B, T)
    any_of = SHIFT * u / (1 + (SHIFT - 1) * u)
    own = torch.tensor(sigmas(STEPS))[torch.randint(len(STEPS), (B, T))]
    return torch.where((torch.rand(B, T) < 0.8) & (torch.arange(T) > 0), own, any_of)


def vague(x0, sigma, new):
    """The frames x0 as far as a sampler may have come that begins with noise alone: with half of it or more left, every
    other one of the new [B, T] is on its way to its mean, around each cell or of all of them. Where a background can
    be one of several the model begins with their mean, and has to learn to go on to the one that shows a little, not
    to keep the mean."""
    B, Z, T, H, W = x0.shape
    near = F.avg_pool2d(x0.transpose(1, 2).flatten(0, 1), 4, 1, 2, count_include_pad=False)[..., :H, :W]
    near = near.view(B, T, Z, H, W).transpose(1, 2)
    mean = torch.where(torch.rand(B, 1, 1, 1, 1) < 0.5, near, x0.mean((3, 4), True))
    share = torch.rand(B, 1) * (torch.rand(B, 1) < 0.5) * (sigma > 0.5) * new
    return torch.lerp(x0, mean, share[:, None, :, None, None])


def loss_of(a, x0, shown, clean, where, sigma, texts, which, focus, counted):
    """The mean square error of what is made of the frames shown, noised, behind the clean ones, and what is to become
    less; counted [B, T]: how much each frame does."""
    s = sigma[:, None, :, None, None]
    x = (1 - s) * shown + s * torch.randn_like(x0)
    v = a.dit.pairs(clean, x, sigma, texts, which)
    error = (v - (x - x0) / s.clamp(min=1e-3)).pow(2)
    weight = focus * where[:, None].float() + 1
    weight[:, :, 0] += 3            # a background is made up here, later ones are that of before
    weight = weight * counted[:, None, :, None, None]
    return error.mean(), (error * a.channels * weight).sum() / weight.sum() / error.shape[1]


def focus_at(progress):
    """How much more a cell counts in which the thing is: falling, but a shape is told from its outline alone, which
    a model without guidance blurs first."""
    return max(4.0, train.focus_at(progress))


def text_of(texts, which, frame):
    """What Stream.make() takes of what CausalDit.context() takes: the prompts [B] of one frame."""
    longest = max(rows.shape[1] for rows, _ in texts)
    rows = torch.stack([F.pad(r, (0, 0, 0, longest - r.shape[1])) for r, _ in texts], 1)
    samples, said = torch.arange(len(which)), which[:, frame]
    return rows[samples, said], torch.stack([n for _, n in texts], 1)[samples, said]


def guessed(scripts):
    """The frames [B, T] that do not follow from those before them: the first, and those in which another background
    comes (live.FADE)."""
    found = torch.zeros(len(scripts), scripts[0].latents, dtype=torch.bool)
    for row, script in zip(found, scripts):
        row[0] = True
        for (_, old), (begin, new) in zip(script.scenes, script.scenes[1:]):
            if new.background != old.background:
                row[begin:begin + 3] = True
    return found


@torch.no_grad()
def gone_on(a, scripts, x0, where, texts, which):
    """The frames x0 [B, 16, T, H, W] as the model makes them by itself: things go where they go in the script, as that
    follows from the frame before, but are what the model's faults have made of them. Those that are guessed() are true,
    and one that has gone elsewhere is put back: behind it nobody could say what is true. A list: what the sampler has
    come to with each step of STEPS."""
    stream, frames, true = Stream(a.dit, x0.shape[-2:]), [], guessed(scripts)
    for i in range(x0.shape[2]):
        text, x = text_of(texts, which, i), x0[:, :, i:i + 1]
        ends = [x] * len(STEPS)
        if not true[:, i].all():
            ends, cells = stream.steps(text, sigmas(STEPS)), where[:, None, i:i + 1].float()
            error = ((ends[-1] - x).pow(2).mean(1, True) * cells).sum((1, 2, 3, 4)) / \
                cells.sum((1, 2, 3, 4)).clamp(min=1)
            put_back = (true[:, i] | (error > ELSEWHERE))[:, None, None, None, None]
            ends = [torch.where(put_back, x, e.float()) for e in ends]
        frames.append(ends)
        stream.keep(ends[-1], text)
    return [torch.cat(f, 2) for f in zip(*frames)]


def underway(shown, sigma, ends):
    """The frames shown [B, 16, T, H, W] of which a noised one is made, in half of the cases as the sampler has come to
    them when it is at sigma: it goes on from its own faults, not from what is true."""
    for s, end in zip(sigmas(STEPS)[1:], ends):
        own = (sigma == torch.tensor(s)) & (torch.rand(sigma.shape) < 0.5) & (torch.arange(sigma.shape[1]) > 0)
        shown = torch.where(own[:, None, :, None, None], end, shown)
    return shown


def practice(a, rng, count):
    """Batches of scripts with what the model makes of them, three from one go: (x0, where, texts, which, guessed(),
    gone_on())."""
    while True:
        scripts, x0, where, _ = drawn(a, rng, 3 * count)
        texts, which = texts_of(a, scripts, rng)
        own, new = gone_on(a, scripts, x0, where, texts, which), guessed(scripts)
        for b in range(0, len(scripts), count):
            part = slice(b, b + count)
            yield (x0[part], where[part], [(rows[part], n[part]) for rows, n in texts], which[part],
                   new[part], [end[part] for end in own])


@torch.no_grad()
def made(a, x0, clean, texts, which):
    """What the model makes of all frames [B, 16, T, H, W] from noised ones, given those before them, as they are or
    with faults. The scene is still that of x0, which is what comes next then too; frames that a model goes on from by
    itself drift to where nobody can say what is true."""
    sigma = torch.tensor(sigmas(STEPS))[torch.randint(2, len(STEPS), which.shape)]
    sigma[:, 0] = sigmas(STEPS)[-1]         # what nothing else tells has to be seen through the noise
    s = sigma[:, None, :, None, None]
    x = (1 - s) * x0 + s * torch.randn_like(x0)
    return x - s * a.dit.pairs(clean, x, sigma, texts, which).float()


def stage_loop(a, name, rolled):
    c = a.preset[name]
    opt = train.Optimizer([a.dit], c["lr"], ("patch_embedding", "text_embedding.0", "time_embedding", "head",
                                             "modulation"))
    run = train.Run(a.out, name, [a.dit], opt, c, a.minutes.get(name), a.again.get(name))
    torch.manual_seed(23 + run.step + 1000003 * Peers.rank)
    rng = np.random.default_rng((24, rolled, run.step, Peers.rank))
    sheet = time.time()
    batches = practice(a, rng, c["batch"])
    for _ in run.loop():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            if rolled and run.step % 2:
                x0, where, texts, which, new, ends = next(batches)
                clean = ends[-1]
            else:
                scripts, x0, where, other = drawn(a, rng, c["batch"])
                texts, which = texts_of(a, scripts, rng)
                clean, new, ends = faded(x0, other) if rng.random() < 0.7 else x0, guessed(scripts), []
            # A little noise on what is looked back on, which is told as clean: the model's own frames have some.
            clean = clean + 0.1 * torch.rand(len(x0), 1, 1, 1, 1) * torch.randn_like(x0)
            sigma, counted = draw_sigma(*which.shape), told(which)
            shown = underway(vague(x0, sigma, new), sigma, ends)
            mse, loss = loss_of(a, x0, shown, clean, where, sigma, texts, which, focus_at(run.progress), counted)
        run.backward(loss, mse=mse)
        if Peers.rank == 0 and time.time() - sheet > 60 * a.sheet_minutes:
            sheet = time.time()
            show(a, name)
    a.dit.eval()
    if Peers.rank == 0 and run.step:
        show(a, name)


def stage_forced(a):
    stage_loop(a, "forced", False)


def stage_rolled(a):
    if not os.path.exists(os.path.join(a.out, "rolled.pt")):
        log("rolled begins with what forced has come to")
    stage_loop(a, "rolled", True)


def stage_decoder(a):
    """It gets the true latents and, as often, those that the model makes of them, which are blurred: what the true
    frame is, the rest of the picture and the frames before it still tell. No latent changes."""
    c, parts = a.preset["decoder"], [a.vae.decoder.requires_grad_(), a.vae.conv2.requires_grad_()]
    run = train.Run(a.out, "decoder", parts, train.Optimizer(parts, c["lr"], ("conv1", "head")), c,
                    a.minutes.get("decoder"), a.again.get("decoder"))
    torch.manual_seed(25 + run.step + 1000003 * Peers.rank)
    rng = np.random.default_rng((26, run.step, Peers.rank))
    a.dit.eval()
    for _ in run.loop():
        pick = rng.integers(0, len(a.latents), c["batch"])
        scripts, z = [replace(a.scripts[i], latents=SEEN) for i in pick], a.latents[pick, :, :SEEN].float()
        texts, which = texts_of(a, scripts, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            z = made(a, z, z, texts, which) if rng.random() < 0.6 else \
                z + 0.1 * torch.rand(len(z), 1, 1, 1, 1) * torch.randn_like(z)
        x = train.pixels(np.stack([live.render(s) for s in scripts]), "cpu")
        where = torch.from_numpy(np.stack([live.cells(s, *z.shape[:2:-1]) for s in scripts]))[:, None].float()
        if run.progress < 0.7:          # half of the picture, with the thing; then as the attention will see it
            W = z.shape[-1]
            seen = where.sum((0, 1, 2, 3)).cumsum(0)
            at = int(torch.searchsorted(seen, seen[-1] * rng.random())) - W // 4
            at = min(max(at, 0), W - W // 2)
            z, where, x = (t[..., t.shape[-1] * at // W:][..., :t.shape[-1] // 2] for t in (z, where, x))
        mean, std = train.latent_stats(a)
        y = a.vae.decode(z * std + mean)
        loss, mse = train.picture_loss(y, x, 1 + 6 * F.interpolate(where, size=x.shape[2:]))
        run.backward(loss, psnr=-10 * torch.log10(mse / 4))
    if Peers.rank == 0 and run.step:
        show(a, "decoder")


@torch.no_grad()
def show(a, name, latents=16):
    """A sheet of scripts that training never saw: a row each, true above, made below."""
    rng = np.random.default_rng(31)
    rows = []
    for first, second in live.switches(6, 32):
        script = live.Script([(0, first), (latents // 2, second)], latents)
        stream, made = Stream(a.dit, (world.SIZE[1] // 8, world.SIZE[0] // 8)), []
        said = [train.encode_text(a, [world.caption(s, rng, "en", True)]) for s in (first, second)]
        g = torch.Generator().manual_seed(len(rows))
        for i in range(latents):
            text = said[i >= latents // 2]
            made.append(stream.make(text, sigmas(STEPS if i else FIRST), g))
            stream.keep(made[-1], text)
        rows += [train.pixels(live.render(script)[None], "cpu")[0], train.decode(a, torch.cat(made, 2))[0]]
    train.sheet(os.path.join(a.out, name + ".png"), torch.stack(rows), 12)


def stage_export(a):
    """The preset's row in wan/preset.c has STEPS, FIRST, SHIFT and WINDOW."""
    if Peers.rank == 0:
        words = dict(size="%dx%d" % world.SIZE, frames=4 * LATENTS - 3, guidance=1.0, preset="demo")
        layout.write_t2v(a.to, a.dit, a.t5, a.vae, os.path.join(a.out, "tokenizer"), words)


STAGES = ("latents", "forced", "rolled", "decoder", "export")


def work(rank, a, meeting):
    torch.set_num_threads(1 if meeting else 2)
    if meeting:
        Peers.join(rank, a.preset["ranks"], meeting)
    begin(a)
    for stage in STAGES:
        globals()["stage_" + stage](a)
        if stage == a.stage:
            break


def main():
    p = argparse.ArgumentParser(description="Train the causal demo model.")
    p.add_argument("out", help="folder of checkpoints, sheets, logs")
    p.add_argument("--from", dest="source", default="share/demo/t2v", help="the text-to-video model it begins with")
    p.add_argument("--to", default=None, help="where export writes [OUT/causal]")
    p.add_argument("--preset", choices=PRESETS, default="cpu")
    p.add_argument("--stage", choices=STAGES, help="stop after this one")
    p.add_argument("--minutes", action="append", default=[], metavar="STAGE=M", help="end a stage after so long")
    p.add_argument("--again", action="append", default=[], metavar="STAGE=P",
                   help="train a stage on, though it is done, as from that part of its run, 0 to 1")
    p.add_argument("--sheet-minutes", type=float, default=10)
    p.add_argument("--bf16", action="store_true", help="products in BF16: faster where the processor has them")
    p.add_argument("--ranks", type=int, default=0, help="processes of one thread [the preset's]")
    a = p.parse_args()
    a.minutes, a.again = ({k: float(v) for k, v in (m.split("=") for m in given)} for given in (a.minutes, a.again))
    a.preset, a.device = dict(PRESETS[a.preset]), "cpu"
    a.preset["ranks"] = a.ranks or a.preset["ranks"]
    a.to = a.to or os.path.join(a.out, "causal")
    os.makedirs(a.out, exist_ok=True)
    train.start(work, a)


if __name__ == "__main__":
    main()
