# The names of the official code that official.py calls, with this project's own modules behind them.
#
# This file is part of libwan; see the licence in wan/wan.h.
"""So that official.py runs where the official code is not: its own mistakes show, those about the official
code's interface do not."""

import contextlib
import pathlib
import sys
import types

import torch

import demo
import modules


def module(name, **members):
    m = types.ModuleType(name)
    m.__dict__.update(members)
    sys.modules[name] = m
    return m


def install(folder):
    """Become `wan` for checkpoints of the sizes in that folder."""
    folder = pathlib.Path(folder)
    def side(**request):
        return demo.Side(folder, "demo", request, "float32", "cpu")

    def umt5_xxl(encoder_only, return_tokenizer, dtype, device):
        state = torch.load(folder / demo.T5)
        vocab, dim = state["token_embedding.weight"].shape
        heads = state["blocks.0.pos_embedding.embedding.weight"].shape[1]
        layers = sum(k.endswith("attn.q.weight") for k in state)
        with torch.device(device):
            return modules.T5(vocab, dim, heads, state["blocks.0.ffn.fc1.weight"].shape[0], layers).to(dtype)

    class HuggingfaceTokenizer:
        def __init__(self, name, seq_len, clean):
            self.seq_len = seq_len

        def __call__(self, texts, return_mask, add_special_tokens):
            ids = torch.tensor([side().ids(texts[0])])
            n = ids.shape[1]
            pad = torch.zeros(1, self.seq_len - n, dtype=ids.dtype)
            return torch.cat([ids, pad], 1), torch.cat([torch.ones_like(ids), pad], 1)

    def bytes_of(pixels):
        return ((pixels + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy()

    class CLIPModel:
        def __init__(self, dtype, device, checkpoint_path, tokenizer_path):
            pass

        def visual(self, videos):
            return side().clip(bytes_of(videos[0][:, 0]))[None]

    class WanVAE:
        def __init__(self, vae_pth, device):
            self.side = side()

        def encode(self, videos):
            mean, std = self.side.normal()
            return [(self.side.vae().encode(v[None])[0][0] - mean) / std for v in videos]

        def decode(self, latents):
            return [self.side.video(z) for z in latents]

    class WanModel(modules.Dit):
        @classmethod
        def from_config(cls, c):
            clip = torch.load(folder / demo.CLIP)["visual.pre_norm.weight"].shape[0] if c["in_dim"] == 36 else 0
            text = torch.load(folder / demo.T5)["token_embedding.weight"].shape[1]
            return cls(c["dim"], c["num_heads"], c["ffn_dim"], c["num_layers"], c["in_dim"], text, clip,
                       c["freq_dim"])

        def forward(self, x, t, context, seq_len, clip_fea=None, y=None):
            assert seq_len == x[0][0].numel() // 4 and not self.freqs.is_meta
            with model.amp.autocast(dtype=torch.float32):       # as the official code has its islands
                assert self.time_embedding(self.time_features(t).float()).dtype == torch.float32
            x = x[0] if y is None else torch.cat([x[0], y[0]])
            n = torch.tensor([len(context[0])])
            return [super().forward(x[None], t, context[0][None], n, clip_fea)[0]]

    def scheduler(kind):
        class Scheduler:
            def __init__(self, num_train_timesteps, shift, use_dynamic_shifting):
                pass

            def set_timesteps(self, steps=None, device=None, shift=None, sigmas=None):
                self.sigmas = sigmas or demo.sigmas("unipc", steps, shift)
                self.timesteps = torch.tensor([int(s * 1000) for s in self.sigmas[:-1]])
                self.solver = kind(torch.tensor(self.sigmas).tolist())

            def step(self, v, t, x, return_dict):
                assert t in self.timesteps
                return (self.solver(v, t, x),)
        return Scheduler

    module("wan")
    module("wan.modules")
    module("wan.utils")
    module("wan.modules.t5", umt5_xxl=umt5_xxl)
    module("wan.modules.tokenizers", HuggingfaceTokenizer=HuggingfaceTokenizer)
    sys.modules["wan.modules"].clip = module("wan.modules.clip", CLIPModel=CLIPModel)
    module("wan.modules.vae", WanVAE=WanVAE)
    model = module("wan.modules.model", WanModel=WanModel, rope_params=torch.ones,
                   amp=types.SimpleNamespace(autocast=lambda **k: contextlib.nullcontext()))
    sys.modules["wan.modules"].model = model
    module("wan.utils.fm_solvers_unipc", FlowUniPCMultistepScheduler=scheduler(demo.UniPC))
    sys.modules["wan.utils"].fm_solvers = module(
        "wan.utils.fm_solvers", FlowDPMSolverMultistepScheduler=scheduler(demo.Dpm),
        get_sampling_sigmas=lambda steps, shift: demo.sigmas("dpm++", steps, shift),
        retrieve_timesteps=lambda s, device, sigmas: s.set_timesteps(sigmas=sigmas))
