"""Shows the judge of tests/demo true pictures of scenes that go on, and counts what it says.

    python3 live_check.py JUDGE [SWITCHES] [SEED]   attributes before and after switches of the prompt, clean and
                                                    degraded; without numbers, of those in tests/demo/switches.txt.
                                                    Exit status 0 if each attribute is right in 97 % of them
    python3 live_check.py --frames FOLDER [MISTAKE] writes what live.sh takes with LIVE_FRAMES=FOLDER in place of a
                                                    model's frames: true ones, or with a mistake:
        ignores     the second prompt changes nothing
        late        it is followed a second later
        forgets     at the switch the background is another
        stops       at the switch a motion that is kept ends
        brightens, pales, flattens      by 15 % over the ten minutes
        blurs       over the ten minutes
        vae MODEL   none, but through the VAE of that model and back: what a transformer without a fault would be
                    given; the switches alone

This file is part of libwan; see the licence in wan/wan.h.
"""
import collections
import os
import sys
from dataclasses import replace

import numpy as np

import judge_check
import judge_data
import live
import world

LIMIT = 0.97
MINUTES, TURN = 10, 10      # of a stream, seconds of a prompt


def stretches(at):
    """Of the frames before and after the switch, those that the judge gets: first, count. As in live.sh."""
    begin = max(0, at - live.SOON - 1)
    return (begin, at - begin), (at - 1, live.SOON + 1)


def wavering(script):
    """Frames of a thing that goes round its path by a pixel and a half, in a second and a quarter: what models do, and
    no circle."""
    x, y, radius, angle = live.track(script)
    turn = np.arange(len(x), dtype=np.float32) * 2 * np.pi / 20
    return live.render(script, course=(x + 1.5 * np.cos(turn), y + 1.5 * np.sin(turn), radius, angle))


def check(program, name, scripts, render):
    right, wrong = collections.Counter(), []
    margins = collections.defaultdict(list)
    for number, script in enumerate(scripts):
        frames = render(script)
        at = live.first_frame(script.scenes[1][0])
        for when, (first, count), (_, scene) in zip(("before", "after"), stretches(at), script.scenes):
            said, margin = judge_check.judge(program, frames[first:first + count], ("--live", "0", str(count)))
            for attribute, answer, m in zip(judge_check.ATTRIBUTES, said, margin):
                truth = getattr(scene, attribute)
                right[when, attribute] += truth == answer
                margins[attribute].append(m)
                if truth != answer:
                    wrong.append(f"    {number} at {at}, {when}: {truth} taken for {answer} "
                                 f"({script.scenes[0][1].motion} then {script.scenes[1][1].motion})")
    print(f"{name}, {len(scripts)} switches: " + "; ".join(
        f"{a} {right['before', a]} before, {right['after', a]} after (1 % margin {np.percentile(margins[a], 1):.2f})"
        for a in judge_check.ATTRIBUTES))
    print(*wrong, sep="\n")
    return min(right[w, a] for w in ("before", "after") for a in judge_check.ATTRIBUTES) >= LIMIT * len(scripts)


def mistaken(script, mistake):
    """The frames of a switch as a model makes them that has a fault."""
    (_, first), (latent, second) = script.scenes
    if mistake == "ignores":
        script = live.Script([(0, first)], script.latents)
    elif mistake == "late":
        script = live.Script([(0, first), (latent + live.SOON // 4, second)], script.latents + 1)
    elif mistake == "forgets" and second.background == first.background:
        other = world.BACKGROUNDS[(world.BACKGROUNDS.index(first.background) + 1) % len(world.BACKGROUNDS)]
        script = live.Script([(0, first), (latent, replace(second, background=other))], script.latents)
    frames = live.render(script)
    if mistake == "stops" and second.motion == first.motion:
        x, y, radius, angle = live.track(script)
        at = live.first_frame(latent)
        still = np.arange(len(x)).clip(0, at - 1)
        frames = live.render(script, course=tuple(v[still] for v in (x, y, radius, angle)))
    return frames


def through_vae(model):
    """A function that encodes and decodes frames."""
    import tempfile
    import layout
    import torch
    import train
    from modules import Vae

    with tempfile.TemporaryDirectory() as folder:
        parts = layout.read_t2v(model, os.path.join(folder, "tokenizer"))
    vae = Vae(parts["vae"]["decoder.head.0.gamma"].numel())
    vae.load_state_dict(parts["vae"])
    vae.eval()

    @torch.no_grad()
    def back(frames):
        x = vae.decode(vae.encode(train.pixels(frames[None], "cpu"))[0])[0]
        return ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return back


FAULTS = {"brightens": lambda c: 1.15 * c,
          "pales": lambda c: c + 0.15 * (c.mean(-1, keepdims=True) - c),
          "flattens": lambda c: c + 0.15 * (c.mean((1, 2), keepdims=True) - c),
          "blurs": lambda c: judge_check.blur(c, 0.7)}


def write_stream(name, mistake):
    """live.steady_scenes() by turns, a prompt's frames at a time; faults come evenly over the whole."""
    scenes = [scene for scene, _ in live.steady_scenes(judge_data.SEED)]
    frames, turns = TURN * world.RATE, MINUTES * 60 // TURN
    before, state = scenes[0], {}
    with open(name, "wb") as file:
        for i in range(turns):
            scene = scenes[i % len(scenes)]
            script = live.Script([(0, replace(before, **state)), (1, replace(scene, **state))], frames // 4 + 1)
            clip = live.render(script)[1:]
            state = dict(zip(("x", "y", "radius", "angle"), (float(v[-1]) for v in live.track(script))))
            before = scene
            if mistake in FAULTS:
                share = ((i + np.linspace(0, 1, frames)) / turns)[:, None, None, None].astype(np.float32)
                clip = clip.astype(np.float32)
                clip = np.clip(clip + share * (FAULTS[mistake](clip) - clip) + 0.5, 0, 255).astype(np.uint8)
            clip.tofile(file)


def write_frames(folder, mistake, model):
    os.makedirs(folder, exist_ok=True)
    scripts = live.switch_scripts(judge_data.SWITCHES, judge_data.SEED)
    back = through_vae(model) if model else lambda frames: frames
    for seed, (script, _) in enumerate(scripts, judge_data.FIRST_SWITCH):
        back(mistaken(script, mistake)).tofile(os.path.join(folder, f"{seed}.rgb"))
    if not model:
        write_stream(os.path.join(folder, "drift.rgb"), mistake)


def main():
    if sys.argv[1] == "--frames":
        mistake = sys.argv[3] if len(sys.argv) > 3 else None
        if mistake not in (None, "ignores", "late", "forgets", "stops", "vae", *FAULTS) or \
                (mistake == "vae") != (len(sys.argv) > 4):
            sys.exit(f"{mistake}: no mistake of these")
        write_frames(sys.argv[2], mistake, sys.argv[4] if mistake == "vae" else None)
        return
    program = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else judge_data.SWITCHES
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else judge_data.SEED
    scripts = [script for script, _ in live.switch_scripts(count, seed)]
    rng = np.random.default_rng(1)
    good = check(program, "clean", scripts, live.render)
    good &= check(program, "blur 1.2, noise 6", scripts,
                  lambda script: judge_check.degrade(live.render(script), rng, 1.2, 6))
    good &= check(program, "wavering", scripts, wavering)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
