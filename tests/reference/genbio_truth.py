"""GenBio-PathFM (doi:10.64898/2026.03.17.712534), written from its published source, slowly.

Its weights are named as in the published file. Rotary positions multiply pairs of numbers by
complex factors, in float32 (the original rounds them to bfloat16).
"""

import cmath
import math

import torch
from dino_truth import Scale, attend
from torch import Tensor, nn
from torch.nn import functional


class Periods(nn.Module):
    """Only names the periods of the rotary positions, which the published file holds."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.register_buffer("periods", torch.zeros(head_width // 4))


def turns(side: int, head_width: int) -> Tensor:
    """Complex factors, (side * side, head_width / 2): first those of the row, then those of the column."""
    rows = []
    for row in range(side):
        for column in range(side):
            factors = []
            for place in (row, column):
                coordinate = 2 * (place + 0.5) / side - 1
                for i in range(head_width // 4):
                    period = 100 ** (2 * i / (head_width // 2))
                    factors.append(cmath.exp(2j * math.pi * coordinate / period))
            rows.append(factors)
    return torch.tensor(rows, dtype=torch.complex64)


class Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def turned(self, x: Tensor, factors: Tensor) -> Tensor:
        """Turn the patches of every head; class token and registers stay."""
        n_patches, half = factors.shape
        heads = []
        for head in x.split(2 * half, dim=-1):
            prefix, patches = head[:, :-n_patches], head[:, -n_patches:]
            pairs = torch.complex(patches[..., :half], patches[..., half:]) * factors
            heads.append(torch.cat([prefix, torch.cat([pairs.real, pairs.imag], dim=-1)], dim=1))
        return torch.cat(heads, dim=-1)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        query, key, value = self.qkv(x).tensor_split(3, dim=-1)
        return self.proj(attend(self.turned(query, factors), self.turned(key, factors), value, self.n_heads))


class Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(functional.silu(self.w1(x)) * self.w2(x))


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, n_heads), Gated(width, hidden)
        self.ls1, self.ls2 = Scale(width), Scale(width)


class GenBio(nn.Module):
    """Returns the class tokens of the three channels, concatenated."""

    def __init__(self, *, width: int, depth: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, 4, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, width, kernel_size=16, stride=16)
        self.rope_embed = Periods(width // n_heads)
        self.blocks = nn.ModuleList([Block(width, n_heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.class_token(images[:, i : i + 1]) for i in range(3)], dim=1)

    def class_token(self, channel: Tensor) -> Tensor:
        grid = self.patch_embed.proj(channel)
        factors = turns(grid.shape[-1], grid.shape[1] // self.n_heads)
        prefix = torch.cat([self.cls_token, self.storage_tokens], dim=1).expand(len(channel), -1, -1)
        x = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            x = x + block.ls1(block.attn(block.norm1(x), factors))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return self.norm(x)[:, 0]
