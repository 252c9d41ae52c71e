"""The world of world.py as it goes on: one thing that does, or becomes, what the latest sentence says.

A Script is a list of scenes, each from a latent frame on. A thing keeps its place, size and angle when the
sentence changes, and does the new motion from there: left, right, up and down end at the edge, growing and
shrinking at a size, and there it waits; bouncing, spinning and circling have no end. A new colour, shape or
background fades in. What comes next follows from the last frames and the sentence, so a model that looks back
has nothing to guess but what a new background looks like.

Lengths are world.py's pixels. Needs numpy and nothing else.

    python3 live.py sheet.png       writes a contact sheet of scripts

This file is part of libwan; see the licence in wan/wan.h.
"""
from dataclasses import dataclass, replace

import numpy as np

import world

HOP = 8             # frames from the ground to the ground
TURN = 16           # frames of a circle
SPEED = {"left": (-3.2, 0), "right": (3.2, 0), "up": (0, -1.6), "down": (0, 1.6)}     # a frame
HEIGHT, ORBIT = 25.0, 16.0
SPIN = np.deg2rad(7.0)
GROWTH = 2.15 ** (1 / 16)
LARGER = 1.4        # than world.py has it: outlines that move are told by more of the VAE's cells
SMALLEST, LARGEST = 9.5 * LARGER, 22.0 * LARGER
DRIFT = 2.4         # a frame, of the ground or a circle's centre to where there is room
FADE = 4            # frames to another colour or shape; a background takes twice as long


@dataclass
class Script:
    scenes: list    # [(first latent frame, Scene)], the first at 0
    latents: int    # latent frames in all

    @property
    def frames(self):
        return 4 * self.latents - 3

    def scene_at(self, latent):
        return [s for begin, s in self.scenes if begin <= latent][-1]


def first_frame(latent):
    """Of the pixel frames that a latent frame holds."""
    return max(0, 4 * latent - 3)


def seen_in_training(scene):
    return world.possible(scene.shape, scene.motion) and \
        not world.held_out(scene.colour, scene.shape, scene.motion, scene.background)


def begin_with(rng, *what):
    """A scene to begin with; what: as of world.random_scene()."""
    scene = world.random_scene(rng, *what)
    return replace(scene, radius=LARGER * scene.radius)


def change(scene, rng, allowed=seen_in_training):
    """The scene after another sentence: mostly one attribute is another, sometimes two."""
    while True:
        new = scene
        for what in rng.choice(("motion", "colour", "shape", "background"), 1 + (rng.random() < 0.3), replace=False,
                               p=(0.45, 0.2, 0.2, 0.15)):
            values = dict(motion=world.MOTIONS, colour=world.COLOURS, shape=world.SHAPES,
                          background=world.BACKGROUNDS)[what]
            new = replace(new, **{what: str(rng.choice([v for v in values if v != getattr(scene, what)]))})
        if allowed(new):
            break
    if new.background != scene.background:
        new = replace(new, tone=tuple(rng.random(4)), seed=int(rng.integers(1 << 31)))
    return new


def random_script(rng, latents):
    """A scene, and in most scripts others after it, for two latent frames each at least."""
    scene = begin_with(rng)
    while not seen_in_training(scene):
        scene = begin_with(rng)
    scenes = [(0, scene)]
    if rng.random() < 0.75 and latents > 4:
        scenes.append((int(rng.integers(2, latents - 1)), change(scene, rng)))
    return Script(scenes, latents)


class Thing:
    """Where the object is, from frame to frame."""

    def __init__(self, scene):
        self.x, self.y, self.radius, self.angle = scene.x, scene.y, scene.radius, scene.angle
        self.begin(scene)

    def begin(self, scene):
        """A sentence: the motion begins here."""
        self.scene, self.age = scene, 0
        self.ground, self.centre = self.y, [self.x - ORBIT, self.y]

    def inside(self, x, y, room=(0, 0, 0, 0)):
        """The nearest place at which it fits into the frame with so much room left, above, right, below."""
        reach = world.REACH[self.scene.shape][self.scene.motion == "spins"] * self.radius + world.MARGIN
        low = (reach + room[0], reach + room[1])
        high = (world.SIZE[0] - reach - room[2], world.SIZE[1] - reach - room[3])
        return tuple(float(np.clip(v, a, b)) if a < b else (a + b) / 2 for v, a, b in zip((x, y), low, high))

    @staticmethod
    def towards(value, goal):
        return value + float(np.clip(goal - value, -DRIFT, DRIFT))

    def step(self):
        """The next frame's."""
        motion = self.scene.motion
        self.age += 1
        if motion in SPEED:
            self.x, self.y = self.x + SPEED[motion][0], self.y + SPEED[motion][1]
        elif motion == "bounces":
            goal = self.inside(self.x, self.ground, (0, HEIGHT, 0, 0))
            self.x, self.ground = self.towards(self.x, goal[0]), self.towards(self.ground, goal[1])
            self.y = self.ground - HEIGHT * abs(np.sin(np.pi * self.age / HOP))
        elif motion == "circles":
            goal = self.inside(*self.centre, (ORBIT,) * 4)
            self.centre = [self.towards(c, g) for c, g in zip(self.centre, goal)]
            at = 2 * np.pi * self.age / TURN
            self.x, self.y = self.centre[0] + ORBIT * np.cos(at), self.centre[1] + ORBIT * np.sin(at)
        elif motion == "spins":
            self.angle += SPIN
        elif motion == "grows":
            self.radius = max(self.radius, min(self.radius * GROWTH, LARGEST))
        else:
            self.radius = min(self.radius, max(self.radius / GROWTH, SMALLEST))
        self.x, self.y = self.inside(self.x, self.y)


def track(script):
    """Centre x, centre y, radius and angle of every frame, as world.path() has them."""
    starts = {first_frame(begin): scene for begin, scene in script.scenes}
    thing, rows = Thing(starts[0]), []
    for f in range(script.frames):
        if f:
            if f in starts:
                thing.begin(starts[f])
            thing.step()
        rows.append((thing.x, thing.y, thing.radius, thing.angle))
    return tuple(np.float32(column) for column in zip(*rows))


def mixture(script, fade):
    """[frames, scenes]: how much of each scene a frame shows, when a new one takes so many frames to come."""
    share = np.zeros((script.frames, len(script.scenes)), np.float32)
    share[:, 0] = 1
    for i, (begin, _) in enumerate(script.scenes[1:], 1):
        since = np.arange(script.frames) - first_frame(begin) + 1
        new = np.clip(since / fade, 0, 1).astype(np.float32)
        share *= 1 - new[:, None]
        share[:, i] += new
    return share


def render(script, size=world.SIZE, course=None):
    """The script's frames, uint8 [frames, h, w, 3], of a thing that goes as track() says or on another course."""
    scenes = [s for _, s in script.scenes]
    quick, slow = mixture(script, FADE), mixture(script, 2 * FADE)
    backs = [world.backdrop(s, size) for s in scenes]
    stills = []
    for row in slow:
        shown = [(w, b) for w, b in zip(row, backs) if w > 0]
        stills.append(shown[0][1] if len(shown) == 1 else sum(w * b for w, b in shown))
    one = [world.look(s.colour, s.shape, script.frames) for s in scenes]

    def distance(x, y, r):
        return sum(quick[:, i, None, None] * a.distance(x, y, r) for i, a in enumerate(one) if quick[:, i].any())

    looks = world.Look(distance, sum(quick[:, i, None] * a.rgb for i, a in enumerate(one)),
                       sum(quick[:, i] * a.glow for i, a in enumerate(one)),
                       sum(quick[:, i, None] * a.shine for i, a in enumerate(one)))
    return world.draw(stills, *(course or track(script)), looks, size)


def cells(script, w, h):
    """Where the object is in some frame of a latent's cell: bool [latents, h, w]."""
    x, y, radius, _ = track(script)
    reach = max(max(world.REACH[s.shape]) for _, s in script.scenes)
    unit = world.SIZE[0] / w
    centre = (np.arange(max(w, h), dtype=np.float32) + 0.5) * unit
    near = np.hypot(centre[None, None, :w] - x[:, None, None], centre[None, :h, None] - y[:, None, None]
                    ) < (radius * reach + unit / 2)[:, None, None]
    return np.stack([near[first_frame(i):4 * i + 1].any(0) for i in range(script.latents)])


def switches(n, seed):
    """For the live judge: n pairs of a scene and the one after it, both of combinations that were held out, and
    what of colour, shape, motion and background changed."""
    rng = np.random.default_rng(seed)

    def unseen(s):
        return world.possible(s.shape, s.motion) and world.held_out(s.colour, s.shape, s.motion, s.background)

    found = []
    while len(found) < n:
        first = begin_with(rng)
        if not world.possible(first.shape, first.motion):
            continue
        for _ in range(200):        # few neighbours of a scene are held out too
            second = change(first, rng, world_possible)
            if unseen(second):
                found.append((first, second))
                break
    return found


SOON = 16           # frames in which a new sentence is to be followed


def moves_on(script, begin, frames):
    """Whether the motion that the last sentence asks for is to be seen in those frames: what ends at an edge or a
    size may have ended."""
    x, y, radius, _ = (row[begin:begin + frames] for row in track(script))
    motion = script.scenes[-1][1].motion
    if motion in SPEED:
        return np.hypot(x[-1] - x[0], y[-1] - y[0]) > 7 * np.hypot(*SPEED[motion])
    return motion not in ("grows", "shrinks") or max(radius) / min(radius) >= 1.35


def switch_script(first, second, rng):
    """A script of two scenes, the second long enough to be followed and at a time at which its motion is to be
    seen; None: there is no such time."""
    for latent in rng.permutation(np.arange(3, 9)):
        latent = int(latent)
        script = Script([(0, first), (latent, second)], latent + SOON // 4)
        if moves_on(script, first_frame(latent) - 1, SOON + 1):
            return script
    return None


def switch_scripts(n, seed):
    """n scripts of switches(), each with the sentences of both scenes."""
    rng = np.random.default_rng((seed, 1))
    found = []
    for first, second in switches(2 * n, seed):
        script = switch_script(first, second, rng)
        said = [world.caption(s, rng, "en", True) for s in (first, second)]
        if script and len(found) < n:
            found.append((script, said))
    return found


def steady_scenes(seed):
    """What a stream shows by turns when its colours are measured: one background, nothing that grows or shrinks."""
    rng = np.random.default_rng(seed)
    what = (("red", "star", "circles"), ("red", "star", "right"), ("blue", "star", "bounces"),
            ("blue", "heart", "left"), ("yellow", "heart", "spins"), ("yellow", "square", "circles"))
    scene = begin_with(rng, *what[0], "sea")
    return [(s, world.caption(s, rng, "en", True)) for s in
            (replace(scene, colour=c, shape=s, motion=m) for c, s, m in what)]


def world_possible(scene):
    return world.possible(scene.shape, scene.motion)


def main():
    import sys
    import time
    rng = np.random.default_rng(1)
    scripts = [random_script(rng, 12) for _ in range(12)]
    start = time.process_time()
    clips = [render(s) for s in scripts]
    print(f"{(time.process_time() - start) / len(clips) * 1000:.1f} ms a script of {scripts[0].frames} frames")
    for s in scripts:
        print(*(f"{b}: {c.colour} {c.shape} {c.motion} {c.background};" for b, c in s.scenes))
    if len(sys.argv) > 1:
        world.write_png(sys.argv[1], world.sheet(clips, range(0, scripts[0].frames, 4)))


if __name__ == "__main__":
    main()
