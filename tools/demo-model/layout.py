# Write trained modules as a checkpoint in the official layout.
#
# This file is part of libwan; see the licence in wan.h.
"""A directory of files with the names, formats and tensors of the official Wan 2.1 downloads.

Matrices are stored in the 16-bit type that the official file has, the VAE's in float16, which loses
less of them than bfloat16; vectors and modulation tables stay float32. The same modules give the same bytes.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save

DIT = "diffusion_pytorch_model.safetensors"
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
VAE = "Wan2.1_VAE.pth"
CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
TOKENIZER = "google/umt5-xxl"
TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CLIP_HEAD = 80      # a checkpoint doesn't say how wide CLIP's heads are, libwan takes ViT-H's


def stored(module, dtype):
    """The state dict as it goes into a file; each tensor with a storage of its own."""
    state = {}
    for name, t in module.state_dict().items():
        table = t.squeeze().dim() < 2 or name.endswith("modulation")
        t = t.detach().to("cpu", torch.float32 if table else dtype, copy=True)
        if not t.isfinite().all():
            raise ValueError(f"{name} has values that {t.dtype} can't hold")
        state[name] = t.contiguous()
    return state


def config(dit, model_type, extra):
    """What the official config.json says, and the defaults of this model's own."""
    block = dit.blocks[0]
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": dit.patch_embedding.out_channels,
        "eps": 1e-06,
        "ffn_dim": block.ffn[0].out_features,
        "freq_dim": dit.freq_dim,
        "in_dim": dit.patch_embedding.in_channels,
        "model_type": model_type,
        "num_heads": dit.heads,
        "num_layers": len(dit.blocks),
        "out_dim": 16,
        "text_dim": dit.text_embedding[0].in_features,
        "text_len": 512,
        **extra,
    }


def write(folder, model_type, dit, t5, vae, tokenizer_dir, extra):
    if dit.text_embedding[0].in_features != t5.token_embedding.embedding_dim:
        raise ValueError("the transformer expects another width of text than the text encoder gives")
    folder, tokenizer_dir = pathlib.Path(folder), pathlib.Path(tokenizer_dir)
    (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_dir / name, folder / TOKENIZER / name)
    text = json.dumps(config(dit, model_type, extra), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    (folder / DIT).write_bytes(save(stored(dit, torch.bfloat16), {"format": "pt"}))
    torch.save(stored(t5, torch.bfloat16), folder / T5)
    torch.save(stored(vae, torch.float16), folder / VAE)


def write_t2v(folder, dit, t5, vae, tokenizer_dir, config_extra):
    """Write a text-to-video model; config_extra: size "160x96", frames, steps, guidance, shift."""
    if dit.img_emb:
        raise ValueError("a text-to-video model has no image branch")
    write(folder, "t2v", dit, t5, vae, tokenizer_dir, config_extra)


def write_i2v(folder, dit, t5, vae, tokenizer_dir, config_extra, clip):
    """Write an image-to-video model, of which the CLIP tower is a part."""
    dim = clip.visual.patch_embedding.out_channels
    if clip.visual.transformer[0].attn.heads * CLIP_HEAD != dim:
        raise ValueError(f"CLIP's heads are {CLIP_HEAD} wide, {dim} are not so many heads")
    if not dit.img_emb or dit.img_emb.proj[1].in_features != dim:
        raise ValueError("the transformer expects another width of image than CLIP gives")
    write(folder, "i2v", dit, t5, vae, tokenizer_dir, config_extra)
    torch.save(stored(clip, torch.float16), pathlib.Path(folder) / CLIP)


def read_t2v(folder, tokenizer_dir):
    """What write_t2v() wrote: the state dicts of vae, text and t2v in float32; the tokenizer goes to its folder."""
    folder, tokenizer_dir = pathlib.Path(folder), pathlib.Path(tokenizer_dir)
    tokenizer_dir.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(folder / TOKENIZER / name, tokenizer_dir / name)
    states = {"vae": torch.load(folder / VAE), "text": torch.load(folder / T5), "t2v": load_file(folder / DIT)}
    return {part: {name: t.float() for name, t in state.items()} for part, state in states.items()}
