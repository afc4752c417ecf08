"""CTransPath: a Swin transformer (arXiv:2103.14030) behind a stem of convolutions, written from the papers, window by window.

Its weights are named as in timm 0.5.4, which the published ones were trained with: a stage ends with its downsampling.
"""

import torch
from dino_truth import Plain
from torch import Tensor, nn


class Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, width // 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 8),
            nn.ReLU(),
            nn.Conv2d(width // 8, width // 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width, 1),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    def __init__(self, width: int, n_heads: int, side: int) -> None:
        super().__init__()
        self.n_heads, self.side = n_heads, side
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, n_heads))
        steps = [(i // side, i % side) for i in range(side * side)]
        index = [
            [(a[0] - b[0] + side - 1) * (2 * side - 1) + a[1] - b[1] + side - 1 for b in steps] for a in steps
        ]
        self.register_buffer("relative_position_index", torch.tensor(index))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, may_see: Tensor) -> Tensor:
        """Attend within one window, (n, side², width), from a token to those that it may see."""
        query, key, value = self.qkv(x).tensor_split(3, dim=-1)
        width = x.shape[-1] // self.n_heads
        heads = []
        for h in range(self.n_heads):
            q, k, v = (t[..., h * width : (h + 1) * width] for t in (query, key, value))
            scores = torch.einsum("bid,bjd->bij", q, k) / width**0.5
            scores = scores + self.relative_position_bias_table[self.relative_position_index, h]
            # Upstream takes 100 off the score of what must not be seen.
            weights = torch.softmax(scores - 100.0 * (~may_see), dim=-1)
            heads.append(torch.einsum("bij,bjd->bid", weights, v))
        return self.proj(torch.cat(heads, dim=-1))


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int, grid: int, *, side: int, is_shifted: bool) -> None:
        super().__init__()
        self.side = min(side, grid)
        self.shift = self.side // 2 if is_shifted and grid > side else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, n_heads, self.side)
        self.mlp = Plain(width, 4 * width)
        if self.shift:  # the published buffer, which follows from the shape
            n_windows = (grid // self.side) ** 2
            self.register_buffer("attn_mask", torch.zeros(n_windows, self.side**2, self.side**2))

    def forward(self, x: Tensor) -> Tensor:
        n, grid, _, width = x.shape
        normed = torch.roll(self.norm1(x), (-self.shift, -self.shift), dims=(1, 2))
        # After the turn, rows from both ends of the image meet in the last window; they must not see each other.
        wrapped = torch.arange(grid) >= grid - self.shift
        attended = torch.empty_like(normed)
        for top in range(0, grid, self.side):
            for left in range(0, grid, self.side):
                rows, columns = slice(top, top + self.side), slice(left, left + self.side)
                region = (2 * wrapped[rows, None].int() + wrapped[None, columns].int()).flatten()
                may_see = region[:, None] == region[None, :]
                window = normed[:, rows, columns].reshape(n, -1, width)
                attended[:, rows, columns] = self.attn(window, may_see).reshape(
                    n, self.side, self.side, width
                )
        x = x + torch.roll(attended, (self.shift, self.shift), dims=(1, 2))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    def __init__(self, width: int, depth: int, n_heads: int, grid: int, *, side: int, is_last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, n_heads, grid, side=side, is_shifted=i % 2 == 1) for i in range(depth)
        )
        self.downsample = None if is_last else Merging(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class CTransPath(nn.Module):
    """Returns the mean of the tokens after the last normalisation."""

    def __init__(
        self,
        *,
        px: int = 224,
        width: int = 96,
        depths: tuple[int, ...],
        n_heads: tuple[int, ...],
        side: int = 7,
    ) -> None:
        super().__init__()
        self.patch_embed = Stem(width)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            Stage(width * 2**i, depth, heads, px // 4 // 2**i, side=side, is_last=i == last)
            for i, (depth, heads) in enumerate(zip(depths, n_heads, strict=True))
        )
        self.norm = nn.LayerNorm(width * 2**last)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).flatten(1, 2).mean(dim=1)
