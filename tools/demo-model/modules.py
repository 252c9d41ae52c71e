# The four networks of Wan 2.1 as PyTorch modules, to train small ones with.
#
# This file is part of libwan; see the licence in wan.h.
"""Vae, T5, Dit (and CausalDit) and ClipVision: the architecture of the official checkpoints in any size.

A module's state_dict() has exactly the official tensor names and shapes, so what is trained here is
loaded by libwan like any other checkpoint. check_modules.py compares every module with the reference
tensors in tests/golden.

Shapes stand at the right: B batch, L tokens, D width, n text tokens, T H W frames, rows, columns.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

# What libwan normalises a latent with: z = (mu - MEAN) / STD, channel by channel.
MEAN = torch.tensor([-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921])
STD = torch.tensor([2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160])

Z = 16              # latent channels
TEXT_ROWS = 512     # the transformer sees a text as this many rows, zeros behind its end


# The causal 3-D VAE. Activations are [B, T, H, W, C] in memory order: the norms and the pointwise
# convolutions work on the last axis, and a permuted view is what conv2d and conv3d are fastest with.

def conv3d(x, conv, stride=1):
    """The convolution's own padding in space, none in time. [B, T, H, W, C]"""
    B, T, H, _, C = x.shape
    pad = [0] + [k // 2 for k in conv.kernel_size[1:]]
    # For one sample of this size PyTorch takes a loop that is ten times as slow: two halves are two samples.
    halved = B == 1 and C * T * H <= 20480 and H % 2 == 0 and x.device.type == "cpu"
    if halved:
        x = F.pad(x, (0, 0, 0, 0, pad[1], pad[1]))
        x = torch.cat([x[:, :, :H // 2 + 2 * pad[1]], x[:, :, H // 2:]])
        pad[1] = 0
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), conv.weight, conv.bias, stride, pad).permute(0, 2, 3, 4, 1)
    return torch.cat([y[:1], y[1:]], 2) if halved else y


def causal_conv(x, conv):
    """A frame sees itself and the two before it; before the first there are zeros."""
    if x.shape[1] == 1:         # zeros times the two older taps
        y = F.conv3d(x.permute(0, 4, 1, 2, 3), conv.weight[:, :, 2:], conv.bias, 1,
                     [0] + [k // 2 for k in conv.kernel_size[1:]])
        return y.permute(0, 2, 3, 4, 1)
    return conv3d(F.pad(x, (0, 0, 0, 0, 0, 0, 2, 0)), conv)


def pointwise(x, conv):
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class NormSilu(torch.autograd.Function):
    """silu(x / |x| * sqrt(C) * gamma) behind two frames of zeros.

    By hand because it stands before every convolution: half the time of autograd's way on a CPU, and
    nothing but x and its norms is kept for the gradient.
    """

    @staticmethod
    def forward(ctx, x, gamma):
        B, T, *HWC = x.shape
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12)
        scale = HWC[-1] ** 0.5 / norm
        ctx.save_for_backward(x, scale, gamma)
        y = x.new_empty(B, T + 2, *HWC)
        y[:, :2] = 0
        torch.ops.aten.silu.out((x * scale).mul_(gamma), out=y[:, 2:])
        return y

    @staticmethod
    def backward(ctx, dy):
        x, scale, gamma = ctx.saved_tensors
        n = x * scale                                               # of length sqrt(C)
        d = torch.ops.aten.silu_backward(dy[:, 2:], n * gamma)
        dgamma = (d * n).flatten(0, -2).sum(0)
        d.mul_(gamma)
        along = torch.linalg.vecdot(d, n)[..., None] / x.shape[-1]
        return d.addcmul_(n, along, value=-1).mul_(scale), dgamma


class ChannelNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma, over the channels of one position."""

    def __init__(self, dim, axes):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * axes))

    def forward(self, x):
        return F.normalize(x, dim=-1) * (x.shape[-1] ** 0.5 * self.gamma.flatten())


def norm_conv(x, norm, conv):
    """conv(silu(norm(x))), causal."""
    return conv3d(NormSilu.apply(x, norm.gamma.flatten()), conv)


class Res(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))"""

    def __init__(self, dim, out):
        super().__init__()
        self.residual = nn.ModuleDict({
            "0": ChannelNorm(dim, 3), "2": nn.Conv3d(dim, out, 3),
            "3": ChannelNorm(out, 3), "6": nn.Conv3d(out, out, 3)})
        self.shortcut = nn.Conv3d(dim, out, 1) if dim != out else None

    def forward(self, x):
        r = self.residual
        y = norm_conv(x, r["0"], r["2"])
        y = norm_conv(y, r["3"], r["6"])
        return y + (pointwise(x, self.shortcut) if self.shortcut else x)


class FrameAttention(nn.Module):
    """Every position of a frame attends to all of that frame, with one head as wide as the channels."""

    def __init__(self, dim):
        super().__init__()
        self.norm = ChannelNorm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x):
        B, T, H, W, C = x.shape
        qkv = pointwise(self.norm(x), self.to_qkv).view(B * T, 1, H * W, 3 * C)
        y = F.scaled_dot_product_attention(*qkv.chunk(3, -1)).view(x.shape)
        return x + pointwise(y, self.proj)


def mostly_copy(conv, taps):
    """Start a temporal convolution as the mean of some of its taps, and a little noise."""
    C = conv.in_channels
    with torch.no_grad():
        conv.weight.mul_(0.25)
        for tap in taps:
            for c in range(conv.out_channels):
                conv.weight[c, c % C, tap] += 1 / len(taps)


class Down(nn.Module):
    """Half the rows and columns; with `time` half the frames too, the first one staying by itself."""

    def __init__(self, dim, time):
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(dim, dim, 3)})
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1)) if time else None
        if time:
            mostly_copy(self.time_conv, (1, 2))

    def forward(self, x):
        conv = self.resample["1"]
        y = F.pad(x, (0, 0, 0, 1, 0, 1)).flatten(0, 1).permute(0, 3, 1, 2)
        y = F.conv2d(y, conv.weight, conv.bias, 2).permute(0, 2, 3, 1)
        y = y.unflatten(0, x.shape[:2])
        if self.time_conv and y.shape[1] > 1:
            y = torch.cat([y[:, :1], conv3d(y, self.time_conv, (2, 1, 1))], 1)
        return y


class Up(nn.Module):
    """Twice the rows and columns, half the channels; with `time` T frames become 2T - 1 first.

    The first frame stays as it is and is not part of what the temporal convolution sees.
    """

    def __init__(self, dim, time):
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(dim, dim // 2, 3)})
        self.time_conv = nn.Conv3d(dim, 2 * dim, (3, 1, 1)) if time else None
        if time:
            mostly_copy(self.time_conv, (2,))

    def forward(self, x):
        if self.time_conv and x.shape[1] > 1:
            y = causal_conv(x[:, 1:], self.time_conv)               # [B, T-1, H, W, 2 C]
            y = y.unflatten(4, (2, -1)).movedim(4, 2).flatten(1, 2)
            x = torch.cat([x[:, :1], y], 1)
        conv = self.resample["1"]
        y = x.flatten(0, 1).permute(0, 3, 1, 2)
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        y = F.conv2d(y, conv.weight, conv.bias, padding=1).permute(0, 2, 3, 1)
        return y.unflatten(0, x.shape[:2])


def middle(dim):
    return nn.Sequential(Res(dim, dim), FrameAttention(dim), Res(dim, dim))


def head(dim, out):
    return nn.ModuleDict({"0": ChannelNorm(dim, 3), "2": nn.Conv3d(dim, out, 3)})


class Encoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1 = nn.Conv3d(3, dim, 3)
        self.downsamples = nn.Sequential(
            Res(dim, dim), Res(dim, dim), Down(dim, False),
            Res(dim, 2 * dim), Res(2 * dim, 2 * dim), Down(2 * dim, True),
            Res(2 * dim, 4 * dim), Res(4 * dim, 4 * dim), Down(4 * dim, True),
            Res(4 * dim, 4 * dim), Res(4 * dim, 4 * dim))
        self.middle = middle(4 * dim)
        self.head = head(4 * dim, 2 * Z)

    def forward(self, x):
        x = self.middle(self.downsamples(causal_conv(x, self.conv1)))
        return norm_conv(x, self.head["0"], self.head["2"])


class Decoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1 = nn.Conv3d(Z, 4 * dim, 3)
        self.middle = middle(4 * dim)
        self.upsamples = nn.Sequential(
            *[Res(4 * dim, 4 * dim) for _ in range(3)], Up(4 * dim, True),
            Res(2 * dim, 4 * dim), Res(4 * dim, 4 * dim), Res(4 * dim, 4 * dim), Up(4 * dim, True),
            *[Res(2 * dim, 2 * dim) for _ in range(3)], Up(2 * dim, False),
            *[Res(dim, dim) for _ in range(3)])
        self.head = head(dim, 3)

    def forward(self, z):
        x = self.upsamples(self.middle(causal_conv(z, self.conv1)))
        return norm_conv(x, self.head["0"], self.head["2"])


class Vae(nn.Module):
    """Video [B, 3, 4 k + 1, 8 h, 8 w] in -1..1 and back from a latent [B, 16, k + 1, h, w].

    Whole clips at a time: what libwan streams frame by frame is the same function.
    """

    def __init__(self, dim=96):
        super().__init__()
        self.encoder = Encoder(dim)
        self.conv1 = nn.Conv3d(2 * Z, 2 * Z, 1)
        self.conv2 = nn.Conv3d(Z, Z, 1)
        self.decoder = Decoder(dim)

    def encode(self, x):
        """Mean and log-variance of the latent, not normalised; inference uses the mean."""
        y = self.encoder(x.permute(0, 2, 3, 4, 1).contiguous())
        return pointwise(y, self.conv1).permute(0, 4, 1, 2, 3).chunk(2, 1)

    def decode(self, z):
        """Pixels, not clamped; z is not normalised: latent * STD + MEAN."""
        y = pointwise(z.permute(0, 2, 3, 4, 1).contiguous(), self.conv2)
        return self.decoder(y).permute(0, 4, 1, 2, 3)


# The text encoder.

def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)             # [B, heads, L, D / heads]


def join_heads(x):
    return x.transpose(1, 2).flatten(2)


@functools.lru_cache
def position_buckets(n, device):
    """Which of 32 learned biases a query at i gives the key at j: [i, j]."""
    distance = torch.arange(n, device=device) - torch.arange(n, device=device)[:, None]
    edges = torch.tensor([*range(1, 9), 12, 16, 23, 32, 46, 64, 91], device=device)
    return torch.bucketize(distance.abs(), edges, right=True) + 16 * (distance > 0)


class T5Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        for name in "qkvo":
            setattr(self, name, nn.Linear(dim, dim, bias=False))

    def forward(self, x, bias):
        q, k, v = (split_heads(w(x), self.heads) for w in (self.q, self.k, self.v))
        return self.o(join_heads(F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)))


class T5Ffn(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, ffn, bias=False), nn.GELU("tanh"))
        self.fc1 = nn.Linear(dim, ffn, bias=False)
        self.fc2 = nn.Linear(ffn, dim, bias=False)

    def forward(self, x):
        return self.fc2(self.gate(x) * self.fc1(x))


class T5Block(nn.Module):
    def __init__(self, dim, heads, ffn):
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-6)
        self.attn = T5Attention(dim, heads)
        self.norm2 = nn.RMSNorm(dim, eps=1e-6)
        self.ffn = T5Ffn(dim, ffn)
        self.pos_embedding = nn.ModuleDict({"embedding": nn.Embedding(32, heads)})

    def forward(self, x, buckets, mask):
        position = F.embedding(buckets, self.pos_embedding["embedding"].weight)
        x = x + self.attn(self.norm1(x), position.permute(2, 0, 1) + mask)
        return x + self.ffn(self.norm2(x))


class T5(nn.Module):
    """The encoder of UMT5: ids and mask [B, n] -> [B, n, dim], zeros where the mask is 0."""

    def __init__(self, vocab, dim, heads, ffn, layers):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(T5Block(dim, heads, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                fan = 1 if name.startswith("token") else \
                    64 * heads if "pos_embedding" in name else \
                    dim * dim // heads if ".q." in name else p.shape[1]
                nn.init.normal_(p, std=fan ** -0.5)

    def forward(self, ids, mask):
        x = self.token_embedding(ids)
        hidden = (mask == 0)[:, None, None]
        keys = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill(hidden, -torch.inf)
        buckets = position_buckets(ids.shape[1], ids.device)
        for block in self.blocks:
            x = block(x, buckets, keys)
        return self.norm(x) * (mask != 0)[..., None]


# The diffusion transformer.

@functools.lru_cache(maxsize=64)
def rope_table(grid, size, device, dtype):
    """The rotation of every pair of a head of `size` at every token of a (T, H, W) grid: [L, 1, size / 2].

    A third of the pairs turn with the row, a third with the column, the rest with the frame.
    """
    third = size // 2 // 3
    angles = []
    for axis, pairs in enumerate((size // 2 - 2 * third, third, third)):
        pos = torch.arange(grid[axis], dtype=torch.float64)
        angle = torch.outer(pos, 10000 ** -(torch.arange(pairs, dtype=torch.float64) / pairs))
        shape = [1, 1, 1, pairs]
        shape[axis] = grid[axis]
        angles.append(angle.view(shape).expand(*grid, pairs))
    angle = torch.cat(angles, -1).view(-1, 1, size // 2)
    return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


def rope(x, table):
    """Turn neighbours (2 j, 2 j + 1) of every head; x [B, L, D]."""
    B, L, D = x.shape
    y = torch.view_as_complex(x.to(table.real.dtype).reshape(B, L, -1, table.shape[-1], 2)) * table
    return torch.view_as_real(y).view(B, L, D).to(x.dtype)


def modulate(x, scale, shift):
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Attention(nn.Module):
    """Attention of the tokens to themselves, or to a text and with `image` to an image as well."""

    def __init__(self, dim, heads, image=False):
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v", "o") + (("k_img", "v_img") if image else ()):
            setattr(self, name, nn.Linear(dim, dim))
        for name in ("norm_q", "norm_k") + (("norm_k_img",) if image else ()):
            setattr(self, name, nn.RMSNorm(dim, eps=1e-6))

    def attend(self, q, k, v, bias=None):
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        return join_heads(F.scaled_dot_product_attention(q, k, v, bias))

    def forward(self, x, table):
        q = rope(self.norm_q(self.q(x)), table)
        k = rope(self.norm_k(self.k(x)), table)
        return self.o(self.attend(q, k, self.v(x)))

    def cross(self, x, text, bias, image):
        q = self.norm_q(self.q(x))
        y = self.attend(q, self.norm_k(self.k(text)), self.v(text), bias)
        if image is not None:
            y = y + self.attend(q, self.norm_k_img(self.k_img(image)), self.v_img(image))
        return self.o(y)


class Block(nn.Module):
    def __init__(self, dim, heads, ffn, image):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim ** 0.5)
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads, image)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU("tanh"), nn.Linear(ffn, dim))

    def forward(self, x, e0, table, text, bias, image):
        m = (self.modulation + e0)[:, :, None].unbind(1)            # 6 x [B, 1, D]
        x = torch.addcmul(x, self.self_attn(modulate(x, m[1], m[0]), table), m[2])
        x = x + self.cross_attn.cross(self.norm3(x), text, bias, image)
        return torch.addcmul(x, self.ffn(modulate(x, m[4], m[3])), m[5])


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim ** 0.5)
        self.head = nn.Linear(dim, 4 * Z)

    def forward(self, x, e):
        m = (self.modulation + e[:, None])[:, :, None].unbind(1)
        return self.head(modulate(x, m[1], m[0]))


class ImageEmbedding(nn.Module):
    def __init__(self, clip_dim, dim):
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(clip_dim), nn.Linear(clip_dim, clip_dim), nn.GELU(),
                                  nn.Linear(clip_dim, dim), nn.LayerNorm(dim))


class Dit(nn.Module):
    """The velocity (noise minus data) of a noisy latent at a time in 0..1000, given a text."""

    def __init__(self, dim, heads, ffn, layers, in_dim=Z, text_dim=4096, clip_dim=0, freq_dim=256):
        super().__init__()
        self.heads, self.freq_dim = heads, freq_dim
        self.patch_embedding = nn.Conv3d(in_dim, dim, (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_emb = ImageEmbedding(clip_dim, dim) if clip_dim else None
        self.blocks = nn.ModuleList(Block(dim, heads, ffn, clip_dim > 0) for _ in range(layers))
        self.head = Head(dim)

        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.data.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for m in (*self.text_embedding, *self.time_embedding):
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def time_features(self, t):
        half = self.freq_dim // 2
        w = 10000 ** -(torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angle = t.double()[:, None] * w
        return torch.cat([angle.cos(), angle.sin()], 1)

    def text_context(self, text, text_len):
        """Embedded rows and what is added to their scores: [B, n + 1, D], [B, 1, 1, n + 1].

        The rows between a text's end and TEXT_ROWS are zeros, so all alike behind the embedding: one
        such row stands at the end and counts for all of them, as its score gets the log of their number.
        """
        B, n = text.shape[:2]
        rest = (TEXT_ROWS - text_len).to(text.dtype).log()[:, None]     # log 0 = -inf: none is left
        past = torch.arange(n, device=text.device) >= text_len[:, None]
        bias = text.new_zeros(B, n).masked_fill(past, -torch.inf)
        bias = torch.cat([bias, rest], 1)[:, None, None]
        return self.text_embedding(F.pad(text, (0, 0, 0, 1))), bias

    def forward(self, x, t, text, text_len, clip=None):
        """Return v [B, 16, T, H, W].

        x    [B, in_dim, T, H, W]: the noisy latent; of an image model also the mask and the image's latent
        t    [B]: 1000 times the share of noise
        text [B, n, text_dim], of which the first text_len [B] rows count
        clip [B, 257, clip_dim]: an image model's view of its first frame
        """
        B, C, T, H, W = x.shape
        h, w, D = H // 2, W // 2, self.patch_embedding.out_channels
        double = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        table = rope_table((T, h, w), D // self.heads, x.device, double)

        e = self.time_embedding(self.time_features(t).to(x.dtype))      # [B, D]
        e0 = self.time_projection(e).unflatten(1, (6, D))
        text, bias = self.text_context(text, text_len)
        image = self.img_emb.proj(clip) if self.img_emb else None

        x = x.view(B, C, T, h, 2, w, 2).permute(0, 2, 3, 5, 1, 4, 6)    # patches of C, 2, 2
        x = F.linear(x.reshape(B, T * h * w, 4 * C), self.patch_embedding.weight.flatten(1),
                     self.patch_embedding.bias)                         # [B, L, D]
        for block in self.blocks:
            x = block(x, e0, table, text, bias, image)
        x = self.head(x, e).view(B, T, h, w, 2, 2, Z)                   # patches of 2, 2, Z
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(B, Z, T, H, W)


# The same transformer block by block.

class CausalDit(Dit):
    """The same tensors as a causal model of blocks of one latent frame ("Self Forcing", Huang et al. 2025): each
    frame has a time of its own, and sees of those before it the keys and values of a pass at time 0.

    T frames of P tokens each; window: how many frames one sees, itself included.
    """

    def __init__(self, *args, window, **kwargs):
        super().__init__(*args, **kwargs)
        self.window = window

    def per_frame(self, x, t):
        """Tokens [B, T, P, D] of latents [B, 16, T, H, W], and what their times [B, T] become."""
        B, C, T, H, W = x.shape
        h, w = H // 2, W // 2
        x = x.reshape(B, C, T, h, 2, w, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(B, T, h * w, 4 * C)
        x = F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        e = self.time_embedding(self.time_features(t.flatten()).to(x.dtype)).view(B, T, -1)
        return x, e, self.time_projection(e).unflatten(2, (6, -1))

    def velocity(self, x, e, size):
        """Tokens to [B, 16, T, H, W]."""
        B, T, _, _ = x.shape
        h, w = size[0] // 2, size[1] // 2
        m = (self.head.modulation + e[:, :, None]).unsqueeze(3).unbind(2)
        x = self.head.head(modulate(x, m[1], m[0])).view(B, T, h, w, 2, 2, Z)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(B, Z, T, *size)

    def layer(self, block, x, e0, table, attend, text, bias, whole=True):
        """One block on [B, T, P, D]. attend(q, k, v) looks after keys and values, [B, T P, D] each; not whole:
        those of this layer are all that is wanted."""
        B, T, P, D = x.shape
        m = (block.modulation + e0.flatten(0, 1)).view(B, T, 6, 1, D).unbind(2)
        a = block.self_attn
        y = modulate(x, m[1], m[0]).flatten(1, 2)
        q, k = rope(a.norm_q(a.q(y)), table), rope(a.norm_k(a.k(y)), table)
        y = attend(q, k, a.v(y))
        if not whole:
            return x
        x = torch.addcmul(x, a.o(y).view(x.shape), m[2])
        c = block.cross_attn
        q = c.norm_q(c.q(block.norm3(x).flatten(1, 2)))
        y = c.attend(q, c.norm_k(c.k(text)), c.v(text), bias)
        x = x + c.o(y).view(x.shape)
        return torch.addcmul(x, block.ffn(modulate(x, m[4], m[3])), m[5])

    def tables(self, frames, size):
        """Rotations of frames first..first + n - 1: [n P, 1, D / heads / 2]."""
        first, n = frames
        P = size[0] * size[1] // 4
        whole = rope_table((first + n, size[0] // 2, size[1] // 2), self.patch_embedding.out_channels // self.heads,
                           self.head.modulation.device,
                           torch.complex128 if self.head.modulation.dtype == torch.float64 else torch.complex64)
        return whole[first * P:]

    def context(self, texts, which):
        """Rows of some prompts a sample, and who sees which.

        texts  [(rows [B, n, dim], lengths [B])]
        which  [B, T]: the index into texts of each frame
        """
        parts = [self.text_context(*t) for t in texts]
        rows = torch.cat([p[0] for p in parts], 1)
        bias = torch.cat([torch.where((which == i)[:, None, :, None], p[1], -torch.inf)
                          for i, p in enumerate(parts)], 3)     # [B, 1, T, rows]
        return rows, bias

    def pairs(self, clean, noisy, sigma, texts, which):
        """The velocities of frames [B, 16, T, H, W] at sigma [B, T], each given the clean ones before it."""
        B, _, T, H, W = clean.shape
        x, e, e0 = self.per_frame(torch.cat([clean, noisy], 2), 1000 * torch.cat([torch.zeros_like(sigma), sigma], 1))
        P = x.shape[2]
        table = self.tables((0, T), (H, W)).repeat(2, 1, 1)
        rows, bias = self.context(texts, which.repeat(1, 2))
        bias = bias.repeat_interleave(P, 2)
        # A frame's queries meet those of the window alone: keys of N - 1 frames before it, then of its own.
        N = self.window
        before = torch.arange(T)[:, None] + torch.arange(1 - N, 0)         # [T, N - 1]
        mask = F.pad(before >= 0, (0, 1), value=True).repeat_interleave(P, 1)
        mask = clean.new_zeros(T, 1, 1, N * P).masked_fill(~mask[:, None, None], -torch.inf)
        before = before.clamp(min=0)

        def windows(past, own):
            """Keys or values [B, T P, D] of clean frames and of the frames themselves: [B, T, heads, N P, D / heads]."""
            past, own = (y.unflatten(1, (T, P)) for y in (past, own))
            y = torch.cat([past[:, before], own[:, :, None]], 2).flatten(2, 3)
            return y.unflatten(-1, (self.heads, -1)).transpose(2, 3)

        def attend_from(q, k, v):
            """Queries [B, T P, D]."""
            q = q.unflatten(1, (T, P)).unflatten(-1, (self.heads, -1)).transpose(2, 3)
            y = (torch.matmul(q * q.shape[-1] ** -0.5, k.mT) + mask.to(q.dtype)).softmax(-1)
            return torch.matmul(y, v).transpose(2, 3).flatten(3).flatten(1, 2)

        for i, block in enumerate(self.blocks):
            last = i + 1 == len(self.blocks)

            def attend(q, k, v):
                (qc, kc, vc), (qn, kn, vn) = (([y[:, :T * P] for y in (q, k, v)]), ([y[:, T * P:] for y in (q, k, v)]))
                noisy = attend_from(qn, windows(kc, kn), windows(vc, vn))
                if last:        # of the clean frames only keys and values are wanted
                    return torch.cat([torch.zeros_like(noisy), noisy], 1)
                return torch.cat([attend_from(qc, windows(kc, kc), windows(vc, vc)), noisy], 1)

            x = self.layer(block, x, e0, table, attend, rows, bias)
        return self.velocity(x[:, T:], e[:, T:], (H, W))


class Stream:
    """Frames one after another, as inference makes them: what is looked back on is kept."""

    def __init__(self, dit, size):
        self.dit, self.size, self.pos = dit, size, 0
        self.held = [[] for _ in dit.blocks]    # of each layer: (keys, values) of the frames that are held

    def run(self, x, t, text, keep):
        """One call on a frame [B, 16, 1, H, W]; keep: its clean pass, which gives no velocity."""
        dit = self.dit
        y, e, e0 = dit.per_frame(x, torch.full((len(x), 1), float(t)))
        table = dit.tables((self.pos, 1), self.size)
        rows, bias = dit.context([text], torch.zeros(len(x), 1, dtype=torch.long))
        for i, block in enumerate(dit.blocks):
            def attend(q, k, v):
                q, k, v = (split_heads(z, dit.heads) for z in (q, k, v))
                held = self.held[i][max(0, len(self.held[i]) + 1 - dit.window):]
                if keep:
                    self.held[i] = held + [(k, v)]
                    if i + 1 == len(dit.blocks):
                        return None
                return join_heads(F.scaled_dot_product_attention(
                    q, torch.cat([h[0] for h in held] + [k], 2), torch.cat([h[1] for h in held] + [v], 2)))

            y = dit.layer(block, y, e0, table, attend, rows, bias, whole=not keep or i + 1 < len(dit.blocks))
        return None if keep else dit.velocity(y, e, self.size)

    @torch.no_grad()
    def keep(self, x, text):
        """The clean pass over a frame: the next one is behind it."""
        self.run(x, 0, text, True)
        self.pos += 1

    @torch.no_grad()
    def steps(self, text, sigmas, generator=None):
        """A frame from noise, by way of those shares of it: each time to its end, and back with other noise. What it has
        come to with each."""
        shape, ends = (len(text[0]), Z, 1, *self.size), []
        x = torch.randn(shape, generator=generator)
        for s, after in zip(sigmas, (*sigmas[1:], 0)):
            ends.append(x - s * self.run(x, 1000 * s, text, False))
            x = (1 - after) * ends[-1] + after * torch.randn(shape, generator=generator)
        return ends

    def make(self, text, sigmas, generator=None):
        return self.steps(text, sigmas, generator)[-1]


# The image encoder.

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


class ClipAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = (split_heads(y, self.heads) for y in self.to_qkv(x).chunk(3, -1))
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v)))


class ClipBlock(nn.Module):
    def __init__(self, dim, heads, mlp):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ClipAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTower(nn.Module):
    def __init__(self, dim, heads, mlp, layers, embed):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, dim, 14, 14, bias=False)
        self.cls_embedding = nn.Parameter(torch.randn(1, 1, dim) / dim ** 0.5)
        self.pos_embedding = nn.Parameter(torch.randn(1, 257, dim) / dim ** 0.5)
        self.pre_norm = nn.LayerNorm(dim)
        self.transformer = nn.Sequential(*[ClipBlock(dim, heads, mlp) for _ in range(layers)])
        self.post_norm = nn.LayerNorm(dim)
        self.head = nn.Parameter(torch.randn(dim, embed) / dim ** 0.5)

    def forward(self, x):
        x = self.patch_embedding(x).flatten(2).mT                       # [B, 256, D]
        x = torch.cat([self.cls_embedding.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        return self.transformer[:-1](self.pre_norm(x))


class ClipVision(nn.Module):
    """What an image model sees of its image: the tokens before the last block, [B, 257, dim].

    The last block, the last norm and the projection into the space shared with texts are not run;
    a checkpoint holds them all the same.
    """

    def __init__(self, dim, heads, mlp, layers, embed=None):
        super().__init__()
        self.visual = VisionTower(dim, heads, mlp, layers, embed or dim)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)

    @staticmethod
    def preprocess(image):
        """An image [B, 3, H, W] in 0..1, squeezed to 224 x 224 and normalised."""
        x = F.interpolate(image, (224, 224), mode="bicubic", align_corners=False)
        mean, std = (v.to(x)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        return (x - mean) / std

    def forward(self, pixels):
        return self.visual(pixels)
