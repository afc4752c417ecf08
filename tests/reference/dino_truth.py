"""The vision transformer of DINOv2 (arXiv:2304.07193, arXiv:2309.16588), written from the papers, slowly.

Its weights are named as in the checkpoints of facebookresearch/dinov2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor, n_heads: int) -> Tensor:
    """Attend head by head; all arguments are (n, n_tokens, width)."""
    width = query.shape[-1] // n_heads
    heads = []
    for h in range(n_heads):
        q, k, v = (x[..., h * width : (h + 1) * width] for x in (query, key, value))
        weights = torch.softmax(torch.einsum("bid,bjd->bij", q, k) / width**0.5, dim=-1)
        heads.append(torch.einsum("bij,bjd->bid", weights, v))
    return torch.cat(heads, dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(*self.qkv(x).tensor_split(3, dim=-1), self.n_heads))


class Gated(nn.Module):
    """SwiGLU: (silu(first half) * second half) of one map, then another."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, rest = self.w12(x).tensor_split(2, dim=-1)
        return self.w3(gate * torch.sigmoid(gate) * rest)


class Plain(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int, hidden: int, *, is_gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, n_heads)
        self.mlp = Gated(width, hidden) if is_gated else Plain(width, hidden)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)


class DinoTransformer(nn.Module):
    """Returns all tokens after the last normalisation: class token, registers, patches.

    Parameters
    ----------
    px
        Side of the images whose position embedding is learned; others get it resampled, by `offset` and
        `is_antialiased`.
    n_chunks
        Lists that the blocks are kept in, each padded in front so that block numbers continue; 0 for one.
    """

    def __init__(
        self,
        *,
        px: int,
        patch_px: int,
        width: int,
        depth: int,
        n_heads: int,
        hidden: int,
        is_gated: bool = False,
        n_registers: int = 0,
        n_chunks: int = 0,
        offset: float = 0.1,
        is_antialiased: bool = False,
        has_mask_token: bool = True,
    ) -> None:
        super().__init__()
        self.patch_px, self.offset, self.is_antialiased = patch_px, offset, is_antialiased
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (px // patch_px) ** 2, width))
        if n_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, n_registers, width))
        if has_mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbedding(width, patch_px)
        blocks = [Block(width, n_heads, hidden, is_gated=is_gated) for _ in range(depth)]
        self.in_order = tuple(blocks)
        self.blocks = nn.ModuleList(blocks)
        if n_chunks:
            size = depth // n_chunks
            starts = range(0, depth, size)
            self.blocks = nn.ModuleList(
                nn.ModuleList([*(nn.Identity() for _ in range(i)), *blocks[i : i + size]]) for i in starts
            )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        own, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return own, patches
        square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        target = (
            {"scale_factor": ((rows + self.offset) / side, (columns + self.offset) / side)}
            if self.offset
            else {"size": (rows, columns)}
        )
        square = functional.interpolate(square, mode="bicubic", antialias=self.is_antialiased, **target)
        assert square.shape[2:] == (rows, columns)
        return own, square.flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.patch_embed.proj(images)
        own, others = self.positions(*grid.shape[2:])
        n = len(images)
        tokens = [(self.cls_token + own).expand(n, -1, -1)]
        if hasattr(self, "register_tokens"):
            tokens.append(self.register_tokens.expand(n, -1, -1))
        x = torch.cat([*tokens, grid.flatten(2).transpose(1, 2) + others], dim=1)
        for block in self.in_order:
            x = block(x)
        return self.norm(x)
