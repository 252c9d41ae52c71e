# The other side from this project's own PyTorch modules: tools/demo-model.
#
# This file is part of libwan; see the licence in wan/wan.h.
"""A second implementation to try parity.py with where the official code is not: small checkpoints alone.

modules.py is held to the official code's numbers by check_modules.py. The solvers here are written from
the equations, with their sums in double.
"""

import json
import math
import pathlib
import sys
import warnings

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "demo-model"))

import modules                                      # noqa: E402
import tokenizer as words                           # noqa: E402

warnings.filterwarnings("ignore", "Mismatch dtype")     # autocast's norms, which are meant so

T5 = "models_t5_umt5-xxl-enc-bf16.pth"
VAE = "Wan2.1_VAE.pth"
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def sigmas(sampler, steps, shift):
    """The official schedules: [steps + 1], the last 0."""
    top = torch.tensor(0.999).double().item() if sampler == "unipc" else 1.0
    base = [top * (1 - i / steps) if sampler == "unipc" else 1 + i * ((0 - 1) / steps) for i in range(steps)]
    return [shift * b / (1 + (shift - 1) * b) for b in base] + [0.0]


def log_snr(sigma):
    return math.inf if sigma == 0 else -math.inf if sigma == 1 else math.log((1 - sigma) / sigma)


class UniPC:
    """Order 2, bh2, predicting x0, with the corrector from the second step on."""

    def __init__(self, sigma):
        self.sigma = sigma
        self.i = 0
        self.m1 = self.m2 = self.before = None
        self.order = 0

    def __call__(self, v, t, x):
        i, s = self.i, self.sigma
        x = x.double()
        m = x - s[i] * v.double()
        if i:
            x = self.correct(m, s[i - 1], s[i])
        self.m2, self.m1, self.before = self.m1, m, x
        self.order = min(2, len(s) - 1 - i, i + 1)
        self.i += 1
        return self.predict(x, s[i], s[i + 1]).float()

    def terms(self, s0, st):
        h = log_snr(st) - log_snr(s0)
        return h, math.expm1(-h)

    def correct(self, m, s0, st):
        h, phi = self.terms(s0, st)
        if self.order == 1:
            change = 0.5 * (m - self.m1)
        else:
            rk = (log_snr(self.sigma[self.i - 2]) - log_snr(s0)) / h
            g1 = phi / -h - 1
            g2 = g1 / -h - 0.5
            b1, b2 = g1 / phi, 2 * g2 / phi
            rho = (b1 - b2) / (1 - rk)
            change = rho * (self.m2 - self.m1) / rk + (b1 - rho) * (m - self.m1)
        return st / s0 * self.before - (1 - st) * phi * (self.m1 + change)

    def predict(self, x, s0, st):
        if st == 0:
            return self.m1
        h, phi = self.terms(s0, st)
        y = st / s0 * x - (1 - st) * phi * self.m1
        if self.order == 2:
            rk = (log_snr(self.sigma[self.i - 2]) - log_snr(s0)) / h
            y -= (1 - st) * phi * 0.5 * (self.m2 - self.m1) / rk
        return y


class Dpm:
    """2M, midpoint; of order 1 at the first step and the last."""

    def __init__(self, sigma):
        self.sigma = sigma
        self.i = 0
        self.before = None

    def __call__(self, v, t, x):
        i, s = self.i, self.sigma
        m = x.double() - s[i] * v.double()
        last, self.before, self.i = self.before, m, i + 1
        if s[i + 1] == 0:
            return m.float()
        e = math.expm1(log_snr(s[i]) - log_snr(s[i + 1]))
        y = s[i + 1] / s[i] * x.double() - (1 - s[i + 1]) * e * m
        if i > 1:       # the first step's log-SNR is minus infinity, so the second has no difference either
            r0 = (log_snr(s[i]) - log_snr(s[i - 1])) / (log_snr(s[i + 1]) - log_snr(s[i]))
            y -= 0.5 * (1 - s[i + 1]) * e * (m - last) / r0
        return y.float()


class Side:
    """See README.md; a part is loaded when it is asked for first."""

    def __init__(self, model, official, request, mode, device):
        self.folder, self.request, self.mode, self.device = pathlib.Path(model), request, mode, device
        self.parts = {}

    def done(self, part):
        self.parts.pop(part, None)

    def part(self, name, make, state, dtype=torch.float32):
        if name not in self.parts:
            with torch.device("meta"):
                module = make(state)
            module.load_state_dict({k: v.float() for k, v in state.items()}, strict=True, assign=True)
            self.parts[name] = module.eval().to(self.device, dtype)
        return self.parts[name]

    def mixed(self, dtype):
        return torch.float32 if self.mode == "float32" else dtype

    def ids(self, text):
        if "words" not in self.parts:
            self.parts["words"] = words.Tokenizer(self.folder / "google/umt5-xxl")
        return self.parts["words"].encode(text)

    def context(self, ids):
        def make(state):
            layers = sum(k.endswith("attn.q.weight") for k in state)
            vocab, dim = state["token_embedding.weight"].shape
            heads = state["blocks.0.pos_embedding.embedding.weight"].shape[1]
            return modules.T5(vocab, dim, heads, state["blocks.0.ffn.fc1.weight"].shape[0], layers)

        t5 = self.part("text", make, torch.load(self.folder / T5), self.mixed(torch.bfloat16))
        ids = torch.tensor([ids])
        return t5(ids, torch.ones_like(ids))[0].float()

    def clip(self, image):
        def make(state):
            visual = {k: v for k, v in state.items() if k.startswith("visual.")}
            dim = visual["visual.patch_embedding.weight"].shape[0]
            layers = sum(k.endswith("mlp.0.weight") for k in visual)
            return modules.ClipVision(dim, dim // 80, visual["visual.transformer.0.mlp.0.weight"].shape[0], layers,
                                      visual["visual.head"].shape[1])

        state = {k: v for k, v in torch.load(self.folder / CLIP).items() if k.startswith("visual.")}
        clip = self.part("clip", make, state, self.mixed(torch.bfloat16))
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        return clip(clip.preprocess(pixels).to(clip.visual.head.dtype))[0].float()

    def vae(self):
        return self.part("vae", lambda state: modules.Vae(state["decoder.head.0.gamma"].shape[0]),
                         torch.load(self.folder / VAE))

    def normal(self):
        return (v.view(-1, 1, 1, 1) for v in (modules.MEAN, modules.STD))

    def y_latent(self, image):
        r = self.request
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        x = torch.nn.functional.interpolate((x - 0.5) / 0.5, (r["height"], r["width"]), mode="bicubic")
        video = torch.zeros(1, 3, r["frames"], r["height"], r["width"])
        video[:, :, 0] = x
        mean, std = self.normal()
        return (self.vae().encode(video)[0][0] - mean) / std

    def velocity(self, x, t, context, clip, y):
        config = json.loads((self.folder / "config.json").read_text())
        state = {}
        if "transformer" not in self.parts:
            for file in sorted(self.folder.glob("diffusion_pytorch_model*.safetensors")):
                state.update(load_file(file))
        dit = self.part("transformer", lambda s: modules.Dit(
            config["dim"], config["num_heads"], config["ffn_dim"], config["num_layers"], config["in_dim"],
            s["text_embedding.0.weight"].shape[1], s["img_emb.proj.0.weight"].shape[0] if clip is not None else 0,
            config["freq_dim"]), state)
        if y is not None:
            mask = torch.zeros(4, *y.shape[1:])
            mask[:, 0] = 1
            x = torch.cat([x, mask, y])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mode == "mixed"):
            v = dit(x[None], torch.tensor([float(t)]), context[None], torch.tensor([len(context)]),
                    None if clip is None else clip[None])
        return v[0].float()

    def sigma(self):
        r = self.request
        return sigmas(r["sampler"], r["steps"], r["shift"])

    def timesteps(self):
        return [int(s * 1000) for s in self.sigma()[:-1]]

    def solver(self):
        sigma = torch.tensor(self.sigma(), dtype=torch.float32).tolist()
        return UniPC(sigma) if self.request["sampler"] == "unipc" else Dpm(sigma)

    def video(self, latent):
        mean, std = self.normal()
        return self.vae().decode((latent * std + mean)[None])[0].clamp(-1, 1)
