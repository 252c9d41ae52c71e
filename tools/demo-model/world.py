"""The procedural world that the demo model is trained on: one shaded object that moves over a still background.

A Scene says what is seen and how it moves, render() draws it, caption() says it in words.
Lengths are pixels of a 160x96 picture; another size scales them. Needs numpy and nothing else.

    python3 world.py sheet.png        writes a contact sheet and times the renderer

This file is part of libwan; see the licence in wan/wan.h.
"""
from dataclasses import dataclass, replace

import numpy as np

SIZE = (160, 96)  # width, height
FRAMES = 17
RATE = 16         # frames per second

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("ball", "square", "triangle", "star", "heart", "ring")
MOTIONS = ("left", "right", "up", "down", "bounces", "spins", "grows", "shrinks", "circles")
BACKGROUNDS = ("plain", "gradient", "night sky", "field", "sea", "checkerboard")

RGB = {"red": (226, 36, 40), "orange": (248, 132, 20), "yellow": (250, 216, 28), "green": (44, 178, 60),
       "blue": (34, 92, 232), "purple": (140, 54, 204), "pink": (252, 100, 180), "white": (248, 248, 248)}

# How far a shape of radius 1 reaches from its centre, upright and at any angle.
REACH = {"ball": (1.0, 1.0), "square": (0.98, 1.2), "triangle": (1.22, 1.22), "star": (1.18, 1.18),
         "heart": (1.06, 1.06), "ring": (1.04, 1.04)}
MARGIN = 2.5  # pixels left free to the frame's edge


@dataclass
class Scene:
    colour: str
    shape: str
    motion: str
    background: str
    x: float        # centre in the first frame
    y: float
    radius: float   # in the first frame
    angle: float    # in the first frame, radians, clockwise
    amount: float   # pixels of travel, radians of spin, factor of size, or radius of the circle
    tone: tuple     # background: hue and brightness of two colours, in 0..1
    seed: int       # background: stars, horizon, offset of the checkerboard


def held_out(colour, shape, motion, background=None):
    """Whether training never sees this combination, over any background: 1 of 12 (colour, shape, motion)."""
    index = COLOURS.index(colour) * 5 + SHAPES.index(shape) * 2 + MOTIONS.index(motion)
    return index % 12 == 0


def possible(shape, motion):
    """A ball or a ring that spins looks as one that rests."""
    return motion != "spins" or shape not in ("ball", "ring")


def random_scene(rng, colour=None, shape=None, motion=None, background=None):
    """A scene with what is given; what is not is drawn so that the combination is one that training may see."""
    given = None not in (colour, shape, motion, background)
    while True:
        what = (colour or str(rng.choice(COLOURS)), shape or str(rng.choice(SHAPES)),
                motion or str(rng.choice(MOTIONS)), background or str(rng.choice(BACKGROUNDS)))
        if not possible(what[1], what[2]):
            if shape and motion:
                raise ValueError(f"a {shape} that spins can't be told from one that rests")
            continue
        if given or not held_out(*what) or (colour and shape and motion):
            return place(Scene(*what, 0, 0, 0, 0, 0, tuple(rng.random(4)), int(rng.integers(1 << 31))), rng)


def place(scene, rng, x=None, y=None, radius=None):
    """The scene with a place, a size and a path drawn for its motion; all of the path lies inside the frame.

    All begin near the middle and at about one size, but for what grows or shrinks: a first frame does not tell
    what comes, and a small model has little to guess that the words don't say.
    """
    motion = scene.motion
    low, high = {"grows": (10, 11), "shrinks": (20, 22)}.get(motion, (13.5, 14.5))
    x = float(rng.uniform(77, 83)) if x is None else x
    y = float(rng.uniform(47, 49)) if y is None else y
    radius = float(rng.uniform(low, high)) if radius is None else radius
    if motion in ("left", "right"):
        amount = rng.uniform(48, 54)
    elif motion in ("up", "down", "bounces"):
        amount = rng.uniform(25, 26.5)
    elif motion == "circles":  # around a point beside it
        amount = rng.uniform(15, 17)
    elif motion == "spins":
        amount = np.deg2rad(rng.uniform(105, 120))  # four frames, one of the VAE's, turn a star by less than it repeats
    else:
        amount = rng.uniform(2.0, 2.3)
        if motion == "shrinks":
            amount = 1 / amount

    reach = REACH[scene.shape][motion == "spins"] * radius + MARGIN
    if motion in ("up", "bounces"):
        amount = min(amount, y - reach)
    elif motion == "down":
        amount = min(amount, SIZE[1] - reach - y)
    return replace(scene, x=x, y=y, radius=radius, angle=float(rng.uniform(-0.06, 0.06)), amount=float(amount))


def path(scene, frames=FRAMES):
    """Centre x, centre y, radius and angle of every frame. Fewer frames than FRAMES are the path's beginning."""
    t = np.arange(frames, dtype=np.float32) / (max(frames, FRAMES) - 1)
    x = np.full(frames, scene.x, np.float32)
    y = np.full(frames, scene.y, np.float32)
    radius = np.full(frames, scene.radius, np.float32)
    angle = np.full(frames, scene.angle, np.float32)
    motion, amount = scene.motion, scene.amount
    if motion == "left":
        x = x - amount * t
    elif motion == "right":
        x = x + amount * t
    elif motion == "up":
        y = y - amount * t
    elif motion == "down":
        y = y + amount * t
    elif motion == "bounces":
        y = y - amount * np.abs(np.sin(2 * np.pi * t))
    elif motion == "spins":
        angle = angle + amount * t
    elif motion == "circles":
        x = x + amount * (np.cos(2 * np.pi * t) - 1)
        y = y + amount * np.sin(2 * np.pi * t)
    else:
        radius = radius * (1 + (amount - 1) * t)
    return x, y, radius, angle


# Signed distance to the outline of each shape of radius r (negative inside), x to the right, y down.

def ball(x, y, r):
    return np.sqrt(x * x + y * y) - r


def square(x, y, r):
    corner = 0.12 * r
    x = np.abs(x) - (0.86 * r - corner)
    y = np.abs(y) - (0.86 * r - corner)
    outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
    return outside + np.minimum(np.maximum(x, y), 0) - corner


def triangle(x, y, r):
    corner = 0.1 * r  # the outline lies this far outside of a sharp triangle, so that its corners are round
    inner = 0.66 * r - corner
    x = np.abs(x)
    side = 0.8660254 * x - 0.5 * y
    distance = np.maximum(side, y) - inner
    # beyond a corner the distance is that to the corner
    top = np.sqrt(x * x + (y + 2 * inner) ** 2)
    foot = np.sqrt((x - 1.7320508 * inner) ** 2 + (y - inner) ** 2)
    distance = np.where((0.5 * x + 0.8660254 * (y + 2 * inner) < 0), top, distance)
    beyond = (x > 1.7320508 * inner) & (0.5 * (x - 1.7320508 * inner) + 0.8660254 * (y - inner) > 0)
    return np.where(beyond, foot, distance) - corner


def star(x, y, r):
    # Folded along its axes until half of one point is left; its edge runs from the tip to the notch 36 degrees further.
    x = np.abs(x)
    d = 2 * np.maximum(0.80901699 * x + 0.58778525 * y, 0)
    x, y = x - 0.80901699 * d, y - 0.58778525 * d
    d = 2 * np.maximum(0.58778525 * y - 0.80901699 * x, 0)
    x, y = np.abs(x + 0.80901699 * d), y - 0.58778525 * d
    tip, notch = 1.2 * r, 0.58 * r
    ex, ey = 0.58778525 * notch, tip - 0.80901699 * notch
    return (x * ey - (y + tip) * ex) / np.sqrt(ex * ex + ey * ey)


def heart(x, y, r):
    s = 0.6 * r
    x = np.abs(x)
    y = y - 0.2 * r  # its centre of mass to the origin
    u = np.abs(x + y) * 0.70710678 - s
    v = np.abs(x - y) * 0.70710678 - s
    tilted = np.maximum(u, v)
    lobe = np.sqrt((x - 0.70710678 * s) ** 2 + (y + 0.70710678 * s) ** 2) - s
    return np.minimum(tilted, lobe)


def ring(x, y, r):
    return np.abs(np.sqrt(x * x + y * y) - 0.74 * r) - 0.27 * r


DISTANCE = {"ball": ball, "square": square, "triangle": triangle, "star": star, "heart": heart, "ring": ring}
# Where the highlight lies, in radii to the left of and above the centre.
SHINE = {"ball": (0.38, 0.42), "square": (0.4, 0.4), "triangle": (0.1, 0.2), "star": (0.14, 0.2),
         "heart": (0.42, 0.44), "ring": (0.52, 0.52)}


def muted(hue, saturation, value):
    """One background colour as RGB in 0..255."""
    k = (np.array((5.0, 3.0, 1.0)) + hue * 6) % 6
    return (255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def smooth(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def backdrop(scene, size=SIZE):
    """The still background, float32 [h, w, 3] in 0..255."""
    w, h = size
    unit = h / SIZE[1]
    rng = np.random.default_rng(scene.seed)
    a, b, c, d = scene.tone
    y = (np.arange(h, dtype=np.float32) / unit)[:, None, None]
    x = (np.arange(w, dtype=np.float32) / unit)[None, :, None]
    down = y / SIZE[1]
    picture = np.empty((h, w, 3), np.float32)
    if scene.background == "plain":
        picture[:] = muted(a, 0.12 + 0.2 * b, 0.42 + 0.28 * c)
    elif scene.background == "gradient":
        dark, light = muted(a, 0.32, 0.3 + 0.08 * c), muted(a + 0.1 + 0.2 * b, 0.24, 0.66 + 0.08 * d)
        if rng.random() < 0.5:
            dark, light = light, dark
        picture[:] = dark + (light - dark) * down
    elif scene.background == "night sky":
        top, low = muted(0.645 + 0.03 * a, 0.5, 0.15 + 0.04 * c), muted(0.64 + 0.05 * b, 0.42, 0.28 + 0.06 * d)
        picture[:] = top + (low - top) * down * down
        n = 18
        for sx, sy, glow in zip(rng.uniform(4, 156, n), rng.uniform(4, 88, n), rng.uniform(60, 125, n)):
            left, top_row = int(sx * unit - 4 * unit), int(sy * unit - 4 * unit)
            part = np.s_[max(top_row, 0):top_row + int(9 * unit) + 1, max(left, 0):left + int(9 * unit) + 1]
            py, px = y[part[0], 0], x[0, part[1]].T
            picture[part] += (glow * np.exp(((px - sx) ** 2 + (py - sy) ** 2) * -0.3))[:, :, None]
    elif scene.background in ("field", "sea"):
        horizon = rng.uniform(36, 50)
        sky_top, sky_low = muted(0.57 + 0.03 * a, 0.24, 0.66 + 0.04 * c), muted(0.56, 0.1, 0.75)
        sky = sky_top + (sky_low - sky_top) * np.clip(y / horizon, 0, 1)
        depth = np.clip((y - horizon) / (SIZE[1] - horizon), 0, 1)
        if scene.background == "field":
            hills = 3.0 * np.sin(x * 0.05 + rng.uniform(0, 6.28)) + 1.5 * np.sin(x * 0.11 + rng.uniform(0, 6.28))
            far, near = muted(0.27 + 0.04 * a, 0.26, 0.56 + 0.05 * b), muted(0.29 + 0.04 * d, 0.35, 0.4 + 0.05 * b)
            land = far + (near - far) * depth
            edge = np.clip((y - horizon - hills) * 0.6 + 0.5, 0, 1)
        else:
            far, near = muted(0.56, 0.27, 0.56 + 0.05 * b), muted(0.57 + 0.02 * d, 0.35, 0.38 + 0.05 * b)
            land = far + (near - far) * depth
            land = land + 9 * np.sin(30 * np.sqrt(depth + 0.02) + rng.uniform(0, 6.28)) * (0.3 + depth)
            edge = np.clip((y - horizon) * 0.6 + 0.5, 0, 1)
        picture[:] = sky + (land - sky) * edge
    else:
        value = 0.44 + 0.2 * c
        one, two = muted(a, 0.14 + 0.12 * b, value), muted(a, 0.14 + 0.12 * b, value + 0.12)
        # a soft square wave in each direction: the product says which colour
        wx = np.clip(np.sin((x + rng.uniform(0, 32)) * (np.pi / 16)) * 5, -1, 1)
        wy = np.clip(np.sin((y + rng.uniform(0, 32)) * (np.pi / 16)) * 5, -1, 1)
        picture[:] = one + (two - one) * (0.5 + 0.5 * wx * wy)
    return picture


@dataclass
class Look:
    """What an object is painted with in each frame: arrays [frames] or [frames, 3], and its outline's distance."""
    distance: object    # of (x, y, radius), as DISTANCE has them
    rgb: np.ndarray
    glow: np.ndarray    # 1: has a highlight, 0: is white
    shine: np.ndarray   # [frames, 2], as SHINE


def look(colour, shape, frames):
    """The look of a thing that stays what it is."""
    return Look(DISTANCE[shape], np.tile(np.float32(RGB[colour]), (frames, 1)),
                np.full(frames, colour != "white", np.float32), np.tile(np.float32(SHINE[shape]), (frames, 1)))


def render(scene, frames=FRAMES, size=SIZE):
    """The clip, uint8 [frames, h, w, 3]."""
    return draw([backdrop(scene, size)] * frames, *path(scene, frames), look(scene.colour, scene.shape, frames), size)


def draw(stills, x, y, radius, angle, looks, size=SIZE):
    """Frames of an object before backgrounds [frames][h, w, 3], uint8 [frames, h, w, 3]."""
    w, h = size
    frames, unit = len(stills), h / SIZE[1]
    x, y, radius = x * unit + (w - SIZE[0] * unit) / 2, y * unit, radius * unit

    # All frames are drawn at once, each in a box of the same size around its object.
    shadow = max(int(round(3 * unit)), 1)
    half = int(np.ceil(radius.max() * max(max(r) for r in REACH.values()) + 2)) + shadow + int(np.ceil(3 * unit))
    left = np.floor(x).astype(int) - half
    top = np.floor(y).astype(int) - half
    side = np.arange(2 * half + 1, dtype=np.float32)
    dx = (left[:, None] + side - x[:, None])[:, None, :]
    dy = (top[:, None] + side - y[:, None])[:, :, None]
    r, glow = radius[:, None, None], looks.glow[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    distance = looks.distance(dx * cos + dy * sin, dy * cos - dx * sin, r).astype(np.float32)

    cover = np.clip(0.5 - distance * (1 / 1.5), 0, 1)
    shade = np.zeros_like(distance)  # the shadow is the same outline, lower right and soft
    shade[:, shadow:, shadow:] = smooth(0.5 - distance[:, :-shadow, :-shadow] / (7 * unit))
    shade *= 0.3

    light = (dx + dy) / (-1.5 * r)  # 1 at the upper left, -1 at the lower right
    rim = smooth(distance / (0.3 * r) + 1)
    light = 1 + (0.045 + 0.085 * glow) * light - (0.07 + 0.09 * glow) * rim
    ax, ay = dx + looks.shine[:, :1, None] * r, dy + looks.shine[:, 1:, None] * r
    shine = 0.5 * glow * np.exp((ax * ax + ay * ay) / (-0.065 * r * r))

    paint = np.empty(distance.shape + (3,), np.float32)
    for i in range(3):
        tone = looks.rgb[:, i, None, None] * light
        paint[..., i] = tone + (255 - tone) * shine
    np.clip(paint, 0, 255, paint)

    # What the object leaves of the background, and what it adds to it.
    keep = ((1 - shade) * (1 - cover))[..., None]
    paint *= cover[..., None]

    clip = np.empty((frames, h, w, 3), np.uint8)
    for i, still in enumerate(stills):
        clip[i] = (still + 0.5).astype(np.uint8)
        x0, y0 = max(left[i], 0), max(top[i], 0)
        x1, y1 = min(left[i] + len(side), w), min(top[i] + len(side), h)
        box = np.s_[y0 - top[i]:y1 - top[i], x0 - left[i]:x1 - left[i]]
        clip[i, y0:y1, x0:x1] = still[y0:y1, x0:x1] * keep[i][box] + paint[i][box] + 0.5
    return clip


# Words. A verb is given twice: "moves left", "moving left".

NOUNS = {"ball": ("ball", "ball", "sphere", "circle"), "square": ("square", "square", "box", "block"),
         "triangle": ("triangle",), "star": ("star", "star", "five-pointed star"),
         "heart": ("heart", "heart", "heart shape"), "ring": ("ring", "ring", "hoop", "donut")}
VERBS = {"bounces": (("bounces", "bouncing"), ("bounces up and down", "bouncing up and down"),
                     ("jumps up and down", "jumping up and down"), ("hops", "hopping")),
         "spins": (("spins", "spinning"), ("rotates", "rotating"), ("turns around itself", "turning around itself"),
                   ("spins in place", "spinning in place")),
         "grows": (("grows", "growing"), ("gets bigger", "getting bigger"), ("gets larger", "getting larger"),
                   ("expands", "expanding")),
         "shrinks": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("becomes small", "becoming small"),
                     ("contracts", "contracting")),
         "circles": (("circles", "circling"), ("moves in a circle", "moving in a circle"),
                     ("goes round in circles", "going round in circles"), ("orbits", "orbiting"))}
WAYS = {"left": ("left", "to the left", "leftwards", "from right to left"),
        "right": ("right", "to the right", "rightwards", "from left to right"),
        "up": ("up", "upwards", "up", "to the top"), "down": ("down", "downwards", "down", "to the bottom")}
GO = (("moves", "moving"), ("moves", "moving"), ("slides", "sliding"), ("drifts", "drifting"), ("glides", "gliding"),
      ("goes", "going"))
GO_UP = (("rises", "rising"), ("floats up", "floating up"))
GO_DOWN = (("falls", "falling"), ("sinks", "sinking"))
# A place as it follows a sentence, and as a remark behind a comma.
PLACES = {"plain": (("on", "in front of", "over"), ("a plain background", "a plain wall", "a plain backdrop")),
          "gradient": (("on", "in front of", "over"), ("a gradient", "a gradient background", "a smooth gradient")),
          "night sky": (("in", "under", "in front of"), ("the night sky", "a starry sky", "a night sky with stars")),
          "field": (("in", "over", "in front of"), ("a field", "a meadow", "a grassy field")),
          "sea": (("over", "above", "in front of"), ("the sea", "the ocean", "the sea")),
          "checkerboard": (("on", "in front of", "over"),
                           ("a checkerboard", "a checkered background", "a chessboard"))}

CHINESE_COLOURS = dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "白色")))
CHINESE_NOUNS = {"ball": ("球", "圆球"), "square": ("方块", "正方形"), "triangle": ("三角形",),
                 "star": ("星星", "五角星"), "heart": ("心形", "爱心"), "ring": ("圆环",)}
CHINESE_VERBS = {"left": ("向左移动", "往左滑动"), "right": ("向右移动", "往右滑动"), "up": ("向上移动", "上升"),
                 "down": ("向下移动", "下落"), "bounces": ("上下弹跳", "跳动"), "spins": ("旋转", "原地旋转"),
                 "grows": ("变大",), "shrinks": ("变小",), "circles": ("绕圈", "转圈移动")}
CHINESE_PLACES = {"plain": ("纯色背景",), "gradient": ("渐变背景",), "night sky": ("夜空", "星空"),
                  "field": ("田野", "草地"), "sea": ("大海", "海面"), "checkerboard": ("棋盘格背景", "棋盘")}


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def chinese(scene, rng, complete):
    colour, noun = CHINESE_COLOURS[scene.colour], pick(rng, CHINESE_NOUNS[scene.shape])
    verb, where = pick(rng, CHINESE_VERBS[scene.motion]), pick(rng, CHINESE_PLACES[scene.background])
    forms = ["{w}前，一个{c}的{n}{v}", "一个{c}{n}在{w}前{v}", "{c}的{n}{v}，{w}"]
    if not complete:
        forms.append("一个{c}的{n}{v}")
    return pick(rng, forms).format(c=colour, n=noun, v=verb, w=where)


def caption(scene, rng, language=None, complete=False):
    """What the scene shows, in one of many wordings: "en", "zh" or, by default, mostly English.

    Some leave the background out, unless the caption is to be complete.
    """
    if language == "zh" or (language is None and rng.random() < 0.12):
        return chinese(scene, rng, complete)
    noun = pick(rng, NOUNS[scene.shape])
    if scene.motion in WAYS:
        go = {"up": GO_UP, "down": GO_DOWN}.get(scene.motion)
        if go and rng.random() < 0.35:
            verb = pick(rng, go)
        else:
            way = pick(rng, WAYS[scene.motion])
            verb = tuple(f"{v} {way}" for v in pick(rng, GO))
    else:
        verb = pick(rng, VERBS[scene.motion])
    prepositions, places = PLACES[scene.background]
    place_noun = pick(rng, places)
    where = f"{pick(rng, prepositions)} {place_noun}"
    thing = f"{scene.colour} {noun}"
    one = ("an " if scene.colour[0] in "aeiou" else "a ") + thing
    form = int(rng.integers(8)) if complete else int(rng.integers(9))
    text = (f"{one} {verb[0]} {where}",
            f"{one} {verb[0]} {where}",
            f"{one} {verb[1]} {where}",
            f"{where}, {one} {verb[0]}",
            f"{thing} {verb[1]}, {place_noun}",
            f"a video of {one} {verb[1]} {where}",
            f"{one} is {verb[1]} {where}",
            f"{place_noun}, the {thing} {verb[0]}",
            f"{one} {verb[0]}")[form]
    style = rng.random()
    if style < 0.15:
        text = text[0].upper() + text[1:] + "."
    elif style < 0.25:
        text += "."
    return text


def combinations(rng, n, allowed):
    """n combinations that training never saw, every class of each attribute about equally often.

    Backgrounds are set against motions so that each motion meets as many as can be.
    """
    pool = [(c, s, m, b) for c in COLOURS for s in SHAPES for m in MOTIONS for b in BACKGROUNDS
            if held_out(c, s, m, b) and possible(s, m) and allowed(c, s, m, b)]
    pool = [pool[i] for i in rng.permutation(len(pool))]
    used = {}
    chosen = []
    for _ in range(n):
        def cost(combination):
            return (sum(used.get((i, v), 0) / weight for i, (v, weight) in
                        enumerate(zip(combination, (6, 8, 5, 8)))) * 10 + 3 * used.get(combination[:3], 0)
                    + 100 * used.get(combination, 0))
        best = min(pool, key=cost)
        chosen.append(best)
        for key in [(i, v) for i, v in enumerate(best)] + [best, best[:3]]:
            used[key] = used.get(key, 0) + 1
    return chosen


def judge_prompts(n, seed, language="en"):
    """n times (prompt, colour, shape, motion, background), all of combinations that training never saw."""
    rng = np.random.default_rng(seed)
    return [(caption(random_scene(rng, *what), rng, language, True), *what)
            for what in combinations(rng, n, lambda c, s, m, b: True)]


def image_prompts(n, seed):
    """n times (scene, prompt, motion) for image to video; the scene's first frame is the still.

    Two in turn share their still and ask for different motions, so that the picture can't tell which.
    """
    rng = np.random.default_rng(seed)
    moves = ("left", "right", "up", "down", "bounces", "circles", "spins")  # what an object of one size may do
    used = dict.fromkeys(moves, 0)
    found = []
    for what in combinations(rng, (n + 1) // 2, lambda c, s, m, b: m in moves):
        scene = random_scene(rng, *what)
        used[scene.motion] += 1
        other = min((m for m in moves if m != scene.motion and possible(scene.shape, m)), key=used.get)
        used[other] += 1
        for motion in (scene.motion, other):
            scene = replace(place(replace(scene, motion=motion), rng, scene.x, scene.y, scene.radius),
                            angle=scene.angle)
            found.append((scene, caption(scene, rng, "en", True), motion))
    return found[:n]


def write_png(name, picture):
    """An 8-bit RGB picture [h, w, 3] as PNG."""
    import struct
    import zlib
    h, w, _ = picture.shape
    rows = np.ascontiguousarray(picture).reshape(h, w * 3)
    above = np.concatenate([np.zeros((1, w * 3), np.uint8), rows[:-1]], 0)
    rows = np.concatenate([np.full((h, 1), 2, np.uint8), rows - above], 1)  # filter 2: difference from the row above

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(name, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
                   + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b""))


def sheet(clips, times=(0, 4, 8, 12, 16)):
    """Clips as rows of some of their frames."""
    return np.concatenate([np.concatenate([clip[t] for t in times], 1) for clip in clips], 0)


def main():
    import sys
    import time
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng, colour=COLOURS[i % 8], shape=SHAPES[i * 5 % 6] if i % 9 != 5 else SHAPES[1 + i % 4],
                           motion=MOTIONS[i % 9], background=BACKGROUNDS[(i + i // 6) % 6]) for i in range(18)]
    rows = sheet([render(scene) for scene in scenes])
    if len(sys.argv) > 1:
        h = rows.shape[0] // 2
        write_png(sys.argv[1], np.concatenate([rows[:h], rows[h:]], 1))
    scenes = [random_scene(rng) for _ in range(400)]
    start = time.process_time()
    for scene in scenes:
        render(scene)
    print(f"{(time.process_time() - start) / len(scenes) * 1000:.2f} ms a clip")


if __name__ == "__main__":
    main()
