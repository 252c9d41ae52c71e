# libwan beside another implementation, stage by stage.
#
# This file is part of libwan; see the licence in wan/wan.h.
"""Feed the same noise, prompt and image to libwan and to the official code, and say how far apart they are.

usage: parity.py MODEL OFFICIAL [options]     or: make parity MODEL=DIR OFFICIAL=DIR [PARITY='options']

MODEL is a checkpoint in the official layout, OFFICIAL a checkout of the official Wan2.1 code, or "demo"
for this project's own PyTorch modules, or a Python file with a class Side (see README.md).

Each stage of the other side gets what libwan's stage got, so one that differs does not spoil those behind
it. The first run has the other side in float32, the second in the types it runs in by itself. Ends with
status 1 if a stage is further away than it should be, and with 2 if nothing could be compared.
"""

import argparse
import gc
import importlib.util
import json
import math
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent

# Relative L2 that is expected. float32: the limits of the tests (docs/contributing.md, Tolerances), which
# are made on small models; a deep one rounds more often, so up to ten times as much is no difference yet.
# mixed: the official code has its text encoder in bfloat16, its image encoder in float16 and its
# transformer under autocast, solver and VAE in float32; this project's demo models are 0.9 %, 0.6 % and
# 0.5 % from libwan so.
EXPECTED = {
    "float32": {"context": 2e-6, "clip_fea": 2e-5, "y_latent": 4e-6, "velocity": 2e-6, "latents": 3e-6,
                "video": 4e-6},
    "mixed": {"context": 3e-2, "clip_fea": 3e-2, "y_latent": 4e-6, "velocity": 1e-2, "latents": 3e-6,
              "video": 4e-6},
}
DEEP = {"float32": 10, "mixed": 3}


class Native:
    """What wan-parity wrote."""

    def __init__(self, folder):
        self.folder = folder
        self.request = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))

    def __contains__(self, name):
        return name in self.request["tensors"]

    def __getitem__(self, name):
        shape = self.request["tensors"][name]
        data = np.fromfile(self.folder / f"{name}.f32", dtype="<f4")
        return torch.from_numpy(data).reshape(shape)


class Report:
    """Lines for the screen and for the file; which stage differs first."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")
        self.first = None
        self.compared = 0

    def say(self, line=""):
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()

    def differs(self, mode, stage):
        self.first = self.first or f"{stage} ({mode})"

    def exact(self, mode, stage, ours, theirs):
        same = list(ours) == list(theirs)
        self.compared += 1
        self.say(f"  {stage:<16}{'equal' if same else 'DIFFERS':>10}   {len(ours)} numbers")
        if not same:
            at = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]),
                      min(len(ours), len(theirs)))
            self.say(f"    from number {at}: libwan {list(ours[at:at + 6])}, official {list(theirs[at:at + 6])}")
            self.differs(mode, stage)

    def distance(self, mode, kind, ours, theirs, which="", scale=1.0):
        stage, limit = f"{kind}{which}", scale * EXPECTED[mode][kind]
        ours, theirs = ours.double(), theirs.double().cpu()
        self.compared += 1
        if ours.shape != theirs.shape:
            self.say(f"  {stage:<16}   DIFFERS   shape {list(ours.shape)}, official {list(theirs.shape)}")
            return self.differs(mode, stage)
        error = ((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)).item()
        worst = (ours - theirs).abs().max().item()
        verdict = "ok" if error <= limit else "more" if error <= DEEP[mode] * limit else "DIFFERS"
        self.say(f"  {stage:<16}{error:>10.1e}   expected {limit:.0e}, largest {worst:.1e}   {verdict}")
        if not error <= DEEP[mode] * limit:       # also if it is not a number
            self.differs(mode, stage)


def load_adapter(name):
    """The class Side of official.py, demo.py or a file of the user's."""
    known = {"demo": HERE / "demo.py"}
    path = pathlib.Path(name)
    file = known.get(name, path if path.suffix == ".py" else HERE / "official.py")
    spec = importlib.util.spec_from_file_location("parity_side", file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    return module.Side


def write_image(path, source, width, height):
    """A binary PPM of the user's image, or of a made one: a gradient with a ball."""
    if source:
        from PIL import Image
        image = np.asarray(Image.open(source).convert("RGB"))
    else:
        y, x = np.mgrid[0:height, 0:width]
        image = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
        ball = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2
        image[ball] = (220, 30, 40)
        image = image.astype(np.uint8)
    h, w, _ = image.shape
    path.write_bytes(f"P6\n{w} {h}\n255\n".encode() + image.tobytes())
    return image


def run_native(args, folder, image):
    words = [args.native, args.model, folder, "--size", args.size, "--frames", args.frames, "--steps", args.steps,
             "--seed", args.seed, "--sampler", args.sampler, "--device", args.device,
             "--precision", args.precision]
    for option in ("prompt", "negative", "guidance", "shift"):
        value = getattr(args, option)
        words += [] if value is None else ["--" + option, value]
    if image:
        words += ["--image", image]
    done = subprocess.run([str(w) for w in words], stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr.strip()


def compare(report, mode, native, side, image):
    """All stages of one job; side is fed what libwan's stages were."""
    r = native.request
    scale = math.hypot(r["guidance"], r["guidance"] - 1) if r["guidance"] != 1 else 1.0
    contexts = ["context"] + (["context_null"] if "context_null" in native else [])

    if mode == "float32":
        for ids, text in (("ids", "prompt"), ("ids_null", "negative_prompt")):
            report.exact(mode, ids, r[ids], side.ids(r[text]))
        report.exact(mode, "timesteps", r["timesteps"], side.timesteps())
    for name in contexts:
        which = name.removeprefix("context")
        report.distance(mode, "context", native[name], side.context(r["ids" + which]), which)
    side.done("text")

    clip = y = None
    if "clip_fea" in native:
        clip, y = native["clip_fea"], native["y_latent"]
        report.distance(mode, "clip_fea", clip, side.clip(image))
        side.done("clip")
        report.distance(mode, "y_latent", y, side.y_latent(image))
        side.done("vae")

    x, solver = native["noise"], side.solver()
    for i, t in enumerate(r["timesteps"]):
        v, after = native[f"noise_pred{i}"], native[f"latents{i}"]
        theirs = [side.velocity(x, t, native[name], clip, y).float().cpu() for name in contexts]
        if len(theirs) > 1:
            theirs[0] = theirs[1] + r["guidance"] * (theirs[0] - theirs[1])
        report.distance(mode, "velocity", v, theirs[0], i, scale)
        report.distance(mode, "latents", after, solver(v, t, x), i)
        x = after
    side.done("transformer")
    report.distance(mode, "video", native["video"].transpose(0, 1), side.video(x))
    side.done("vae")


def about(report, args, native):
    r = native.request
    report.say("libwan beside " + ("its own PyTorch modules" if args.official == "demo" else "the official code"))
    report.say(f"libwan {r['version']} on {r['device']} in {r['precision']}, Python {platform.python_version()}, torch {torch.__version__}"
               f", {platform.machine()}")
    report.say(f"{r['model']}, {r['width']}x{r['height']}, {r['frames']} frames, {r['steps']} steps of {r['sampler']},"
               f" guidance {r['guidance']:g}, shift {r['shift']:g}, seed {r['seed']}")
    done = subprocess.run([args.info, "--report", args.model], capture_output=True, text=True)
    report.file.write("\n" + (done.stdout or done.stderr) + "\n")
    report.say()
    report.say("Distances are relative L2. 'more': above what small models give, but what a deep model's")
    report.say("rounding can make. Both branches' rounding adds up in a guided velocity.")


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("official")
    p.add_argument("--size", default="256x256")
    p.add_argument("--frames", default=5, type=int, help="4n+1")
    p.add_argument("--steps", default=3, type=int)
    p.add_argument("--sampler", default="unipc", choices=("unipc", "dpm++"))
    p.add_argument("--seed", default=0, type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument("--shift", type=float)
    p.add_argument("--prompt")
    p.add_argument("--negative")
    p.add_argument("--image", help="of image models; without it one is drawn")
    p.add_argument("--device", default="auto", help="of libwan")
    p.add_argument("--precision", default="f32", help="of libwan's products: f32, bf16, int8 or auto")
    p.add_argument("--torch-device", default="cpu", help="of the other side")
    p.add_argument("--modes", default="float32,mixed", help="of the other side [%(default)s]")
    p.add_argument("--native", default="build/bin/wan-parity")
    p.add_argument("--info", default="build/bin/wan-info")
    p.add_argument("--report", default="parity-report.txt", type=pathlib.Path)
    return p


def native_stages(args, folder):
    """What libwan makes, and the image it made it from."""
    width, height = (int(n) for n in args.size.split("x"))
    image = write_image(folder / "image.ppm", args.image, width, height)
    status, said = run_native(args, folder / "stages", None)
    if status and "and takes one" in said:
        status, said = run_native(args, folder / "stages", folder / "image.ppm")
    if said:
        print(said, file=sys.stderr)
    return (None if status else Native(folder / "stages")), image


def main():
    p = parser()
    args = p.parse_args()
    if set(args.modes.split(",")) - set(EXPECTED):
        p.error(f"--modes: {' and '.join(EXPECTED)} can be")
    side_of = load_adapter(args.official)
    with tempfile.TemporaryDirectory(prefix="wan-parity.") as scratch, torch.no_grad():
        native, image = native_stages(args, pathlib.Path(scratch))
        if not native:
            return 2
        report = Report(args.report)
        about(report, args, native)
        for mode in args.modes.split(","):
            start = time.monotonic()
            report.say(f"\n{mode}: the other side in {'float32' if mode == 'float32' else 'its own types'}")
            compare(report, mode, native, side_of(args.model, args.official, native.request, mode,
                                                  args.torch_device), image)
            gc.collect()
            report.say(f"  ({time.monotonic() - start:.0f} s)")
        report.say()
        report.say(f"{report.compared} numbers or lists compared; " +
                   (f"the first that differs: {report.first}" if report.first else "none differs"))
        print(f"report: {args.report}")
        return 1 if report.first else 0


if __name__ == "__main__":
    sys.exit(main())
