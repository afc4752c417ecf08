"""MUSK: BEiT-3 (arXiv:2208.10442) with normalised sub-layers (arXiv:2210.06423), written from the papers.

Each layer has two branches, ``A`` for images and ``B`` for text; the weights are named as in the checkpoints of torchscale.
"""

import torch
from dino_truth import attend
from torch import Tensor, nn
from torch.nn import functional


def both(make: "type[nn.Module] | object", *args: int, **kwargs: object) -> nn.ModuleDict:
    return nn.ModuleDict({branch: make(*args, **kwargs) for branch in "AB"})


class SelfAttention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj, self.k_proj = both(nn.Linear, width, width), both(nn.Linear, width, width)
        self.v_proj, self.out_proj = both(nn.Linear, width, width), both(nn.Linear, width, width)
        self.inner_attn_ln = both(nn.LayerNorm, width)

    def forward(self, x: Tensor) -> Tensor:
        attended = attend(self.q_proj["A"](x), self.k_proj["A"](x), self.v_proj["A"](x), self.n_heads)
        return self.out_proj["A"](self.inner_attn_ln["A"](attended))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.ffn_layernorm(functional.gelu(self.fc1(x))))


class Layer(nn.Module):
    def __init__(self, width: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, n_heads)
        self.self_attn_layer_norm, self.final_layer_norm = (
            both(nn.LayerNorm, width),
            both(nn.LayerNorm, width),
        )
        self.ffn = both(FeedForward, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm["A"](x))
        return x + self.ffn["A"](self.final_layer_norm["A"](x))


class VisionEmbedding(nn.Module):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.proj = nn.Conv2d(3, width, patch_px, stride=patch_px)


class Encoder(nn.Module):
    def __init__(
        self, width: int, depth: int, n_heads: int, hidden: int, n_tokens: int, n_words: int
    ) -> None:
        super().__init__()
        self.embed_positions = nn.ModuleDict(
            # The first two rows belong to no position.
            {"A": nn.Embedding(2 + n_tokens, width), "B": nn.Embedding(2 + n_words, width)}
        )
        self.layers = nn.ModuleList(Layer(width, n_heads, hidden) for _ in range(depth))
        self.layer_norm = both(nn.LayerNorm, width)


class Beit3(nn.Module):
    def __init__(self, *, px: int, patch_px: int, width: int, depth: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.text_embed = nn.Embedding(11, width)
        self.vision_embed = VisionEmbedding(width, patch_px)
        self.encoder = Encoder(width, depth, n_heads, hidden, 1 + (px // patch_px) ** 2, 13)


class Musk(nn.Module):
    """Returns the class token after the last normalisation, neither projected nor normalised to length one."""

    def __init__(self, *, px: int, patch_px: int, width: int, depth: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.beit3 = Beit3(px=px, patch_px=patch_px, width=width, depth=depth, n_heads=n_heads, hidden=hidden)
        self.vision_head = nn.Linear(width, width, bias=False)
        self.language_head = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        embedding, encoder = self.beit3.vision_embed, self.beit3.encoder
        patches = embedding.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([embedding.cls_token.expand(len(images), -1, -1), patches], dim=1)
        x = x + encoder.embed_positions["A"](2 + torch.arange(x.shape[1]))
        for layer in encoder.layers:
            x = layer(x)
        return encoder.layer_norm["A"](x)[:, 0]
