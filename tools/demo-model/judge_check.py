"""Shows the judge of tests/demo true renders of the world, clean and degraded, and counts what it says.

    python3 judge_check.py JUDGE [CLIPS] [SEED]      JUDGE: the built tests/demo/judge

Exit status 0 if every attribute is right in at least 98 % of the clips, in every state.

This file is part of libwan; see the licence in wan/wan.h.
"""
import collections
import subprocess
import sys

import numpy as np

import world

ATTRIBUTES = ("colour", "shape", "motion", "background")
LIMIT = 0.98


def blur(clip, sigma):
    """Gaussian over height and width of [frames, h, w, 3], edges repeated."""
    n = int(3 * sigma + 1)
    kernel = np.exp(-0.5 * (np.arange(-n, n + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (n, n)
        wide = np.pad(clip, pad, "edge")
        clip = sum(k * np.take(wide, range(i, i + clip.shape[axis]), axis) for i, k in enumerate(kernel))
    return clip


def degrade(clip, rng, sigma, noise, fade=1.0):
    """Blurred, noisy and with less colour, as a decoder may leave it."""
    clip = blur(clip.astype(np.float32), sigma) if sigma else clip.astype(np.float32)
    grey = clip.mean(-1, keepdims=True)
    clip = grey + (clip - grey) * fade
    return np.clip(clip + rng.normal(0, noise, clip.shape) + 0.5, 0, 255).astype(np.uint8)


def judge(program, clip, how=()):
    _, h, w, _ = clip.shape
    answer = subprocess.run([program, *how, f"{w}x{h}", "-"], input=clip.tobytes(), stdout=subprocess.PIPE, check=True)
    fields = answer.stdout.decode().rstrip("\n").split("\t")
    return fields[:4], [float(x) for x in fields[4:]]


def check(program, name, scenes, rng, change):
    right = collections.Counter()
    wrong = collections.Counter()
    margins = {a: [] for a in ATTRIBUTES}
    for scene in scenes:
        said, margin = judge(program, change(world.render(scene)))
        for attribute, answer, m in zip(ATTRIBUTES, said, margin):
            truth = getattr(scene, attribute)
            right[attribute] += truth == answer
            margins[attribute].append(m)
            if truth != answer:
                wrong[attribute, truth, answer] += 1
    print(f"{name}, {len(scenes)} clips: " + ", ".join(
        f"{a} {100 * right[a] / len(scenes):.1f} % (1 % margin {np.percentile(margins[a], 1):.2f})"
        for a in ATTRIBUTES))
    for (attribute, truth, answer), count in wrong.most_common():
        print(f"    {attribute}: {truth} taken for {answer}: {count}")
    return min(right[a] for a in ATTRIBUTES) >= LIMIT * len(scenes)


def main():
    program = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    rng = np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    scenes = [world.random_scene(rng) for _ in range(count)]
    good = check(program, "clean", scenes, rng, lambda clip: clip)
    good &= check(program, "blur 1.2, noise 6", scenes, rng, lambda clip: degrade(clip, rng, 1.2, 6))
    check(program, "harder (no limit): blur 2, noise 10, colour 80 %", scenes, rng,
          lambda clip: degrade(clip, rng, 2, 10, 0.8))

    # What is not there must not be seen.
    nothing = 0
    for scene in scenes[:50]:
        empty = np.repeat(world.backdrop(scene)[None], 17, 0)
        nothing += judge(program, degrade(empty, rng, 0, 6))[0][:3] == ["none"] * 3
    rest = 0
    for scene in scenes[:50]:
        still = np.repeat(world.render(scene)[:1], 17, 0)
        rest += judge(program, degrade(still, rng, 1.2, 6))[0][2] == "none"
    print(f"empty scenes without an object: {nothing} of 50; resting objects without motion: {rest} of 50")
    sys.exit(0 if good and nothing == 50 and rest == 50 else 1)


if __name__ == "__main__":
    main()
