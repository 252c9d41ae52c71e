# The other side from a checkout of the official Wan2.1 code.
#
# This file is part of libwan; see the licence in wan/wan.h.
"""Calls the modules of the official code (wan.modules.t5, clip, model, vae; wan.utils.fm_solvers*) one by
one, with the checkpoint's own files. Nothing of that code is changed on the disk.

Written from its names and interfaces, and not run on the real weights by this project: who runs it first
and finds a name that has changed, please say so.

Weights are mapped and not read into memory as far as the classes allow it. Off a GPU the code has no
attention, so in float32 (and on a CPU always) a plain one takes its place, in the type of its inputs.
"""

import json
import pathlib
import sys
import types

import torch
import torch.nn.functional as F

T5 = "models_t5_umt5-xxl-enc-bf16.pth"
VAE = "Wan2.1_VAE.pth"
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
TEXT_LEN = 512


def plain_attention(q, k, v, *args, q_lens=None, k_lens=None, softmax_scale=None, q_scale=None, **kwargs):
    """softmax(q k / sqrt(d)) v of [B, L, heads, d]; a batch of one, whose padding was never there."""
    if q_scale is not None:
        q = q * q_scale
    if k_lens is not None:
        k, v = k[:, :int(k_lens[0])], v[:, :int(k_lens[0])]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2).contiguous()


def widen_while_it_runs(block):
    """A mapped bfloat16 block computes in float32: its weights are wide for as long as it runs."""
    stored = []

    def before(m, args):
        stored.extend((p, p.data) for p in m.parameters())
        for p, data in stored:
            p.data = data.float()

    def after(m, args, out):
        while stored:
            p, data = stored.pop()
            p.data = data

    block.register_forward_pre_hook(before)
    block.register_forward_hook(after)


class Side:
    def __init__(self, model, official, request, mode, device):
        sys.path.insert(0, str(pathlib.Path(official).resolve()))
        self.folder, self.request, self.device = pathlib.Path(model), request, torch.device(device)
        self.wide = mode == "float32"
        self.parts = {}
        if not torch.cuda.is_available():   # asked for a default when the classes are read
            torch.cuda.current_device = lambda: torch.device("cpu")
        if self.wide:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def done(self, part):
        self.parts.pop(part, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def part(self, name, make):
        if name not in self.parts:
            self.parts[name] = make()
        return self.parts[name]

    def without_flash(self, module):
        if self.wide or self.device.type != "cuda":
            module.flash_attention = plain_attention

    # ------------------------------------------------------------- text

    def ids(self, text):
        from wan.modules.tokenizers import HuggingfaceTokenizer
        tokenizer = self.part("words", lambda: HuggingfaceTokenizer(
            name=str(self.folder / "google/umt5-xxl"), seq_len=TEXT_LEN, clean="whitespace"))
        ids, mask = tokenizer([text], return_mask=True, add_special_tokens=True)
        return ids[0, :int(mask.sum())].tolist()

    def make_text(self):
        from wan.modules.t5 import umt5_xxl
        model = umt5_xxl(encoder_only=True, return_tokenizer=False, dtype=torch.bfloat16, device="meta")
        model.load_state_dict(torch.load(self.folder / T5, map_location="cpu", mmap=True), assign=True)
        model = model.eval().requires_grad_(False).to(self.device)
        if self.wide:
            model.token_embedding.register_forward_hook(lambda m, args, out: out.float())
            for part in (*model.blocks, model.norm):
                widen_while_it_runs(part)
        return model

    def context(self, ids):
        n = len(ids)
        padded = torch.tensor([ids + [0] * (TEXT_LEN - n)], device=self.device)
        mask = (torch.arange(TEXT_LEN, device=self.device) < n).long()[None]
        return self.part("text", self.make_text)(padded, mask)[0, :n].float().cpu()

    # ------------------------------------------------------------ image

    def make_clip(self):
        from wan.modules import clip
        self.without_flash(clip)
        return clip.CLIPModel(dtype=torch.float32 if self.wide or self.device.type != "cuda" else torch.float16,
                              device=self.device, checkpoint_path=str(self.folder / CLIP),
                              tokenizer_path=str(self.folder / "xlm-roberta-large"))

    def pixels(self, image):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
        return x.sub_(0.5).div_(0.5).to(self.device)

    def clip(self, image):
        return self.part("clip", self.make_clip).visual([self.pixels(image)[:, None]])[0].float().cpu()

    def vae(self):
        from wan.modules.vae import WanVAE
        return self.part("vae", lambda: WanVAE(vae_pth=str(self.folder / VAE), device=self.device))

    def y_latent(self, image):
        r = self.request
        size = (r["height"], r["width"])
        first = F.interpolate(self.pixels(image)[None], size=size, mode="bicubic").transpose(0, 1)
        rest = torch.zeros(3, r["frames"] - 1, *size, device=self.device)
        return self.vae().encode([torch.cat([first, rest], 1)])[0].float().cpu()

    def mask(self, shape):
        """1 in the four rows of the first latent frame, as image2video has it."""
        m = torch.ones(1, self.request["frames"], *shape)
        m[:, 1:] = 0
        m = torch.cat([m[:, :1].repeat_interleave(4, 1), m[:, 1:]], 1)
        return m.view(1, m.shape[1] // 4, 4, *shape).transpose(1, 2)[0]

    # ------------------------------------------------------ transformer

    def make_transformer(self):
        from safetensors.torch import load_file
        from wan.modules import model as module
        self.without_flash(module)
        if self.device.type != "cuda":      # the float32 islands are cuda's autocast by name
            module.amp = types.SimpleNamespace(autocast=lambda dtype=None, enabled=True: torch.autocast(
                "cpu", torch.bfloat16, enabled=enabled and dtype != torch.float32))
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            dit = module.WanModel.from_config(config)
        state = {}
        for file in sorted(self.folder.glob("diffusion_pytorch_model*.safetensors")):
            state.update((name, t.float()) for name, t in load_file(file).items())  # F32 stays mapped
        dit.load_state_dict(state, assign=True)
        head = config["dim"] // config["num_heads"]
        third = 2 * (head // 6)
        dit.freqs = torch.cat([module.rope_params(1024, n) for n in (head - 2 * third, third, third)], 1)
        return dit.eval().requires_grad_(False).to(self.device)

    def velocity(self, x, t, context, clip, y):
        dit = self.part("transformer", self.make_transformer)
        _, T, h, w = x.shape
        image = {}
        if y is not None:
            image = {"clip_fea": clip[None].to(self.device),
                     "y": [torch.cat([self.mask((h, w)), y]).to(self.device)]}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=not self.wide):
            return dit([x.to(self.device)], t=torch.tensor([t], device=self.device),
                       context=[context.to(self.device)], seq_len=T * h * w // 4, **image)[0]

    # ----------------------------------------------------------- solver

    def scheduler(self):
        r = self.request
        if r["sampler"] == "unipc":
            from wan.utils.fm_solvers_unipc import FlowUniPCMultistepScheduler
            s = FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
            s.set_timesteps(r["steps"], device="cpu", shift=r["shift"])
        else:
            from wan.utils import fm_solvers
            s = fm_solvers.FlowDPMSolverMultistepScheduler(num_train_timesteps=1000, shift=1,
                                                           use_dynamic_shifting=False)
            fm_solvers.retrieve_timesteps(s, device="cpu",
                                          sigmas=fm_solvers.get_sampling_sigmas(r["steps"], r["shift"]))
        return s

    def timesteps(self):
        return self.scheduler().timesteps.tolist()

    def solver(self):
        s = self.scheduler()
        times = iter(s.timesteps)
        return lambda v, t, x: s.step(v[None], next(times), x[None], return_dict=False)[0][0]

    def video(self, latent):
        return self.vae().decode([latent.to(self.device)])[0].float().cpu()
