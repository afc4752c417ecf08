"""The image towers of CONCH (doi:10.1038/s41591-024-02856-4) and CONCH v1.5 (doi:10.1038/s41591-025-03982-3).

Written from the papers and from the names in the checkpoints; the attention pooling of CONCH is open_clip's own.
"""

import torch
from dino_truth import DinoTransformer, attend
from open_clip.transformer import AttentionalPooler
from torch import Tensor, nn


class ConchTower(nn.Module):
    """``visual`` of the first CONCH: the trunk is timm's own transformer, whose weights keep their names."""

    def __init__(self, trunk: nn.Module, *, width: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = AttentionalPooler(dim, width, n_head=n_heads, n_queries=1)
        self.ln_contrast = nn.LayerNorm(dim)
        self.proj_contrast = nn.Parameter(torch.zeros(dim, dim))
        self.attn_pool_caption = AttentionalPooler(width, width, n_head=n_heads, n_queries=7)
        self.ln_caption = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Encode without the projection and without normalisation."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(images))[:, 0])


class Conch(nn.Module):
    """The tower among the other weights of the checkpoint."""

    def __init__(self, visual: ConchTower) -> None:
        super().__init__()
        self.visual = visual
        self.text = nn.ModuleDict({"token_embedding": nn.Embedding(5, 3), "ln_final": nn.LayerNorm(3)})
        self.text_decoder = nn.ModuleDict({"ln_final": nn.LayerNorm(3)})
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images)


class Pooler(nn.Module):
    """Attention of learned queries, without biases."""

    def __init__(self, width: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.ln_k, self.ln_q = nn.LayerNorm(width), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).tensor_split(2, dim=-1)
        return self.to_out(attend(query, key, value, self.n_heads))


class ConchV15(nn.Module):
    """The trunk is a transformer of DINO's kind, whose position embedding is resampled in each forward pass."""

    def __init__(self, trunk: DinoTransformer, *, width: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = Pooler(width, dim, n_heads)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.ln_contrast(self.attn_pool_contrast(self.trunk(images))[:, 0])
