"""The world of world.py as it goes on: one thing that does, or becomes, what the latest sentence says.

A Script is a list of scenes, each from a latent frame on. A thing keeps its place, size and angle when the
sentence changes, and does the new motion from there: left, right, up and down end at the edge, growing and
shrinking at a size, and there it waits; bouncing, spinning and circling have no end. With each latent frame of the
VAE it comes to a place on the grid of the VAE's cells, to one of five sizes: a small network draws sharp outlines
of a few pictures only. A new colour, shape or
background fades in. What comes next follows from the last frames and the sentence, so a model that looks back
has nothing to guess but what a new background looks like.

Lengths are world.py's pixels. Needs numpy and nothing else.

    python3 live.py sheet.png       writes a contact sheet of scripts

This file is part of libwan; see the licence in wan/wan.h.
"""
from dataclasses import dataclass, replace

import numpy as np

import world

CELL = 8            # of the VAE, which has one latent frame for
FRAMES = 4          # frames
HOP = 12            # frames from the ground to the ground
TURN = 24           # frames of a circle
WAY = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}     # cells in a latent frame
HEIGHT = 2 * CELL / np.sin(np.pi / 3)
ORBIT = np.array((2 * CELL, HEIGHT))    # a circle is a little higher than wide, so that it meets the grid as well
# A frame: all but hearts, which need sixteen, are upright again after four latent frames.
SPIN = {shape: np.deg2rad(turn) / FRAMES for shape, turn in dict(square=22.5, triangle=30, star=18, heart=22.5).items()}
GROWTH = 2 ** (1 / 16)
SMALLEST, USUAL, LARGEST = 20 / 2 ** 0.5, 20.0, 20 * 2 ** 0.5
BACKDROPS = 8       # of a kind, each in all tones; but of
CHECKERS = 488      # checkerboards the one whose squares are cells of the VAE, two by two
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


def backdrop_seed(background, seed):
    """The seed of a background that may be there."""
    return CHECKERS if background == "checkerboard" else seed


def begin_with(rng, *what):
    """A scene to begin with; what: as of world.random_scene()."""
    scene = world.random_scene(rng, *what)
    return replace(scene, x=80.0, y=dict(up=64.0, down=32.0).get(scene.motion, 48.0), angle=0.0,
                   seed=backdrop_seed(scene.background, scene.seed % BACKDROPS),
                   radius=dict(grows=SMALLEST, shrinks=LARGEST).get(scene.motion, USUAL))


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
        new = replace(new, tone=tuple(rng.random(4)),
                      seed=backdrop_seed(new.background, int(rng.integers(BACKDROPS))))
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
        self.place, self.radius, self.angle = np.array((scene.x, scene.y)), scene.radius, scene.angle
        self.begin(scene)

    def begin(self, scene):
        """A sentence: the motion begins here. It goes around a middle, which goes to where there is room."""
        self.scene, self.age = scene, 0
        self.middle = self.place - self.around()

    def around(self):
        """Where it is, as seen from its middle."""
        if self.scene.motion == "bounces":
            return np.array((0, -HEIGHT * abs(np.sin(np.pi * self.age / HOP))))
        if self.scene.motion == "circles":
            at = 2 * np.pi * self.age / TURN
            return ORBIT * np.array((np.cos(at), np.sin(at)))
        return np.zeros(2)

    def room(self, radius):
        """The least and the largest x and y at which it fits into the frame, whatever shape it will have."""
        reach = max(map(max, world.REACH.values())) * radius + world.MARGIN
        return np.full(2, reach), np.array(world.SIZE) - reach

    def plan(self):
        """How the next latent frame changes the middle and the size, in each of its frames."""
        motion = self.scene.motion
        size = self.radius
        if motion == "grows":
            size = max(size, min(size * GROWTH ** FRAMES, LARGEST))
        elif motion == "shrinks":
            size = min(size, max(size / GROWTH ** FRAMES, SMALLEST))
        low, high = self.room(max(size, self.radius))
        low = low + dict(bounces=(0, HEIGHT), circles=ORBIT).get(motion, (0, 0))
        high = high - dict(circles=ORBIT).get(motion, (0, 0))
        low, high = np.ceil(low / CELL) * CELL, np.floor(high / CELL) * CELL
        goal = np.round(self.middle / CELL + WAY.get(motion, (0, 0))) * CELL
        goal = np.where(low > high, np.array(world.SIZE) / 2, goal.clip(low, high))
        self.step_of_middle = (goal - self.middle).clip(-CELL, CELL) / FRAMES
        self.step_of_size = (size / self.radius) ** (1 / FRAMES)

    def step(self):
        """The next frame's."""
        if self.age % FRAMES == 0:
            self.plan()
        self.age += 1
        self.middle = self.middle + self.step_of_middle
        self.radius *= self.step_of_size
        if self.scene.motion == "spins":
            self.angle += SPIN[self.scene.shape]
        self.place = self.middle + self.around()
        if self.scene.motion in ("bounces", "circles"):     # as far as there is room
            self.place = self.place.clip(*self.room(self.radius))


def track(script):
    """Centre x, centre y, radius and angle of every frame, as world.path() has them."""
    starts = {first_frame(begin): scene for begin, scene in script.scenes}
    thing, rows = Thing(starts[0]), []
    for f in range(script.frames):
        if f:
            if f in starts:
                thing.begin(starts[f])
            thing.step()
        rows.append((*thing.place, thing.radius, thing.angle))
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


def moves_on(script, scene, begin, frames):
    """Whether the motion that the scene asks for is to be seen in those frames: what ends at an edge or a size may
    have ended, and less than a hop is a way up."""
    x, y, radius, _ = (row[begin:begin + frames] for row in track(script))
    if scene.motion in WAY:
        return np.hypot(x[-1] - x[0], y[-1] - y[0]) >= 2 * CELL
    if scene.motion in ("grows", "shrinks"):
        return max(radius) / min(radius) >= 1.35
    return scene.motion == "spins" or frames > HOP


def switch_script(first, second, rng):
    """A script of two scenes, the second long enough to be followed and at a time at which both motions are to be
    seen; None: there is no such time."""
    for latent in rng.permutation(np.arange(3, 9)):
        latent = int(latent)
        script = Script([(0, first), (latent, second)], latent + SOON // 4)
        at = first_frame(latent)
        before = max(0, at - SOON - 1)
        if moves_on(script, first, before, at - before) and moves_on(script, second, at - 1, SOON + 1):
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
