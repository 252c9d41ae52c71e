# Compare the modules that are trained here with the reference tensors of the official code.
#
# This file is part of libwan; see the licence in wan.h.
"""usage: check_modules.py [GOLDEN]

GOLDEN is a folder with the reference tensors and, unpacked under tiny/, the checkpoints they were made
with: what `make tests` leaves in build/golden. tests/golden, where the checkpoints are packed, will do
as well. Ends with status 1 if a module is further from the reference than its limit.
"""

import argparse
import json
import pathlib
import sys
import tarfile
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import modules

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINTS = ("wan-t2v", "wan-t2v-hd128", "wan-i2v")
# Relative L2: a float32 run is 2e-7 to 2e-6 away; the reference itself is stored as float32,
# and the causal one was computed in it.
LIMIT = {torch.float32: {"vae": 4e-6, "t5": 2e-6, "dit": 2e-6, "causal": 2e-6, "clip": 5e-6},
         torch.float64: {"vae": 2e-7, "t5": 2e-7, "dit": 2e-7, "causal": 2e-6, "clip": 2e-7}}


class Golden:
    """The tensors of one file, and the numbers its checkpoint was made with."""

    def __init__(self, path):
        self.tensors = load_file(path)
        with safe_open(path, "pt") as f:
            self.config = json.loads(f.metadata().get("config", "null"))
            self.metadata = f.metadata()

    def __getitem__(self, name):
        return self.tensors[name]

    def cases(self, prefix):
        """case0, case1, ... as long as there are any."""
        for i in range(len(self.tensors)):
            case = f"{prefix}{i}"
            if not any(name.startswith(case + ".") for name in self.tensors):
                return
            yield case


class Report:
    def __init__(self):
        self.count = self.failures = 0

    def compare(self, what, name, got, want):
        want = want.double()
        error = ((got.double() - want).norm() / want.norm()).item() if got.shape == want.shape else float("inf")
        limit = LIMIT[got.dtype][what]
        ok = error < limit          # also false if it isn't a number
        self.count += 1
        self.failures += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what:6} {name:16} {str(got.dtype)[6:]}  {error:.1e} < {limit:.0e}")


def load(module, state, dtype):
    module.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return module.to(dtype).eval()


def check_vae(report, golden, tiny, dtype):
    g = Golden(golden / "vae.safetensors")
    vae = load(modules.Vae(g.config["dim"]), torch.load(tiny / "wan-t2v/Wan2.1_VAE.pth"), dtype)
    mean, std = (v.to(dtype)[:, None, None, None] for v in (modules.MEAN, modules.STD))
    for case in g.cases("decode"):
        z = g[case + ".z"].to(dtype) * std + mean
        report.compare("vae", case, vae.decode(z[None])[0], g[case + ".out"])
    for case in g.cases("encode"):
        mu, _ = vae.encode(g[case + ".video"].to(dtype)[None])
        report.compare("vae", case, (mu[0] - mean) / std, g[case + ".out"])


def check_t5(report, golden, tiny, dtype):
    g = Golden(golden / "t5.safetensors")
    c = g.config
    state = torch.load(tiny / "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth")
    t5 = load(modules.T5(c["vocab"], c["dim"], c["num_heads"], c["dim_ffn"], c["num_layers"]), state, dtype)
    cases = list(g.cases("case"))
    # All in one batch, as in training: a short text must not see another's padding.
    out = t5(torch.stack([g[case + ".ids"] for case in cases]).long(),
             torch.stack([g[case + ".mask"] for case in cases]))
    for case, y in zip(cases, out):
        want = g[case + ".out"]
        report.compare("t5", case, y[:len(want)], want)


def check_dit(report, golden, tiny, dtype, name):
    g = Golden(golden / f"dit-{name}.safetensors")
    c = g.config
    files = sorted((tiny / f"wan-{name}").glob("diffusion_pytorch_model*.safetensors"))
    state = {k: v for f in files for k, v in load_file(f).items()}
    dit = load(modules.Dit(c["dim"], c["num_heads"], c["ffn_dim"], c["num_layers"], c["in_dim"],
                           c["text_dim"], c["clip_dim"] or 0, c["freq_dim"]), state, dtype)
    times = json.loads(g.metadata["cases"])
    for case, (_, n, t) in zip(g.cases("case"), times):
        x, text = g[case + ".in.x"].to(dtype), g[case + ".in.context"].to(dtype)
        clip = None
        if c["clip_dim"]:
            x = torch.cat([x, g[case + ".in.y"].to(dtype)])
            clip = g[case + ".in.clip_fea"].to(dtype).expand(2, -1, -1)
        # Beside a sample of another time and a longer text with rows of its own.
        batch = torch.stack([x, -x])
        texts = torch.randn(2, min(n + 9, 512), text.shape[1], dtype=dtype)
        texts[0, :n] = text
        v = dit(batch, torch.tensor([t, 77.0]), texts, torch.tensor([n, texts.shape[1]]), clip)
        report.compare("dit", f"{name} {case}", v[0], g[case + ".out"])


def check_causal(report, golden, tiny, dtype):
    """Blocks of one frame that see all before them; then all of them at once, as training has them."""
    g = Golden(golden / "causal-frame1.safetensors")
    case, c = json.loads(g.metadata["case"]), json.loads(Golden(golden / "dit-t2v.safetensors").metadata["config"])
    state = load_file(tiny / "wan-t2v/diffusion_pytorch_model.safetensors")
    dit = load(modules.CausalDit(c["dim"], c["num_heads"], c["ffn_dim"], c["num_layers"], c["in_dim"], c["text_dim"],
                                 window=case["frames"]), state, dtype)
    text = g["context0"].to(dtype)[None], torch.tensor([len(g["context0"])])
    times = json.loads(g.metadata["timesteps"])
    stream = modules.Stream(dit, case["hw"])
    noise = g["noise"].to(dtype)
    for f in range(case["frames"]):
        x = noise[f:f + 1]
        for i, t in enumerate(times):
            x0 = x - t / 1000 * stream.run(x[:, :, None], t, text, False)[:, :, 0]
            report.compare("causal", f"frame {f}.{i}", x0, g[f"block{f}.x0.{i}"])
            if i + 1 < len(times):
                x = (1 - times[i + 1] / 1000) * x0 + times[i + 1] / 1000 * g[f"block{f}.renoise.{i}"].to(dtype)
        stream.keep(x0[:, :, None], text)
    last = len(times) - 1
    clean, before, again = (
        torch.stack([g[f"block{f}.{name}"][0] for f in range(case["frames"])], 1)[None].to(dtype)
        for name in (f"x0.{last}", f"x0.{last - 1}", f"renoise.{last - 1}"))
    s = times[last] / 1000
    noisy = (1 - s) * before + s * again
    sigma = torch.full((1, case["frames"]), s)
    v = dit.pairs(clean, noisy, sigma, [text], torch.zeros(1, case["frames"], dtype=torch.long))
    report.compare("causal", "at once", noisy - s * v, clean)


def check_clip(report, golden, tiny, dtype):
    g = Golden(golden / "clip.safetensors")
    c = g.config
    state = torch.load(tiny / "wan-i2v/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    state = {k: v for k, v in state.items() if k.startswith("visual.")}
    clip = load(modules.ClipVision(c["dim"], c["heads"], c["dim"] * c["mlp_ratio"], c["layers"],
                                   state["visual.head"].shape[1]), state, dtype)
    for case in g.cases("case"):
        image = g[case + ".image"].to(dtype).permute(2, 0, 1)[None] / 255
        report.compare("clip", case, clip(clip.preprocess(image))[0], g[case + ".out"])


def unpack(golden, folder):
    for name in CHECKPOINTS:
        with tarfile.open(golden / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return pathlib.Path(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", nargs="?", type=pathlib.Path, default=ROOT / "tests/golden")
    golden = parser.parse_args().golden
    if not (golden / "vae.safetensors").exists():
        parser.error(f"{golden}: no reference tensors there")

    report = Report()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        tiny = golden / "tiny" if (golden / "tiny").is_dir() else unpack(golden, folder)
        for dtype in (torch.float32, torch.float64):
            check_vae(report, golden, tiny, dtype)
            check_t5(report, golden, tiny, dtype)
            for name in ("t2v", "t2v-hd128", "i2v"):
                check_dit(report, golden, tiny, dtype, name)
            check_causal(report, golden, tiny, dtype)
            check_clip(report, golden, tiny, dtype)
    print(f"{report.count - report.failures} passed, {report.failures} failed")
    return report.failures > 0


if __name__ == "__main__":
    sys.exit(main())
