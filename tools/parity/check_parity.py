# Does parity.py find what is wrong, and where?
#
# This file is part of libwan; see the licence in wan/wan.h.
"""usage: check_parity.py [BUILD]

Compares the demo models with modules.py as they are, which has to agree, and then with one mistake after
another made in modules.py's side, each of which has to be the first stage that differs; and runs official.py on a
stand-in for the official code. Prints TAP.
"""

import pathlib
import sys
import tempfile

import torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import demo                                         # noqa: E402
import official                                     # noqa: E402
import parity                                       # noqa: E402
import standin                                      # noqa: E402


def exact_gelu(module):
    """GELU by erf instead of by tanh."""
    for m in module.modules():
        if isinstance(m, torch.nn.GELU):
            m.approximate = "none"


class Wrong(demo.Side):
    """One mistake, by the stage where it shows first."""

    mistake = None

    def part(self, name, make, state, dtype=torch.float32):
        new = name not in self.parts
        module = super().part(name, make, state, dtype)
        if new and (name, self.mistake) in (("text", "context"), ("transformer", "velocity0")):
            exact_gelu(module)
        return module

    def ids(self, text):
        ids = super().ids(text)
        return ids[:-1] if self.mistake == "ids" else ids

    def timesteps(self):
        return [t + (self.mistake == "timesteps") for t in super().timesteps()]

    def clip(self, image):
        return super().clip(image[:, ::-1] if self.mistake == "clip_fea" else image)

    def y_latent(self, image):
        return super().y_latent(image[:, ::-1] if self.mistake == "y_latent" else image)

    def solver(self):
        solver = super().solver()
        if self.mistake == "latents1":              # without the corrector, which begins there
            solver.correct = lambda m, s0, st: solver.last
            call = solver.__call__
            def step(v, t, x):
                solver.last = x.double()
                return call(v, t, x)
            return step
        return solver

    def video(self, latent):
        return super().video(latent.flip(1) if self.mistake == "video" else latent)


def first_wrong(args, native, image, mistake, mode):
    if mistake == "official.py":
        standin.install(args.model)
        side = official.Side(args.model, args.model, native.request, mode, "cpu")
    else:
        side = Wrong(args.model, "demo", native.request, mode, "cpu")
        side.mistake = mistake
    report = parity.Report("/dev/null")
    report.say = lambda line="": None
    parity.compare(report, mode, native, side, image)
    return report.first


def main():
    torch.set_num_threads(1)
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build")
    plans = {"t2v": [None, "official.py", "ids", "timesteps", "context", "velocity0", "latents1", "video"],
             "i2v": [None, "official.py", "clip_fea", "y_latent"]}
    count = failed = 0
    for task, mistakes in plans.items():
        args = parity.parser().parse_args([
            str(ROOT / "share/demo" / task), "demo", "--size", "32x32", "--steps", "3",
            "--sampler", "unipc" if task == "t2v" else "dpm++", "--native", str(build / "bin/wan-parity")])
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            native, image = parity.native_stages(args, pathlib.Path(scratch))
            for mistake in mistakes:
                right = mistake in (None, "official.py")
                for mode in ("float32", "mixed") if right else ("float32",):
                    found = first_wrong(args, native, image, mistake, mode)
                    ok = found == (None if right else f"{mistake} (float32)")
                    count += 1
                    failed += not ok
                    print(f"{'ok' if ok else 'not ok'} {count} - {task}, {mode}, "
                          f"{mistake or 'no mistake'}: {found or 'none differs'}", flush=True)
    print(f"1..{count}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
